"""Which students a comparison or a sweep trains: methods, crossed with the values of any settings.

Owns the protocol. A cell's training and score are cells.py's, tables are tables.py's.

The protocol is the paper's: every method sees about as many labels a step. A batch of B rows of
labels is B rows for each method, and B more of rationales for one that learns these too; where
packing makes that more than a tenth of the labels wrong, rows are given by the labels that they
hold (labels.py). A method that learns more computes more, and tables say how much. There is also
the first method trained for more steps, with the compute of the costliest one.
"""

import contextlib
import dataclasses
import itertools
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from dss_jax import methods
from dss_jax.experiments import labels
from dss_jax.experiments.results import TEACHER
from dss_jax.parallel import partitioning
from dss_jax.runs import run_config
from dss_jax.settings import fields, topologies

_OF_THE_SWEEP = (
  'METHOD', 'METHODS', 'MODEL_DIR', 'EQUAL_COMPUTE', 'COMPARE_SPLIT', 'GRID', 'WORKERS',
  'TOPOLOGY', 'PRICE_FILE', 'CELL', 'RATIONALES',
)  # fmt: skip
TOLERANCE = 0.1  # of labels a step
LONGEST_VALUE = 40  # characters of a value in the name of a folder


@dataclasses.dataclass(frozen=True)
class SweepConfig:
  """Which students are trained and compared. `dss compare` is a sweep without a grid.

  Attributes:
    model_dir: folder of the sweep; each student's run is a folder below it.
    methods: names of methods, of files in methods/, or few_shot_cot, the teacher itself. All
      students start from the same parameters: the seed's, or INITIAL_CHECKPOINT_PATH's. BATCH_SIZE
      is the number of rows of a method with one row an example; others have as many as hold the
      same number of labels, within a tenth. If one of them cannot be packed, none is.
    equal_compute: whether the first method is also trained for more steps, until its compute is
      that of the costliest one.
    split: what the students are scored on.
    grid: the values of any macros, such as {'TRAIN_FRACTION': (0.25, 1.0), 'RANDOM_SEED': (0, 1)}.
      Every method is trained with each combination. GIN_FILE takes files. Accuracies are averaged
      over RANDOM_SEED. None: one of each method.
    workers: processes that train cells side by side, each on its share of the cores; on
      accelerators, 1.
    rationales: test examples, from the first on, for which each student also writes its rationale,
      to be read in `dss report`.
    topology: the machine of each cell, where that is another one; set by --topology.
    price_file: for --plan, JSON with dollars an hour of each topology, or None.
    cell: the one cell that is trained, by the name of its folder; None: all. Several processes may
      train one together, as a TPU slice does.
  """

  model_dir: fields.Path
  methods: Sequence[str] = ('standard', 'dss')
  equal_compute: bool = True
  split: str = 'test'
  grid: Mapping[str, Sequence[Any]] | None = None
  workers: int = 1
  rationales: int = 0
  topology: str | None = None
  price_file: fields.Path | None = None
  cell: str | None = None

  def __post_init__(self):
    fields.check(self)
    if not self.methods:
      raise ValueError('SweepConfig.methods (METHODS) names at least one method; it is empty.')
    if self.methods[0] == TEACHER:
      raise ValueError(
        f'METHODS starts with a student, to which others are compared: not {TEACHER}.'
      )
    if len(set(self.methods)) < len(self.methods):
      raise ValueError(
        f'SweepConfig.methods (METHODS) names each method once, not {list(self.methods)}.'
      )
    for name, values in (self.grid or {}).items():
      _check_axis(name, values)
    if self.workers < 1:
      raise ValueError(f'SweepConfig.workers (WORKERS) is at least 1, not {self.workers}.')
    if self.rationales < 0:
      raise ValueError(f'SweepConfig.rationales (RATIONALES) is 0 or more, not {self.rationales}.')
    if self.topology is not None:
      topologies.topology(self.topology)


def _check_axis(name: str, values: Sequence[Any]) -> None:
  if name in _OF_THE_SWEEP or name != name.upper():
    raise ValueError(
      f'GRID has macros of a run, such as LEARNING_RATE, in capitals; not {name}. Methods are '
      'in METHODS, and a cell has a folder of its own.'
    )
  shown = [str(value) for value in values]
  if not shown or len(set(shown)) < len(shown):
    raise ValueError(f'GRID needs values of {name}, each once, not {list(values)}.')


class Cell(NamedTuple):
  """A student to train.

  Attributes:
    name: of its line in a table: the method, and how it was trained if that differs.
    method: whose run it is.
    axes: its values of the grid.
    macros: settings that differ from those of the method's run, by macro.
    compute: of its training, as a multiple of the first method's at the same axes.
  """

  name: str
  method: str
  axes: Mapping[str, Any]
  macros: Mapping[str, Any]
  compute: float

  @property
  def folder(self) -> epath.Path:
    """Of its run."""
    return epath.Path(self.macros['MODEL_DIR'])


RunOf = Callable[[str, Mapping[str, Any]], run_config.RunConfig]
"""From a method's name and macros to the settings of its run."""


def cells(
  compared: SweepConfig,
  run_of: RunOf,
  labels_per_row: Callable[[run_config.RunConfig], float] = labels.per_row,
  devices: int | None = None,
) -> list[Cell]:
  """The cells of a comparison or sweep, in the order of the table.

  Args:
    compared: what is compared.
    run_of: gives the settings of a run, before any protocol.
    labels_per_row: gives the labels in a row of a run's batches, on average.
    devices: of the machine that trains them, by which batches can be divided; None: this one's.
  """
  devices = devices or jax.device_count()
  grid = compared.grid or {}
  combinations = [
    dict(zip(grid, combination, strict=True)) for combination in itertools.product(*grid.values())
  ]
  return [
    cell
    for axes in combinations
    for cell in _cells_at(compared, axes, run_of, labels_per_row, devices)
  ]


def _cells_at(
  compared: SweepConfig,
  axes: Mapping[str, Any],
  run_of: RunOf,
  labels_per_row: Callable[[run_config.RunConfig], float],
  devices: int,
) -> Iterator[Cell]:
  """The cells of all methods with the same values of the grid."""
  students = [name for name in compared.methods if name != TEACHER]
  runs = {name: run_of(name, axes) for name in students}
  # A packed row holds several labels: one that is not packed would have fewer of them a step.
  unpacked: dict[str, Any] = {}
  if not all(run.data.pack for run in runs.values()):
    unpacked = {'PACK': False}
    runs = {name: run_of(name, {**axes, **unpacked}) for name in students}
  in_row = {name: 1 / run_config.rows_per_example(run) for name, run in runs.items()}
  with contextlib.suppress(ValueError):  # of data that cannot be read: its training will say so
    in_row = {name: labels_per_row(run) for name, run in runs.items()}
  # Of a method with one row an example, or what one would have: whichever methods are asked for.
  per_example = {name: run_config.rows_per_example(run) for name, run in runs.items()}
  plainest = min(students, key=per_example.__getitem__)
  labels_of_one = in_row[plainest] * per_example[plainest]
  rows = {name: _rows(run, labels_of_one, in_row[name], devices) for name, run in runs.items()}
  passes = {name: (run.method or methods.get(methods.DEFAULT)).passes for name, run in runs.items()}
  work = {name: rows[name] * passes[name] * run.train_steps for name, run in runs.items()}
  first = students[0]

  def cell(title: str, method: str, compute: float, **macros: int) -> Cell:
    values = ''.join(f',{name.lower()}={_slug(value)}' for name, value in axes.items())
    folder = epath.Path(compared.model_dir) / (re.sub(r'\W+', '_', title) + values)
    place = {'MODEL_DIR': str(folder)}
    return Cell(title, method, axes, {**axes, **place, **unpacked, **macros}, compute)

  for name in compared.methods:
    if name == TEACHER:
      yield cell(name, name, 0.0)
    else:
      yield cell(name, name, work[name] / work[first], BATCH_SIZE=rows[name])
  ratio = max(work.values()) / work[first]
  if compared.equal_compute and ratio > 1.0:
    steps = round(runs[first].train_steps * ratio)
    title = f'{first}, equal compute'
    yield cell(title, first, ratio, BATCH_SIZE=rows[first], TRAIN_STEPS_RELATIVE=steps)


def _rows(run: run_config.RunConfig, labels_of_one: float, labels_here: float, devices: int) -> int:
  """The rows of a batch with as many labels as BATCH_SIZE rows of a method with one an example.

  Args:
    run: whose batch.
    labels_of_one: in a row of such a method.
    labels_here: in a row of this one.
    devices: of the machine.
  """
  each = run_config.rows_per_example(run)
  if abs(each * labels_here / labels_of_one - 1) <= TOLERANCE:
    return run.data.batch_size * each
  method = run.method or methods.get(methods.DEFAULT)
  sizes = partitioning.mesh_sizes(run.mesh, devices)
  unit = sizes[0] * sizes[1] * run.num_microbatches
  unit *= run_config.rows_per_example(run) if method.is_grouped else 1
  return unit * max(1, round(run.data.batch_size * labels_of_one / labels_here / unit))


def _slug(value: Any) -> str:
  """A value as part of a folder's name, different for different values."""
  text = str(value)
  plain = re.sub(r'[^\w.+-]+', '_', text)
  if plain == text and len(text) <= LONGEST_VALUE:
    return text
  return f'{plain[-LONGEST_VALUE:]}_{zlib.crc32(text.encode()):08x}'
