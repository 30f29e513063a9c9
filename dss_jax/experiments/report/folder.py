"""The folder of a sweep as a report reads it: its finished cells, whatever wrote them.

Owns finding and checking them; imports neither TensorFlow nor JAX, since a report is read in
seconds. Answers and texts are
records.py's, statistics are series.py's.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from dss_jax.datasets import rows
from dss_jax.experiments import results
from dss_jax.experiments.report import student_size
from dss_jax.experiments.results import Score
from dss_jax.methods import derived
from dss_jax.methods.base import fields_of
from dss_jax.runs import file_names
from dss_jax.settings import fields, json_form, plain_files
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.printable import one_line

FRACTION = 'TRAIN_FRACTION'
BASELINE = 'standard'
"""What others are compared to, unless the folder or the user says otherwise."""
_ASIDE = '.before_'
_NO_QUESTIONS = ('vocabulary', 'rationale_scores')  # of what a run reads


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """A finished cell.

  Attributes:
    label: its folder's name, with the sweep's in front where two are compared.
    path: its folder; None where only the sweep's results were kept.
    name: of the method, and how it was trained if that differs.
    method: whose run it is.
    axes: its values of the grid.
    score: its accuracy and how it was trained.
    correct: which answers are right, bool [items].
    split: what it was scored on; '' if unknown.
    settings: of its run, as in config.json; {} if unknown.
    reads: identities of the data that it read; {} if unknown.
  """

  label: str
  path: epath.Path | None
  name: str
  method: str
  axes: Mapping[str, Any]
  score: Score
  correct: np.ndarray
  split: str = ''
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  reads: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def is_teacher(self) -> bool:
    """Whether its answers are the teacher's own."""
    return self.method == results.TEACHER

  @property
  def is_equal_labels(self) -> bool:
    """Whether it sees as many labels a step as all methods do; else it was trained longer."""
    return self.name == self.method or self.is_teacher

  @property
  def seed(self) -> Any:
    """Its seed, or None."""
    return self.axes.get(results.SEED)

  @functools.cached_property
  def fraction(self) -> float:
    """The share of the training data, in (0, 1]."""
    data = self.settings.get('data')
    value = data.get('fraction') if isinstance(data, Mapping) else None
    value = self.axes.get(FRACTION, 1.0) if value is None else value
    return float(value) if fields.fits(value, float) else 1.0

  @functools.cached_property
  def parameters(self) -> int | None:
    """How many parameters the student has; None if unknown."""
    return None if self.is_teacher else student_size.parameters(self.settings.get('model'))

  @property
  def questions(self) -> tuple[Any, ...]:
    """What it was asked: runs with the same can be paired."""
    data = {name: value for name, value in self.reads.items() if name not in _NO_QUESTIONS}
    return len(self.correct), self.split, str(sorted(data.items()))

  @functools.cached_property
  def learns_rationales(self) -> bool:
    """Whether training needs what a teacher wrote beside its label."""
    return 'rationale' in self._sources('rows')

  @property
  def learns_teachers_text(self) -> bool:
    """Whether a row's whole target is the teacher's rationale, as it is."""
    rows = self._method.get('rows')
    listed = rows if isinstance(rows, list) else []
    return any(isinstance(row, Mapping) and row.get('target') == '{rationale}' for row in listed)

  @property
  def learns_teacher_labels(self) -> bool:
    """Whether its labels are the teacher's, so that no human wrote any."""
    return self._method.get('label_source') == 'teacher'

  @property
  def asks_the_teacher(self) -> bool:
    """Whether the teacher is needed for every answer too."""
    return 'rationale' in self._sources('answer')

  @property
  def _method(self) -> Mapping[str, Any]:
    found = self.settings.get('method')
    return found if isinstance(found, Mapping) else {}

  def _sources(self, name: str) -> frozenset[str]:
    """The fields of a source that templates read: of its rows, or of its question."""
    found = self._method.get(name)
    listed = found if isinstance(found, list) else [found]
    parts = ('input',) if name == 'answer' else ('input', 'target')
    texts = [row.get(part) for row in listed if isinstance(row, Mapping) for part in parts]
    names: frozenset[str] = frozenset()
    for text in texts:
      try:
        names |= fields_of(text) if isinstance(text, str) else frozenset()
      except ValueError:  # a template of somebody else's
        continue
    return derived.sources_of(names)


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
  """A sweep that was read.

  Attributes:
    path: as it was given.
    runs: its finished cells; the order is that of the sweep's table, else of names.
    unfinished: folders of cells that are not done.
    baseline: the method that others are compared to.
  """

  path: epath.Path
  runs: tuple[Run, ...]
  unfinished: tuple[str, ...]
  baseline: str

  @property
  def students(self) -> tuple[Run, ...]:
    """The runs without the teacher's."""
    return tuple(run for run in self.runs if not run.is_teacher)


def read(path: epath.PathLike, baseline: str | None = None, prefix: str = '') -> Sweep:
  """Reads what is done of a sweep.

  Args:
    path: folder of `dss sweep` or `dss compare`, local or gs://, or a file of its results.jsonl.
    baseline: the method that others are compared to; None: the sweep's first one.
    prefix: before the name of each run.

  Raises:
    ConfigError: no cell is done, a file is damaged, or no student is of the baseline.
  """
  path = epath.Path(path)
  if path.is_dir():
    listed = _listed(path / results.RESULTS, prefix)
    order = {run.score.folder: place for place, run in enumerate(listed)}
    found, unfinished = _cells(path, prefix)
    # The others were gathered from elsewhere, or only the results were kept.
    there = {one.name.split(_ASIDE)[0] for one in path.iterdir() if one.is_dir()}
    found += [run for run in listed if run.score.folder not in there]
    unfinished = [name for name in unfinished if name in there or name not in order]
    found.sort(key=lambda run: (order.get(run.score.folder, len(order)), run.label))
  elif path.exists():
    listed = found = _listed(path, prefix)
    unfinished = []
  else:
    raise ConfigError(f'{path} does not exist; expected the folder of a `dss sweep`.')
  students = list(dict.fromkeys(run.method for run in found if not run.is_teacher))
  if not students:
    raise ConfigError(
      f'{path} has no finished student ({len(unfinished)} cells are not done): expected the '
      'MODEL_DIR of a `dss sweep` or `dss compare`, or its results.jsonl.'
    )
  first = BASELINE if BASELINE in students else students[0]
  first = next((run.method for run in listed if not run.is_teacher), first)
  if baseline is not None and baseline not in students:
    raise ConfigError(f'--baseline={baseline}: {path} has students of {", ".join(students)} only.')
  first = baseline or first
  if not listed:  # the order of names says nothing
    found.sort(key=lambda run: run.method != first)
  return Sweep(path, tuple(found), tuple(unfinished), first)


def _cells(path: epath.Path, prefix: str) -> tuple[list[Run], list[str]]:
  """The cells that are done as the sweep asks for them now, and the names of all others.

  Those that were set aside are neither.
  """
  found, unfinished = [], []
  asked = _asked(path)
  for folder in sorted(path.iterdir(), key=lambda one: one.name):
    file = folder / results.CELL_FILE
    if _ASIDE in folder.name or not plain_files.exists(file):
      continue
    values = json_form.read_object(file)
    identity = asked.pop(folder.name, None) if asked is not None else values.get('identity')
    if 'score' not in values or identity != values.get('identity', identity):
      unfinished.append(folder.name)
      continue
    settings = _object(values, 'settings')
    config = folder / file_names.SETTINGS
    if config.exists():  # there the size of the vocabulary is known
      settings = {**settings, **json_form.read_object(config)}
    run = _run(values, values.get('score'), str(file), prefix, folder, settings)
    found.append(run)
  return found, sorted([*unfinished, *(asked or ())])


def _asked(path: epath.Path) -> dict[str, Any] | None:
  """The identities of a sweep's cells by their folders; None where it noted none."""
  file = path / results.SWEEP_FILE
  return _object(json_form.read_object(file), 'cells') if file.exists() else None


def _listed(path: epath.Path, prefix: str) -> list[Run]:
  """The runs of a results.jsonl, without their settings; [] where there is none."""
  if not path.exists():
    return []
  names = {field.name for field in dataclasses.fields(Score)}
  found = []
  for number, row in rows.read(path, '.jsonl'):
    score = {name: value for name, value in row.items() if name in names}
    found.append(_run(row, score, f'{path}, line {number}', prefix, None, {}))
  return found


def _run(
  values: Mapping[str, Any],
  score: Any,
  where: str,
  prefix: str,
  folder: epath.Path | None,
  settings: Mapping[str, Any],
) -> Run:
  parsed: Score = json_form.from_dict(Score, score, where)
  parsed = dataclasses.replace(parsed, name=one_line(parsed.name))
  method = values.get('method')
  if not isinstance(method, str):
    raise ConfigError(f'{where}: expected the name of a method in "method", not {method!r:.80}.')
  split = values.get('split', '')
  return Run(
    one_line(prefix + (parsed.folder if folder is None else folder.name)),
    folder,
    parsed.name,
    one_line(method),
    _shown(_object(values, 'axes')),
    parsed,
    _bits(values.get('correct'), where),
    one_line(split) if isinstance(split, str) else '',
    settings,
    _shown(_object(values, 'read')),
  )


def _bits(value: Any, where: str) -> np.ndarray:
  """A text of 0 and 1 as an array of bool."""
  if not isinstance(value, str) or not value or set(value) - {'0', '1'}:
    raise ConfigError(f'{where}: expected a text of 0 and 1 in "correct", one an answer.')
  return np.frombuffer(value.encode('ascii'), np.uint8) == ord('1')


def _object(values: Mapping[str, Any], name: str) -> dict[str, Any]:
  found = values.get(name)
  return found if isinstance(found, dict) else {}


def _shown(values: Mapping[str, Any]) -> dict[str, Any]:
  """An object whose names and texts can be shown."""
  return {
    one_line(name): one_line(value) if isinstance(value, str) else value
    for name, value in values.items()
  }


def unfinished_note(sweep: Sweep, most: int = 5) -> str:
  """One sentence on the cells that are not done; '' where all are."""
  if not sweep.unfinished:
    return ''
  names = '; '.join(sweep.unfinished[:most])
  more = f' and {len(sweep.unfinished) - most} more' if len(sweep.unfinished) > most else ''
  return f'{len(sweep.unfinished)} cells are not done, or not as the sweep asks now: {names}{more}.'


def datasets(runs: tuple[Run, ...]) -> Iterator[str]:
  """The data sets that runs read, by name, each once."""
  names = (name for run in runs for name in run.reads if name not in _NO_QUESTIONS)
  yield from dict.fromkeys(names)
