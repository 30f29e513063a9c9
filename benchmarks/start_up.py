"""How long `dss train` takes to its first step, the first time and again, and its peak memory.

    python benchmarks/start_up.py --work=DIR --raw_dir=DIR [--json=FILE]

T5 1.1 small on prepared CQA, float32, AdamW. Three starts of one command in each round: with an
empty cache of compiled programs, then in a new folder with the cache that the first one left, then
continuing that folder after a signal. Time counts from the start of the process to the line of the
first step in metrics.jsonl. Memory is the most that the process held, in all and without files
that it maps (RssAnon), over the bytes of its state: parameters and AdamW's two moments; writing a
checkpoint at the end is in it. Also the time of `dss --help` and `dss prepare --help`.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

import pairs
import real_data

POLL_SECONDS = 0.02
STEPS_BEFORE_SIGNAL = 2
HELPS = (('--help',), ('prepare', '--help'), ('train', '--help'), ('import', '--help'))


def main() -> int:
  """Measures and prints."""
  options = _parser().parse_args()
  data_dir, vocabulary = real_data.prepare(options, 'cqa')
  work = options.work / 'start_up'
  starts: dict[str, list[dict[str, Any]]] = {'first': [], 'second': [], 'continued': []}
  for number in range(options.rounds):
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for kind, folder in (('first', 'a'), ('second', 'b'), ('continued', 'b')):
      found = start(work, work / folder, data_dir, vocabulary, options.rows)
      print(f'round {number} {kind}: {found}', file=sys.stderr, flush=True)
      starts[kind].append(found)
  state = json.loads((work / 'state.json').read_text())
  rows = [
    {'start': kind, **{name: statistics.median(one[name] for one in found) for name in found[0]}}
    for kind, found in starts.items()
  ]
  for row in rows:
    row['peak over state'] = row['peak, MB'] * 1e6 / state['bytes']
    row['RssAnon over state'] = row['RssAnon, MB'] * 1e6 / state['bytes']
  helps = {' '.join(words): help_seconds(words, options.rounds) for words in HELPS}
  cache = sum(file.stat().st_size for file in (work / 'cache').rglob('*') if file.is_file())
  print(f'\nMedian of {options.rounds}; state {state["bytes"] / 1e6:.0f} MB; '
        f'cache {cache / 1e6:.1f} MB:\n')  # fmt: skip
  print(pairs.table(rows))
  print('\nSeconds of dss ' + ', '.join(f'{name}: {value:.2f}' for name, value in helps.items()))
  machine = pairs.machine('jax')
  print(f'\n{machine}')
  pairs.write_json(options.json, {'machine': machine, 'starts': rows, 'help_seconds': helps,
                                  'state_bytes': state['bytes'], 'cache_bytes': cache})  # fmt: skip
  return 0


def start(
  work: pathlib.Path, folder: pathlib.Path, data_dir: str, vocabulary: str, rows: int
) -> dict[str, Any]:
  """Seconds to the first step of this start and the peaks of memory; then tells it to stop."""
  command = [
    sys.executable, '-m', 'dss_jax', 'train', '--gin_file=models/t5_1_1/small.gin',
    '--gin_file=datasets/cqa.gin', '--gin_file=methods/dss.gin', f'--vocabulary={vocabulary}',
    f'--data_dir={data_dir}', f'--model_dir={folder}', '--dtype=float32', '--log_period=1',
    f'--batch_size={rows}', '--eval_period=0',
  ]  # fmt: skip
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(work / 'cache'),
  }
  before = len(_steps(folder))
  with (work / f'{folder.name}.log').open('a') as log:
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
    first, worked, memory = None, 0.0, {'VmHWM': 0, 'RssAnon': 0}
    stopped = False
    while process.poll() is None:
      done = len(_steps(folder)) - before
      if first is None and done > 0:
        first, worked = time.perf_counter() - began, _processor_seconds(process.pid)
      for name, value in _memory(process.pid).items():
        memory[name] = max(memory[name], value)
      if done > STEPS_BEFORE_SIGNAL and not stopped:
        process.send_signal(signal.SIGTERM)
        stopped = True
      time.sleep(POLL_SECONDS)
    code = process.wait()
  if first is None or code:
    raise SystemExit(f'dss train ended with exit code {code}; see {log.name}.')
  if not (work / 'state.json').exists():
    (work / 'state.json').write_text(json.dumps({'bytes': state_bytes(folder)}))
  return {
    'to first step, s': round(first, 2),
    'processor, s': round(worked, 2),
    'peak, MB': memory['VmHWM'] / 1e6,
    'RssAnon, MB': memory['RssAnon'] / 1e6,
  }


def state_bytes(folder: pathlib.Path) -> int:
  """Bytes of the parameters and of AdamW's moments of a run."""
  code = (
    'import jax, sys\n'
    'from dss_jax.parallel import partitioning\n'
    'from dss_jax.models import t5\n'
    'from dss_jax.runs import run_config, run_folder\n'
    'from dss_jax.training import optimizers, train_state\n'
    'run = run_config.set_up_tasks(run_folder.RunFolder(sys.argv[1]).load_settings())\n'
    'optimizer = optimizers.make_optimizer(run.optimizer, t5.logical_axes(run.model))\n'
    'state = train_state.abstract(run.model, optimizer, partitioning.make_mesh(run.mesh))\n'
    'print(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)))\n'
  )
  run = [sys.executable, '-c', code, str(folder)]
  return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()[-1])


def help_seconds(words: tuple[str, ...], rounds: int) -> float:
  """Median time of `dss WORDS`."""

  def once() -> float:
    began = time.perf_counter()
    command = [sys.executable, '-m', 'dss_jax', *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began

  return statistics.median(once() for _ in range(rounds))


def _steps(folder: pathlib.Path) -> list[str]:
  metrics = folder / 'metrics.jsonl'
  return metrics.read_text().splitlines() if metrics.exists() else []


def _processor_seconds(process: int) -> float:
  """What a process has used of all cores so far: where others work too, it says more."""
  numbers = pathlib.Path(f'/proc/{process}/stat').read_text().rsplit(')', 1)[1].split()
  return sum(map(int, numbers[11:13])) / os.sysconf('SC_CLK_TCK')


def _memory(process: int) -> dict[str, int]:
  """VmHWM and RssAnon of a process in bytes."""
  try:
    status = pathlib.Path(f'/proc/{process}/status').read_text()
  except OSError:
    return {}
  values = dict(line.split(':', 1) for line in status.splitlines())
  return {
    name: int(values[name].split()[0]) * 1024 for name in ('VmHWM', 'RssAnon') if name in values
  }


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
  real_data.add_arguments(parser)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument(
    '--rows', type=int, default=4, help='of a batch: a step is a part of the time'
  )
  parser.add_argument('--json', help='a file for the figures')
  return parser


if __name__ == '__main__':
  sys.exit(main())
