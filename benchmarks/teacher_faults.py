"""SVAMP and CQA annotated through a server that fails, by processes that are killed.

    python benchmarks/teacher_faults.py --work=DIR [--raw_dir=DIR] [--storm_seconds=60]

The server answers with the release's recorded outputs, matched by the question; 5 % of its answers
are 429, 500, 503, broken JSON, no choices or a broken connection, and for a minute in the middle
all are 429. `dss annotate` runs into its limit in dollars, is raised, is killed twice with SIGKILL,
and goes on. At the end the prepared data must be what `dss prepare` makes of the release's files,
row by row; no question may have been answered again after its answer was kept; and what was spent
and reserved, looked at four times a second, may never have passed the limit. Results:
benchmarks/RESULTS.md.
"""

import argparse
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time

from dss_jax import datasets
from dss_jax.commands import annotate_options
from dss_jax.datasets import release
from dss_jax.settings import json_form
from dss_jax.teacher import prompts, store

NAMES = ('svamp', 'cqa')
SERVER = pathlib.Path(__file__).resolve().parent.parent / 'tests' / 'teacher_server.py'
MODEL = 'recorded'
PRICES = {MODEL: {'input': 0.4, 'cached_input': 0.1, 'output': 1.6}}
LOW, HIGH = 0.2, 12.0
"""Dollars: the first limit stops the run, the second is enough."""


def recorded(raw: pathlib.Path) -> dict[str, str]:
  """The release's completions by the question that our prompts ask."""
  found = {}
  for name in NAMES:
    dataset, prompt = datasets.get(name), prompts.load(name)
    for split in ('train', 'test'):
      files = release.split_files(dataset, raw, split)
      texts = [text for path in files.completions for text in json.loads(path.read_text())]
      rows = [row for _, row in dataset.read(files.rows)]
      found |= {prompt.question(row): text for row, text in zip(rows, texts, strict=True)}
  return found


class Show:
  """The server, the store, and what was seen of both."""

  def __init__(self, work: pathlib.Path, raw: pathlib.Path, storm_seconds: float):
    self.work, self.raw, self.log = work, raw, work / 'log.json'
    (work / 'answers.json').write_text(json.dumps(recorded(raw)))
    (work / 'prices.json').write_text(json.dumps(PRICES))
    words = [
      f'--answers={work}/answers.json', f'--log={self.log}', '--rate=0.05', '--delay=0.02',
      '--storm_at=6000', f'--storm_seconds={storm_seconds}',
    ]  # fmt: skip
    self.server = subprocess.Popen([sys.executable, str(SERVER), *words])
    while not self.log.exists():
      time.sleep(0.1)
    self.kept: list[tuple[str, set[str], dict[str, int]]] = []
    self.highest = 0.0

  def seen(self) -> dict:
    """What the server says of itself."""
    return json_form.read_object(self.log)

  def options(self, name: str, limit: float) -> list[str]:
    """The command line after `dss annotate`; the same for all runs but for the limit."""
    return [
      f'--dataset={name}', f'--raw_dir={self.raw}', f'--data_dir={self.work}/data',
      f'--store={self.work}/store.sqlite', f'--model={MODEL}', f'--base_url={self.seen()["url"]}',
      f'--price_file={self.work}/prices.json', f'--max_usd={limit}',
    ]  # fmt: skip

  def annotate(self, name: str, limit: float, kill_at: int | None = None) -> int:
    """Runs the command; kills it once the server has answered so many questions."""
    words = [sys.executable, '-m', 'dss_jax', 'annotate', *self.options(name, limit)]
    process = subprocess.Popen(words)
    while process.poll() is None:
      time.sleep(0.25)
      self.watch(limit)
      if kill_at is not None and self.seen()['answered'] >= kill_at:
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(1)  # for the server's log
        repeats = self.seen()['repeats']
        self.kept.append((name, self.answered(name, limit), repeats))
        print(f'killed; {len(self.kept[-1][1])} answers of {name} are kept', flush=True)
    return process.returncode

  def watch(self, limit: float) -> None:
    """Notes the most that was spent and reserved, as another process sees it."""
    path = self.work / 'store.sqlite'
    if path.exists():
      with sqlite3.connect(path, timeout=60) as sql:
        try:
          spent = sql.execute('SELECT spent + reserved FROM ledger').fetchone()[0] / 1e9
        except sqlite3.OperationalError:  # not made yet
          return
      assert spent <= limit, f'{spent} of {limit} dollars'
      self.highest = max(self.highest, spent)

  def answered(self, name: str, limit: float) -> set[str]:
    """The questions whose answers are kept."""
    job = annotate_options.settings(self.options(name, limit))
    kept, found = store.Store(self.work / 'store.sqlite'), set()
    for source in job.sources:
      for row in source.asked():
        (request,) = job.asking.requests(row)
        if (one := kept.find(request)) and one.answer:
          found.add(request.prompt[-1]['content'])
    kept.close()
    return found


def prepared(data_dir: pathlib.Path, name: str) -> dict[str, list[dict]]:
  """All rows of a prepared data set, by split."""
  from dss_jax.tasks import prepared as prepared_data

  source = prepared_data.PreparedSource(name, str(data_dir))
  splits = ('train', 'validation', 'test')
  return {
    split: [
      {field: str(value) for field, value in row.items()}
      for row in source.get_dataset(split, shuffle=False).as_numpy_iterator()
    ]
    for split in splits
  }


def main() -> None:
  """Runs the show, and fails if anything is not as it must be."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--work', required=True)
  parser.add_argument('--raw_dir', default=os.environ.get('DSS_RAW_DIR'))
  parser.add_argument('--storm_seconds', type=float, default=60)
  given = parser.parse_args()
  work = pathlib.Path(given.work).absolute()
  work.mkdir(parents=True)
  start = time.monotonic()
  show = Show(work, pathlib.Path(given.raw_dir), given.storm_seconds)
  try:
    assert show.annotate('svamp', LOW) == 2
    assert show.annotate('svamp', HIGH, kill_at=800) == -signal.SIGKILL
    assert show.annotate('svamp', HIGH) == 0
    assert show.annotate('cqa', HIGH, kill_at=7000) == -signal.SIGKILL
    assert show.annotate('cqa', HIGH) == 0
    time.sleep(1)
    seen = show.seen()
  finally:
    show.server.kill()
  took = time.monotonic() - start
  again = [
    question
    for _, kept, repeats in show.kept
    for question in kept
    if seen['repeats'].get(question, 1) != repeats.get(question, 1)
  ]
  kept = store.Store(work / 'store.sqlite')
  ledger = kept.ledger()
  kept.close()
  rows = compare(work, given.raw_dir)
  print(
    json.dumps(
      {
        'rows_equal': rows,
        'seconds': round(took),
        'server': {name: seen[name] for name in ('requests', 'answered', 'statuses')},
        'answered_twice': len(seen['repeats']),
        'answered_again_after_it_was_kept': len(again),
        'usd_spent': ledger.spent / 1e9,
        'usd_limit': HIGH,
        'most_spent_and_reserved': show.highest,
        'lost': ledger.lost,
      },
      indent=2,
    )
  )
  assert not again


def compare(work: pathlib.Path, raw_dir: str) -> int:
  """Prepares the release as it is, and compares every row; returns how many there are."""
  total = 0
  for name in NAMES:
    words = [f'--dataset={name}', f'--raw_dir={raw_dir}', f'--data_dir={work}/release']
    subprocess.run([sys.executable, '-m', 'dss_jax', 'prepare', *words], check=True)
    ours, theirs = prepared(work / 'data', name), prepared(work / 'release', name)
    assert ours == theirs, f'{name} differs'
    total += sum(map(len, ours.values()))
  return total


if __name__ == '__main__':
  main()
