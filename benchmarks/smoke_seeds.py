"""The smoke run over several seeds: mean accuracies, and the mean gap with its 95 % interval.

    python benchmarks/smoke_seeds.py --work=DIR [--seeds=5] [--json=FILE] [SETTINGS]
    python benchmarks/smoke_seeds.py --read=FILE --column NAME SETTING... [--figure=docs/smoke.svg]

The first runs `dss compare --gin_file=runs/smoke.gin --random_seed=S SETTINGS` for each seed, in a
folder of DIR. A seed that is finished there is not run again. Settings are chosen on validation
with seeds of its own: `--first_seed=10 --compare_split=validation --learning_rate=1e-3`. The second
runs nothing: each column is the run of that name and those settings, from what `--json` kept.

Prints the accuracy of each column by seed, its mean, and the mean gap to the first column over the
same seeds, with intervals by Student's t over seeds and by a bootstrap over seeds and examples.
`--json` keeps which examples each run answers correctly. `--figure` needs matplotlib.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np

from dss_jax.experiments import statistics


def main() -> None:
  """Runs what is missing, then prints the table as Markdown and as a line of JSON."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--work', type=pathlib.Path)
  source.add_argument('--read', type=pathlib.Path)
  parser.add_argument('--column', action='append', default=[], nargs='+')
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--first_seed', type=int, default=0)
  parser.add_argument('--json', type=pathlib.Path, help='each run becomes a line at its end')
  parser.add_argument('--figure', type=pathlib.Path)
  options, settings = parser.parse_known_args()
  seeds = range(options.first_seed, options.first_seed + options.seeds)
  if options.read:
    columns = {
      ' '.join(column): _kept(options.read, *column, seeds=seeds) for column in options.column
    }
  else:
    runs = [_run(options.work / f'seed{seed}', seed, settings) for seed in seeds]
    if options.json:
      with options.json.open('a') as file:
        for seed, run in zip(seeds, runs, strict=True):
          file.writelines(f'{_record(seed, settings, name, run[name])}\n' for name in run)
    columns = {name: np.array([run[name] for run in runs], float) for name in runs[0]}
  first = next(iter(columns.values()))
  table = {name: _column(correct, first) for name, correct in columns.items()}
  print('| | accuracy by seed | mean | gap to the first | by seeds | by seeds and examples |')
  print('|---|---|---|---|---|---|')
  for name, row in table.items():
    each = ' '.join(f'{value:.1f}' for value in row['accuracy'])
    intervals = [f'{row[key][0]:+.1f} to {row[key][1]:+.1f}' for key in ('t', 'bootstrap')]
    print(f'| {name} | {each} | {row["mean"]:.1f} | {row["gap"]:+.1f} | {" | ".join(intervals)} |')
  print(json.dumps(table))
  if options.figure:
    _draw(table, options.figure)


def _run(folder: pathlib.Path, seed: int, settings: list[str]) -> dict[str, list[bool]]:
  """Whether each example is answered correctly, by column of the comparison."""
  if not (folder / 'comparison.json').exists():
    command = [sys.executable, '-m', 'dss_jax', 'compare', '--gin_file=runs/smoke.gin']
    command += [f'--model_dir={folder}', f'--random_seed={seed}', *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
  correct = {}
  for line in json.loads((folder / 'comparison.json').read_text()):
    (records,) = (folder / line['folder']).glob('*_*_*.jsonl')
    lines = records.read_text().splitlines()
    correct[line['name']] = [json.loads(one)['correct'] for one in lines]
  return correct


def _kept(path: pathlib.Path, name: str, *settings: str, seeds: range) -> np.ndarray:
  """Whether each example is answered correctly, [seeds, examples], of runs that `--json` kept."""
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  kept = {
    line['seed']: [*map(int, line['correct'])]
    for line in lines
    if line['run'] == name and {f'--{setting}' for setting in settings} <= {*line['settings']}
  }
  return np.array([kept[seed] for seed in seeds], float)


def _record(seed: int, settings: list[str], name: str, correct: list[bool]) -> str:
  bits = ''.join(str(int(one)) for one in correct)
  return json.dumps({'seed': seed, 'settings': settings, 'run': name, 'correct': bits})


def _column(correct: np.ndarray, baseline: np.ndarray) -> dict:
  """Percentages of one column [seeds, examples], and of its gap to the baseline's."""
  by_seed = 100 * (correct - baseline).mean(axis=1)
  gap = statistics.two_level_bootstrap(correct, baseline)
  return {
    'accuracy': (100 * correct.mean(axis=1)).tolist(),
    'mean': 100 * correct.mean(),
    'gap': by_seed.mean(),
    't': statistics.seed_interval(by_seed),
    'bootstrap': [100 * gap.low, 100 * gap.high],
  }


def _draw(table: dict, path: pathlib.Path) -> None:
  """One dot a seed and a bar at the mean, a row for each column."""
  import matplotlib

  matplotlib.use('svg')
  matplotlib.rcParams.update({'svg.fonttype': 'none', 'svg.hashsalt': 'dss_jax'})  # small, stable
  from matplotlib import pyplot

  names = [*table][::-1]
  figure, axes = pyplot.subplots(figsize=(6.4, 1.9), layout='constrained')
  for place, name in enumerate(names):
    color = '#b5502f' if name.startswith('dss') else '#5b6770'
    axes.plot(table[name]['accuracy'], [place] * len(table[name]['accuracy']), 'o', color=color)
    axes.plot([table[name]['mean']] * 2, [place - 0.3, place + 0.3], color=color, linewidth=3)
  axes.set_yticks(range(len(names)), [_title(name) for name in names])
  axes.set_ylim(-0.6, len(names) - 0.4)
  axes.set_xlabel('test accuracy, %: a dot a seed, a bar at the mean')
  for side in ('top', 'right'):
    axes.spines[side].set_visible(False)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, metadata={'Date': None})


def _title(column: str) -> str:
  return column.replace('dss', 'step by step').replace('learning_rate=', 'at ')


if __name__ == '__main__':
  main()
