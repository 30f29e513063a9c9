"""`dss sweep`: students of each method at every combination of other settings, and their tables.

The same command continues a sweep that was interrupted: cells that are done are not trained again.
Started twice, it shares the work: each process claims a cell at a time. WORKERS does just that.
Owns what is printed and the files of the tables; --plan, --commands and --gather train nothing.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence

import jax
import rich.box
import rich.console
import rich.table
from etils import epath

from dss_jax.data import shared_tables
from dss_jax.experiments import (
  cells,
  handover,
  resolution,
  sweeping,
  t5x_commands,
  tables,
  workers,
)
from dss_jax.experiments.results import RESULTS, TEACHER
from dss_jax.experiments.sweeping import Sweep
from dss_jax.parallel import devices, distributed
from dss_jax.planning import prices, programs, sweep_plan
from dss_jax.runs import memory, run_config
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import fields, whole_files

RUN_FILE = 'runs/sweep.gin'
TABLE = 'table.md'
UNFINISHED = 1


@memory.explained(memory.TRAINING)
def main(argv: Sequence[str]) -> int:
  """Runs `dss sweep`; returns the exit code: 0 where every cell is done, or a signal stopped it."""
  workers.limit_cores()
  flags, rest = _flags(argv)
  with shared_tables.keeping():
    return _run(sweeping.read(rest, RUN_FILE), flags, rest)


def _run(sweep: Sweep, flags: argparse.Namespace, rest: Sequence[str]) -> int:
  """Does what the flags ask for; returns the exit code."""
  settings = sweep.settings
  if flags.plan:
    return _plan(sweep)
  if flags.commands:
    return _print_commands(sweep, rest, flags)
  if flags.gather is not None:
    return _report(sweep, flags.gather)
  if settings.cell is not None:
    sweep = sweep.only(settings.cell)
    return 0 if sweeping.work(sweep) or not sweep.missing() else UNFINISHED
  if distributed.is_multiprocess():
    raise ValueError(
      'a sweep is one process, but several may train one cell of it: --commands prints how. Or '
      'start it on each machine with a shared MODEL_DIR.'
    )
  if workers.is_worker():
    sweeping.work(sweep)
    return 0
  return 0 if _work(sweep, rest) else _report(sweep)


def _flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """The flags that are no settings, and the other arguments; `launch` has those after `--`."""
  given = list(argv)
  end = given.index('--') if '--' in given else len(given)
  parser = argparse.ArgumentParser(prog='dss sweep', add_help=False, allow_abbrev=False)
  what = parser.add_mutually_exclusive_group()
  what.add_argument('--plan', action='store_true')
  what.add_argument('--commands', metavar='TARGET')
  what.add_argument('--gather', nargs='?', const='', metavar='A,B')
  flags, rest = parser.parse_known_args(given[:end])
  if given[end:] and not flags.commands:
    raise ValueError('flags after -- are those of `dss launch`, for --commands=TARGET.')
  flags.launch = given[end + 1 :]
  return flags, rest


def _work(sweep: Sweep, argv: Sequence[str]) -> bool:
  """Trains what is not done, in this process or in several; returns whether a signal stopped it."""
  missing, folder = sweep.missing(), RunFolder(sweep.settings.model_dir).path
  distributed.log(f'{len(sweep.cells)} cells, of which {len(missing)} are to be trained')
  sweeping.note(sweep)
  count = min(_workers(sweep), len(missing))
  return workers.work_together(argv, count, folder) if count > 1 else sweeping.work(sweep)


def _workers(sweep: Sweep) -> int:
  """WORKERS, or as many as there are cores and memory for.

  Raises:
    ValueError: several processes cannot share the folder or the accelerator.
  """
  asked = sweep.settings.workers
  if asked == 1:
    return 1
  if '://' in str(sweep.settings.model_dir):
    raise ValueError(
      'a bucket has no locks, which WORKERS need: give WORKERS=1, or a local MODEL_DIR.'
    )
  if jax.default_backend() != 'cpu':
    raise ValueError('WORKERS share the cores of a CPU, but one process has the accelerator: 1.')
  students = [cell.method != TEACHER for cell in sweep.cells]
  needed = max(
    (memory.least_bytes(run_config.set_up_tasks(run))
     for run, is_student in zip(sweep.runs, students, strict=True) if is_student),
    default=1,
  )  # fmt: skip
  available = memory.available_bytes()
  available = needed * asked if available is None else available
  count = max(1, min(asked, devices.cores(), available // needed))
  if count < asked:
    distributed.log(
      f'WORKERS {asked}: {count} are started, since there are {devices.cores()} cores and '
      f'{available / 1e9:.1f} GB, of which a student takes {needed / 1e9:.1f} GB at least'
    )
  return count


def _report(sweep: Sweep, elsewhere: str = '') -> int:
  """Writes and prints the tables of what is done; returns the exit code.

  Args:
    sweep: it.
    elsewhere: more folders with cells of it, with commas between them.
  """
  places = [fields.expanded(place) for place in elsewhere.split(',') if place]
  for place in places:
    if not epath.Path(place).is_dir():
      raise ValueError(f'--gather: there is no folder {place}.')
  sweeping.note(sweep)
  found = sweep.outcomes(places)
  outcomes = [outcome for outcome in found if outcome is not None]
  folder = whole_files.absolute(sweep.settings.model_dir)
  if outcomes:
    rows = [json.dumps(cells.record(outcome)) + '\n' for outcome in outcomes]
    text = tables.markdown(outcomes, sweep.settings.methods[0])
    folder.mkdir(parents=True, exist_ok=True)
    whole_files.write_text(folder / RESULTS, ''.join(rows))
    whole_files.write_text(folder / TABLE, text)
    print(f'\n{text}\n{RESULTS} and {TABLE} are in {folder}.')
  missing = [
    cell.folder.name for cell, outcome in zip(sweep.cells, found, strict=True) if outcome is None
  ]
  if missing:
    print(f'{len(missing)} of {len(found)} cells are not done: {"; ".join(missing)}.')
  return UNFINISHED if missing else 0


def _print_commands(sweep: Sweep, argv: Sequence[str], flags: argparse.Namespace) -> int:
  settings = sweep.settings
  if flags.commands == 't5x':
    return _print_t5x_commands(sweep, flags.launch)
  logs = str(RunFolder(settings.model_dir).path / 'slurm')
  text = handover.commands(
    sweep.missing(), argv, flags.commands, flags.launch, settings.topology, logs
  )
  print(text, end='')
  after = shlex.join(['dss', 'sweep', *argv, '--gather'])
  print(f'then, for the tables: {after}', file=sys.stderr)
  return 0


def _print_t5x_commands(sweep: Sweep, launch: Sequence[str]) -> int:
  """A line for each student that T5X's trainer trains, whether or not ours did."""
  if launch:
    raise ValueError(f'--commands=t5x takes no flags after --, not {launch[0]!r}.')
  for cell, run in zip(sweep.cells, sweep.runs, strict=True):
    if cell.method != TEACHER:  # which trains nothing
      print(shlex.join(['dss', *t5x_commands.command(cell, run)]))
  return 0


def _plan(sweep: Sweep) -> int:
  """Prints what the sweep takes and what it can find; returns 1 where a cell does not fit."""
  settings, outcomes = sweep.settings, sweep.outcomes()
  topology = settings.topology or 'cpu'
  price = prices.dollars_per_hour(settings.price_file, topology)
  waiting = [
    (cell, run)
    for cell, run, outcome in zip(sweep.cells, sweep.runs, outcomes, strict=True)
    if outcome is None
  ]
  print(f'{len(sweep.cells)} cells, of which {len(waiting)} are to be trained.')
  found = []
  for group in sweep_plan.groups(waiting, topology, programs.compile_program):
    found.append(group)
    # Not distributed.log, which looks for devices: the compiler for TPUs may be installed here.
    print(f'compiled {group.name}: {group.compiled.seconds:.0f} s', file=sys.stderr, flush=True)
  if found:
    _print_groups(found)
    print(sweep_plan.total(found, topology, price))
  tests = resolution.tests_of(sweep.runs, settings.split)
  done = [outcome for outcome in outcomes if outcome is not None]
  for line in resolution.sentences(sweep.cells, tests, settings.split, done, settings.methods[0]):
    print(line)
  return UNFINISHED if any(group.compiled.fits is False for group in found) else 0


def _print_groups(found: Sequence[sweep_plan.Group]) -> None:
  table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
  for name in sweep_plan.HEAD:
    table.add_column(name, justify='left' if name == 'methods' else 'right')
  for group in found:
    table.add_row(*sweep_plan.line(group))
  console = rich.console.Console()
  if not console.is_terminal:
    console.width = tables.WIDTH
  console.print(table)
