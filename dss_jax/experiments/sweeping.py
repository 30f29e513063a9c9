"""A sweep whose settings are read: what is done of it, and training what is not.

Owns the order of cells and what a failure means for the others. A cell's training and file are
cells.py's; several processes are workers.py's.
"""

import contextlib
import dataclasses
import difflib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence

import jax
from etils import epath

from dss_jax.experiments import cells, comparison, configuration, results, workers
from dss_jax.experiments.cells import Outcome
from dss_jax.experiments.comparison import Cell, RunOf, SweepConfig
from dss_jax.parallel import distributed
from dss_jax.runs import memory, run_config
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import errors, gin_files, json_form, topologies, whole_files
from dss_jax.settings.printable import printable


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
  """A sweep whose settings are read.

  Attributes:
    settings: of the sweep.
    cells: what it trains.
    runs: the settings of each cell's run.
    run_of: reads them again, so that gin holds those of the cell that is trained next.
    devices: of the machine that trains them.
  """

  settings: SweepConfig
  cells: Sequence[Cell]
  runs: Sequence[run_config.RunConfig]
  run_of: RunOf
  devices: int

  def outcomes(self, elsewhere: Sequence[str] = ()) -> list[Outcome | None]:
    """What is done of each cell, in its folder or in one of that name in the others."""
    found = []
    for cell, run in zip(self.cells, self.runs, strict=True):
      folders = [cell.folder, *(epath.Path(place) / cell.folder.name for place in elsewhere)]
      done = (cells.done(cell, run, self.settings.split, folder) for folder in folders)
      found.append(next((one for one in done if one is not None), None))
    return found

  def missing(self) -> list[Cell]:
    """The cells that are not done."""
    pairs = zip(self.cells, self.outcomes(), strict=True)
    return [cell for cell, outcome in pairs if outcome is None]

  def only(self, name: str) -> 'Sweep':
    """The sweep of one cell.

    Raises:
      ValueError: there is no such cell; the message names near ones.
    """
    names = [cell.folder.name for cell in self.cells]
    if name not in names:
      near = difflib.get_close_matches(name, names, n=3, cutoff=0) or names[:3]
      raise ValueError(f'CELL is the folder of a cell, such as {"; ".join(near)}; not {name!r}.')
    place = names.index(name)
    return dataclasses.replace(self, cells=[self.cells[place]], runs=[self.runs[place]])


def read(argv: Sequence[str], run_file: str) -> Sweep:
  """The sweep of a command line.

  Args:
    argv: arguments after the verb.
    run_file: the verb's gin file.

  Raises:
    ValueError: settings that cannot be, or a MODEL_DIR that holds a run.
  """
  gin_files.parse(argv, run_file)
  settings: SweepConfig = gin_files.configured('comparison.SweepConfig')
  run_of = configuration.reader(argv, run_file)
  folder = RunFolder(settings.model_dir)
  if folder.settings_file.exists():
    raise ValueError(f'MODEL_DIR {folder} holds a run; name a folder for the students alone.')
  devices = _devices(settings)
  listed = comparison.cells(settings, run_of, devices=devices)
  runs = [run_of(cell.method, cell.macros) for cell in listed]
  return Sweep(settings, listed, runs, run_of, devices)


def _devices(settings: SweepConfig) -> int:
  """Of the machine that trains the cells: TOPOLOGY's, those that the sweep began with, or ours."""
  if settings.topology:
    return topologies.topology(settings.topology).devices
  file = epath.Path(settings.model_dir) / results.SWEEP_FILE
  noted = json_form.read_object(file).get('devices') if file.exists() else None
  return noted if isinstance(noted, int) else jax.device_count()


def note(sweep: Sweep) -> None:
  """Writes what the sweep asks for into its folder, where `dss report` looks for its cells."""
  if not distributed.is_main():
    return
  pairs = zip(sweep.cells, sweep.runs, strict=True)
  identities = {cell.folder.name: cells.identity(run, sweep.settings.split) for cell, run in pairs}
  folder = whole_files.absolute(sweep.settings.model_dir)
  folder.mkdir(parents=True, exist_ok=True)
  content = json.dumps({'devices': sweep.devices, 'cells': identities}, indent=2) + '\n'
  whole_files.write_text(folder / results.SWEEP_FILE, content)


def work(sweep: Sweep, is_failure_raised: bool = False) -> bool:
  """Trains every cell that is neither done nor claimed; returns whether a signal stopped it.

  Args:
    sweep: it.
    is_failure_raised: whether an error in a cell ends it; else the cell is named with its reason,
      and the others go on.
  """
  started, trained = time.monotonic(), 0
  for cell, asked in zip(sweep.cells, sweep.runs, strict=True):
    failures = Failures(cell)
    with cells.claim(cell) as is_ours:
      if not is_ours or failures.are_known():
        continue
      try:
        done = cells.done(cell, asked, sweep.settings.split)
        if done is not None:
          _write_rationales(sweep, done, asked)
          continue
        outcome, stops = _train(sweep, cell, asked)
        if outcome is not None and not stops:
          _write_rationales(sweep, outcome, asked)
      except Exception as error:
        if is_failure_raised or os.environ.get('DSS_TRACEBACK') or distributed.is_multiprocess():
          raise
        if not errors.is_users(error):
          traceback.print_exc()
        reason = str(error) or type(error).__name__
        print(printable(f'FAILED {cell.folder.name}: {reason}'), flush=True)
        failures.note()
        continue
    if outcome is None:
      return True
    trained += 1
    _print_progress(sweep, outcome, (time.monotonic() - started) / trained)
    if stops:
      return True
  return False


def _train(sweep: Sweep, cell: Cell, asked: run_config.RunConfig) -> tuple[Outcome | None, bool]:
  cells.set_aside(cell, asked, sweep.settings.split)
  with contextlib.redirect_stdout(sys.stderr), memory.explained(memory.TRAINING):
    run = sweep.run_of(cell.method, cell.macros)
    if run != asked:
      raise ValueError('a gin file of the sweep was changed since it began: start it again.')
    return cells.train(cell, run, sweep.settings.split)


def _write_rationales(sweep: Sweep, outcome: Outcome, run: run_config.RunConfig) -> None:
  count = min(sweep.settings.rationales, outcome.score.examples)
  if count and outcome.cell.method != results.TEACHER:
    with contextlib.redirect_stdout(sys.stderr), memory.explained(memory.DECODING):
      cells.write_rationales(run, sweep.settings.split, count)


class Failures:
  """Whether a cell has failed in this start of a sweep: its other workers do not try it again."""

  def __init__(self, cell: Cell):
    self._file = cell.folder.parent / cells.CLAIMS / f'{cell.folder.name}.failed'

  def are_known(self) -> bool:
    """Whether a worker of this start has noted one."""
    return self._file.exists() and self._file.read_text() == workers.start()

  def note(self) -> None:
    """Notes that the cell has failed."""
    self._file.parent.mkdir(parents=True, exist_ok=True)
    whole_files.write_text(self._file, workers.start())


def _print_progress(sweep: Sweep, outcome: Outcome, seconds_a_cell: float) -> None:
  if not distributed.is_main():
    return
  rest = len(sweep.missing())
  seconds = rest * seconds_a_cell / sweep.settings.workers
  print(
    f'{outcome.cell.folder.name}: {outcome.score.accuracy:.1%}, {outcome.score.seconds:.0f} s; '
    f'{rest} to go, eta {seconds // 3600:.0f}:{seconds % 3600 // 60:02.0f}',
    flush=True,
  )
