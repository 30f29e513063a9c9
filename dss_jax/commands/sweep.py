"""`dss sweep`: students of each method at every combination of other settings, and their tables.

The same command continues a sweep that was interrupted: cells that are done are not trained again.
Started twice, it shares the work: each process claims a cell at a time. WORKERS does just that.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from etils import epath

from dss_jax.experiments import cells, comparison, configuration, tables
from dss_jax.experiments.cells import Outcome
from dss_jax.experiments.comparison import Cell, RunOf, SweepConfig
from dss_jax.experiments.results import RESULTS
from dss_jax.parallel import distributed
from dss_jax.runs import memory, run_config
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import errors, gin_files, whole_files
from dss_jax.settings.printable import printable

RUN_FILE = 'runs/sweep.gin'
TABLE = 'table.md'
WORKER = 'DSS_SWEEP_WORKER'  # in the environment of a worker: which one it is, and of how many
UNFINISHED = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
  """A sweep whose settings are read.

  Attributes:
    settings: of the sweep.
    cells: what it trains.
    runs: the settings of each cell's run.
    run_of: reads them again, so that gin holds those of the cell that is trained next.
  """

  settings: SweepConfig
  cells: Sequence[Cell]
  runs: Sequence[run_config.RunConfig]
  run_of: RunOf

  def outcomes(self) -> list[Outcome | None]:
    """What is done of each cell."""
    pairs = zip(self.cells, self.runs, strict=True)
    return [cells.done(cell, run, self.settings.split) for cell, run in pairs]


@memory.explained(memory.TRAINING)
def main(argv: Sequence[str]) -> int:
  """Runs `dss sweep`; returns the exit code: 0 where every cell is done, or a signal stopped it."""
  _limit_worker()
  gin_files.parse(argv, RUN_FILE)
  settings: SweepConfig = gin_files.configured('comparison.SweepConfig')
  run_of = configuration.reader(argv, RUN_FILE)
  listed = comparison.cells(settings, run_of)
  runs = [run_of(cell.method, cell.macros) for cell in listed]
  sweep = Sweep(settings, listed, runs, run_of)
  folder = RunFolder(settings.model_dir)
  if folder.settings_file.exists():
    raise ValueError(f'MODEL_DIR {folder} holds a run; name a folder for the sweep alone.')
  if settings.workers > 1 and '://' in str(folder):
    raise ValueError(
      'a bucket has no locks, which WORKERS need: give WORKERS=1, or a local MODEL_DIR.'
    )
  if distributed.is_multiprocess():
    raise ValueError('a sweep is one process; start it on each machine with a shared MODEL_DIR.')
  if WORKER in os.environ:
    _work(sweep)
    return 0
  waiting = sweep.outcomes().count(None)
  distributed.log(f'{len(listed)} cells, of which {waiting} are to be trained')
  if settings.workers > 1 and waiting > 1:
    stopped = _work_together(argv, min(settings.workers, waiting), folder.path)
  else:
    stopped = _work(sweep)
  return 0 if stopped else _report(sweep)


def _work(sweep: Sweep) -> bool:
  """Trains every cell that is neither done nor claimed; returns whether a signal stopped it.

  A cell that fails is named with its reason, and the others go on.
  """
  split, started, trained = sweep.settings.split, time.monotonic(), 0
  for cell, asked in zip(sweep.cells, sweep.runs, strict=True):
    with cells.claim(cell) as is_ours:
      if not is_ours or cells.done(cell, asked, split) is not None:
        continue
      try:
        cells.set_aside(cell, asked, split)
        with contextlib.redirect_stdout(sys.stderr), memory.explained(memory.TRAINING):
          outcome, stops = cells.train(cell, sweep.run_of(cell.method, cell.macros), split)
      except Exception as error:
        if os.environ.get('DSS_TRACEBACK') or not errors.is_users(error):
          raise
        print(printable(f'FAILED {cell.folder.name}: {error}'), flush=True)
        continue
    if outcome is None:
      return True
    trained += 1
    rest = sweep.outcomes().count(None)
    seconds = rest * (time.monotonic() - started) / trained / sweep.settings.workers
    print(
      f'{cell.folder.name}: {outcome.score.accuracy:.1%}, {outcome.score.seconds:.0f} s; '
      f'{rest} to go, eta {seconds // 3600:.0f}:{seconds % 3600 // 60:02.0f}',
      flush=True,
    )
    if stops:
      return True
  return False


def _work_together(argv: Sequence[str], workers: int, folder: epath.Path) -> bool:
  """Runs `_work` in several processes, each on its cores; returns whether a signal stopped them.

  Their logs are in the sweep's folder.
  """
  folder.mkdir(parents=True, exist_ok=True)
  command = [sys.executable, '-m', 'dss_jax', 'sweep', *argv]
  processes = []
  for number in range(workers):
    with open(folder / f'worker_{number}.log', 'ab') as log:
      environment = {**os.environ, WORKER: f'{number}/{workers}'}
      processes.append(subprocess.Popen(command, env=environment, stderr=log))
  stop, is_told = distributed.StopSignal(), False
  try:
    while any(process.poll() is None for process in processes):
      if stop.requested() and not is_told:
        is_told = True
        for process in processes:
          process.terminate()
      time.sleep(0.2)
  finally:
    stop.restore()
    for process in processes:
      process.terminate()  # where this process ends by an error; has no effect on one that ended
  for number, process in enumerate(processes):
    if process.returncode:
      print(f'worker {number} ended early; see {folder}/worker_{number}.log', file=sys.stderr)
  return stop.requested()


def _report(sweep: Sweep) -> int:
  """Writes and prints the tables of what is done; returns the exit code."""
  found = sweep.outcomes()
  outcomes = [outcome for outcome in found if outcome is not None]
  folder = whole_files.absolute(sweep.settings.model_dir)
  if outcomes:
    rows = [json.dumps(cells.record(outcome)) + '\n' for outcome in outcomes]
    text = tables.markdown(outcomes, sweep.settings.methods[0])
    whole_files.write_text(folder / RESULTS, ''.join(rows))
    whole_files.write_text(folder / TABLE, text)
    print(f'\n{text}\n{RESULTS} and {TABLE} are in {folder}.')
  missing = [
    cell.folder.name for cell, outcome in zip(sweep.cells, found, strict=True) if outcome is None
  ]
  if missing:
    print(f'{len(missing)} of {len(found)} cells are not done: {"; ".join(missing)}.')
  return UNFINISHED if missing else 0


def _limit_worker() -> None:
  """Keeps a worker on its share of the cores; called before JAX starts its threads."""
  if WORKER not in os.environ or not hasattr(os, 'sched_setaffinity'):
    return
  number, count = map(int, os.environ[WORKER].split('/'))
  cores = sorted(os.sched_getaffinity(0))
  if count <= len(cores):
    os.sched_setaffinity(0, cores[number::count])
