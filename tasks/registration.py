"""Registers the SeqIO tasks and mixtures of every method on every data set.

Owns: the names and make-up of SeqIO's tasks and mixtures, which data set and which method a name
means, the numbering and shuffling of source examples. Does not own: what a method is
(dss_jax/methods), the data sets (dss_jax/datasets), rows as tensors (preprocessors.py), the
vocabulary (vocabulary.py).

Every method is combined with every data set, in whichever order they are registered. A method with
one row, or one that keeps an example's rows together, becomes a task `<data set>_<method>`. Any
other becomes a mixture of that name over the tasks of its rows, with equal rates. Such a name is
never parsed: its meaning is looked up here.
"""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import seqio
import tensorflow as tf

from dss_jax import methods
from dss_jax.methods import Choices, Method, Row
from dss_jax.tasks import metrics, mixture, preprocessors, vocabulary
from dss_jax.tasks.numbered_source import FIELDS as FIELDS  # for those who write sources
from dss_jax.tasks.numbered_source import NumberedSource as NumberedSource


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetInfo:
  """A registered data set.

  Attributes:
    name: the data set.
    metric: how its labels are scored, a key of `metrics.LABEL_METRICS`.
    source: of its numbered examples.
    teacher: who wrote its rationales and teacher labels; '' if unknown.
    parts: the prepared data sets that it is made of, if any; their metadata names the teacher.
    unlabeled: those of them whose labels are always the teacher's.
    choices: among which a label is, for methods that score them; None if it is any text.
  """

  name: str
  metric: str
  source: seqio.DataSource
  teacher: str = ''
  parts: tuple[str, ...] = ()
  unlabeled: tuple[str, ...] = ()
  choices: Choices | None = None


class TaskInfo(NamedTuple):
  """The meaning of a SeqIO name.

  Attributes:
    dataset: whose examples.
    rows: what each becomes.
    method: the one that makes them, if it is one.
    label_source: whose labels are learned, 'gold' or 'teacher'.
  """

  dataset: DatasetInfo
  rows: tuple[Row, ...]
  method: Method | None
  label_source: str = 'gold'


_datasets: dict[str, DatasetInfo] = {}
_infos: dict[str, TaskInfo] = {}
_row_tasks: dict[tuple[str, Row, str], str] = {}  # of (data set, row, source of the label)


def register_dataset(
  name: str,
  source: seqio.DataSource,
  metric: str = 'text',
  teacher: str = '',
  parts: Sequence[str] = (),
  unlabeled: Sequence[str] = (),
  choices: Choices | None = None,
) -> None:
  """Registers the tasks of a data set, for all methods. The vocabulary may be set later.

      <name>_label      inputs `[label] <input>`      targets: gold label
      <name>_rationale  inputs `[rationale] <input>`  targets: the teacher's rationale
      <name>_dss        mixture of the two, 1:1
      <name>_paired     both rows of each example, adjacent also when SeqIO shuffles
      <name>_standard   inputs without prefix         targets: gold label

  likewise <name>_single_task and the other methods, and with the teacher's label as the target
  <name>_teacher_{label,dss,paired,standard,...}. Rows with a blank target are left out. A data set
  of your own, from files of JSON lines, CSV or TSV (see files.py):

      from dss_jax.tasks import files, register_dataset

      register_dataset('mine', files.source('my_data/{split}.jsonl'))

  Args:
    name: letters, digits and underscores.
    source: yields dicts of strings `input`, `label`, `rationale`, `teacher_label`; a rationale or
      teacher label that is absent is the empty string, and if a teacher was sampled K times both
      are vectors [K]. An input may hold `</s>` between its parts. Other strings are passed on, for
      methods whose templates use them.
    metric: 'text' for labels compared as strings, 'equation' for labels compared by value.
    teacher: who wrote the rationales, for model cards.
    parts: names of the prepared data sets that `source` reads; their metadata names the teacher.
    unlabeled: those of `parts` whose labels are the teacher's, for model cards.
    choices: among which a label is, for methods that score them; None if it is any text.

  Raises:
    ValueError: the name is taken, or the metric unknown.
  """
  if name in _datasets:
    raise ValueError(f'The data set {name!r} is registered already; choose another name.')
  if metric not in metrics.LABEL_METRICS:
    raise ValueError(f'metric must be one of {list(metrics.LABEL_METRICS)}; got {metric!r}.')
  numbered = NumberedSource(source, name)
  _datasets[name] = DatasetInfo(
    name, metric, numbered, teacher, tuple(parts), tuple(unlabeled), choices
  )
  add_methods()


def add_methods() -> None:
  """Registers the tasks of methods that were registered after a data set; idempotent."""
  known = sorted(methods.registered(), key=lambda method: len(method.rows))  # their rows are shared
  for dataset in _datasets.values():
    for method in known:
      if f'{dataset.name}_{method.name}' not in _infos:
        _add(dataset, method)


def dataset_of(name: str) -> DatasetInfo:
  """The data set that a task or mixture trains on and is evaluated on.

  A mixture over several data sets, made with seqio.MixtureRegistry, counts as the data set of its
  first member.

  Raises:
    ValueError: the name, or the mixture's first member, was not made by `register_dataset`.
  """
  return next(_infos_of(name)).dataset


def method_of(name: str) -> Method:
  """The method of a task or mixture.

  The method of your own mixture is the one whose rows are those of its members.

  Raises:
    ValueError: the name was not made by `register_dataset`, or no method has these rows.
  """
  infos = list(_infos_of(name))
  own = {info.method for info in infos}
  if len(own) == 1 and (method := own.pop()) is not None:
    return method
  rows = {_kind(row, info.label_source) for info in infos for row in info.rows}
  for method in methods.registered():
    if {_kind(row, method.label_source) for row in method.rows} == rows:
      return method
  kinds = ', '.join(sorted(f'{row.task} ({source})' for row, source in rows))
  raise ValueError(f'no method makes the rows of {name!r} ({kinds}): set METHOD.')


def own_method(name: str) -> Method | None:
  """The method whose task or mixture this is by its registration; None for all other names."""
  return _infos[name].method if name in _infos else None


def datasets_of(name: str) -> tuple[DatasetInfo, ...]:
  """All data sets of a task or mixture, each once, the first member's first."""
  return tuple(dict.fromkeys(info.dataset for info in _infos_of(name)))


def is_known(task: str) -> bool:
  """Whether `register_dataset` made this task or mixture itself."""
  return task in _infos


def all_names() -> set[str]:
  """The names of all tasks and mixtures that SeqIO knows, whoever registered them."""
  return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


def all_datasets() -> tuple[DatasetInfo, ...]:
  """All registered data sets."""
  return tuple(_datasets.values())


def is_dataset(name: str) -> bool:
  """Whether a data set of this name is registered."""
  return name in _datasets


def row_of(task: str) -> Row:
  """The row by which the outputs of a task are parsed.

  Raises:
    ValueError: the task was not made by `register_dataset`, or has rows of several kinds.
  """
  rows = {row for info in _infos_of(task) for row in info.rows}
  if len(rows) > 1:
    keys = [(dataset_of(task).name, row, 'gold') for row in rows]
    row_tasks = sorted(_row_tasks[key] for key in keys if key in _row_tasks)
    kinds = ' and '.join(sorted(f'{row.task}s' for row in rows))
    hint = f'; evaluate {" or ".join(map(repr, row_tasks))}' if row_tasks else ''
    raise ValueError(f'{task!r} mixes {kinds}, which are scored differently{hint}.')
  return rows.pop()


def row_task(dataset: str, row: Row) -> str:
  """The task of one kind of row of a data set, with gold labels.

  Raises:
    ValueError: no method of that data set has such a row.
  """
  if (dataset, row, 'gold') not in _row_tasks:
    raise ValueError(f'no task of {dataset} has the row {row.input!r} -> {row.target!r}.')
  return _row_tasks[dataset, row, 'gold']


def evaluation_task(dataset: str, method: Method) -> str:
  """The task with gold labels that evaluates a student of a method; registered if missing.

  It has every example with a gold label, whatever the teacher's outputs are.

  Args:
    dataset: name of a registered data set.
    method: what the student was trained with.
  """
  answer, info = method.answer, _datasets[dataset]
  existing = _row_tasks.get((dataset, answer, 'gold'))
  if existing and answer.is_label_alone and not (method.needs or answer.each_choice):
    return existing
  name = f'{dataset}_{method.name}_answer'
  if name not in _infos:
    row = Row(answer.task, answer.input, '{label}')
    _add_task(name, info, [row], read_by=answer, needed={'label'}, all_samples=False)
    _infos[name] = TaskInfo(info, (answer,), method)
  return name


def dataset_named(name: str) -> DatasetInfo:
  """The registered data set of a name.

  Raises:
    ValueError: there is none.
  """
  if name not in _datasets:
    raise ValueError(f'no data set {name!r} is registered; there are {", ".join(_datasets)}.')
  return _datasets[name]


def first_examples(name: str, split: str, count: int) -> list[dict[str, str]]:
  """The first source examples of a task's data set, with the teacher's first sample."""
  rows = dataset_of(name).source.get_dataset(split, shuffle=False).take(count)
  return [
    {key: _text(value) for key, value in row.items() if key != 'example_id'}
    for row in rows.as_numpy_iterator()
  ]


def labels_of(name: str, split: str) -> list[bytes]:
  """The gold labels of all source examples of a task's data set, in the order of `example_id`.

  Raises:
    ValueError: `register_dataset` did not make the task.
  """
  rows = dataset_of(name).source.get_dataset(split, shuffle=False)
  labels = rows.map(lambda row: row['label']).batch(preprocessors.BATCH)
  return [label for batch in labels.as_numpy_iterator() for label in batch]


def _text(value: Any) -> str:
  """A text, or the first of several; '' if there is none."""
  if isinstance(value, bytes):
    return value.decode()
  return value[0].decode() if len(value) else ''


def _infos_of(name: str) -> Iterator[TaskInfo]:
  """The meanings of a name: its own, or those of the members of a mixture made elsewhere."""
  if name in _infos:
    yield _infos[name]
    return
  members = []
  if name in seqio.MixtureRegistry.names():
    members = list(seqio.MixtureRegistry.get(name).rate_per_task_name)
  if not members:
    raise ValueError(
      f'No task or mixture {name!r}; expected one of a registered data set '
      f'({", ".join(sorted(_datasets))}), such as <name>_dss. Set MIXTURE_OR_TASK_NAME.'
    )
  for member in members:
    yield from _infos_of(member)


def _add(dataset: DatasetInfo, method: Method) -> None:
  """Registers the task or mixture of a method on a data set."""
  name = f'{dataset.name}_{method.name}'
  if len(method.rows) == 1 or method.paired:
    _add_task(name, dataset, method.rows, method.label_source, keeps_groups=method.is_grouped)
  else:
    members = [_row_task(dataset, method, row) for row in method.rows]
    seqio.MixtureRegistry.add_provider(name, mixture.Mixture(name, members, default_rate=1.0))
  _infos[name] = TaskInfo(dataset, method.rows, method, method.label_source)
  if len(method.rows) == 1:
    _row_tasks.setdefault(_row_key(dataset, method, method.rows[0]), name)


def _row_task(dataset: DatasetInfo, method: Method, row: Row) -> str:
  """The task of one row of a method, which methods with the same row share."""
  key = _row_key(dataset, method, row)
  if key not in _row_tasks:
    name = f'{dataset.name}_{method.name}_{row.task}'
    _add_task(name, dataset, [row], label_source=method.label_source)
    _infos[name] = TaskInfo(dataset, (row,), None, method.label_source)
    _row_tasks[key] = name
  return _row_tasks[key]


def _row_key(dataset: DatasetInfo, method: Method, row: Row) -> tuple[str, Row, str]:
  return dataset.name, *_kind(row, method.label_source)


def _kind(row: Row, label_source: str) -> tuple[Row, str]:
  """A row and whose labels are in it; rows without a label are the same whatever the source."""
  return row, label_source if 'label' in row.fields else 'gold'


class DistillationTask(seqio.Task):
  """A task that is shuffled by source example, so that the rows of an example stay adjacent."""

  def get_dataset(self, *args: Any, shuffle: bool = True, **kwargs: Any) -> tf.data.Dataset:
    """Returns what seqio.Task.get_dataset does, in a new order in every epoch."""
    if shuffle:
      kwargs['try_in_mem_cache'] = False  # it would keep the first epoch's order
    return super().get_dataset(*args, shuffle=shuffle, **kwargs)

  @tf.autograph.experimental.do_not_convert
  def preprocess_postcache(self, *args: Any, **kwargs: Any) -> tf.data.Dataset:
    """Returns what seqio.Task's does; our steps need no AutoGraph, which takes seconds a task."""
    return super().preprocess_postcache(*args, **kwargs)


def _add_task(
  name: str,
  dataset: DatasetInfo,
  rows: Sequence[Row],
  label_source: str = 'gold',
  read_by: Row | None = None,
  needed: Collection[str] | None = None,
  all_samples: bool = True,
  keeps_groups: bool = False,
) -> None:
  """Adds one task with these rows of every source example.

  Args:
    name: of the task.
    dataset: whose examples.
    rows: what each example becomes.
    label_source: of the targets.
    read_by: the row by which outputs are parsed; None: the task's own.
    needed: see `preprocessors.make_rows`.
    all_samples: likewise.
    keeps_groups: likewise.
  """
  feature = seqio.Feature(vocabulary.LazyVocabulary(), add_eos=True)
  label_field = 'label' if label_source == 'gold' else 'teacher_label'
  read_by = read_by or (rows[0] if len(rows) == 1 else None)
  choices = dataset.choices if read_by is not None and read_by.each_choice else None
  metric = postprocess = None
  if read_by is not None and read_by.has_label:
    metric, postprocess = metrics.LABEL_METRICS[dataset.metric], preprocessors.label_reader(read_by)
  elif read_by is not None:
    metric = metrics.rouge_l
  task = DistillationTask(
    name,
    source=dataset.source,
    output_features={'inputs': feature, 'targets': feature},
    preprocessors=[
      preprocessors.batch,
      preprocessors.make_rows(
        rows,
        label_field,
        needed,
        all_samples,
        metrics.LABEL_CORRECT[dataset.metric],
        choices,
        keeps_groups,
      ),
      preprocessors.tokenize_with_eos,
      preprocessors.unbatch,
    ],
    postprocess_fn=postprocess,
    metric_fns=[metric] if metric else [],
    shuffle_buffer_size=None,  # the source shuffles
  )
  seqio.TaskRegistry.add_provider(name, task)
