"""What a sweep takes before it runs: memory and time of its programs, hours and dollars.

Owns the sums over cells. Cells with the same update are one group, compiled once; on a CPU its
time is measured, on a TPU it is the compiler's estimate. Starts, validation, scoring and waiting
for machines are not counted.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

from dss_jax.datasets import rows
from dss_jax.experiments.comparison import Cell
from dss_jax.experiments.results import TEACHER
from dss_jax.planning import checks, estimate, plans, programs
from dss_jax.planning.programs import Compiled, Program
from dss_jax.planning.report import size_text
from dss_jax.runs import run_config
from dss_jax.runs.run_config import RunConfig
from dss_jax.settings import topologies


@dataclasses.dataclass(frozen=True)
class Group:
  """Cells that train with the same update.

  Attributes:
    name: of their methods.
    program: the update.
    cells: how many there are.
    steps: updates of all of them.
    compiled: the compiler's answer.
    seconds: of an update; None where it is not known.
  """

  name: str
  program: Program
  cells: int
  steps: int
  compiled: Compiled
  seconds: float | None

  @property
  def hours(self) -> float | None:
    """Of all updates, on the whole machine."""
    return None if self.seconds is None else self.steps * self.seconds / 3600


def groups(
  cells: Sequence[tuple[Cell, RunConfig]],
  topology: str,
  compiler: plans.Compiler = programs.compile_program,
) -> Iterator[Group]:
  """The groups of a sweep, each as soon as its program is compiled.

  Args:
    cells: of the sweep, with their settings.
    topology: the machine of each cell.
    compiler: gives the compiler's answer.

  Raises:
    ValueError: a mesh or batch that does not fit the machine, or a compiler that is not installed.
    ChildProcessError: the compiler crashed.
  """
  members: dict[Program, list[tuple[Cell, RunConfig]]] = {}
  for cell, run in cells:
    if cell.method != TEACHER:
      with rows.at(cell.folder.name):
        program = plans.program_of(_sized(run), topology, is_timed=True)
      members.setdefault(program, []).append((cell, run))
  machine = topologies.topology(topology)
  for program, pairs in members.items():
    compiled = compiler(program)
    seconds = compiled.measured_seconds
    if compiled.costs is not None and machine.clock is not None:
      seconds = estimate.seconds(compiled.costs, machine).step
    names = dict.fromkeys(cell.name for cell, _ in pairs)
    steps = sum(run.train_steps for _, run in pairs)
    yield Group('; '.join(names), program, len(pairs), steps, compiled, seconds)


def _sized(run: RunConfig) -> RunConfig:
  """The run with the size of its vocabulary, or of T5's own where it cannot be read."""
  with contextlib.suppress(ValueError):
    run = run_config.set_up_tasks(run)
  return checks.with_vocab_size(run)


HEAD = ('methods', 'layers', 'rows', 'lengths', 'cells', 'steps', 'memory', 's/step', 'hours')


def line(group: Group) -> tuple[str, ...]:
  """A group as the cells of a table."""
  program, memory = group.program, group.compiled.memory.total
  fits = ', does not fit' if group.compiled.fits is False else ''
  model = program.model
  return (
    group.name,
    f'{model.num_encoder_layers}+{model.num_decoder_layers} x {model.emb_dim}',
    str(program.rows),
    f'{program.inputs}/{program.targets}',
    str(group.cells),
    f'{group.steps:,}',
    size_text(memory) + fits,
    '' if group.seconds is None else f'{group.seconds:.3g}',
    '' if group.hours is None else f'{group.hours:.2f}',
  )


def total(found: Sequence[Group], topology: str, dollars_per_hour: float | None) -> str:
  """One sentence: cells, hours, dollars."""
  hours = [group.hours for group in found]
  cells = f'{sum(group.cells for group in found)} students'
  if not all(group.compiled.fits is not False for group in found):
    return f'{cells}; not all of them fit on {topology}.'
  known = [one for one in hours if one is not None]
  if len(known) < len(hours):
    return f'{cells}; how long an update takes on {topology} is not known.'
  how = 'measured here' if topology == 'cpu' else "the compiler's estimate"
  text = f'{cells}, {sum(known):,.1f} hours of {topology} ({how}; starts and scoring left out)'
  if dollars_per_hour is not None:
    text += f', ${sum(known) * dollars_per_hour:,.2f} at ${dollars_per_hour:g} an hour'
  return text + '.'
