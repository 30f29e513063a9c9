"""Registers all tasks and mixtures of a data set with SeqIO.

Owns: the names and make-up of the tasks, the numbering and shuffling of source examples. Does not
own: where the data comes from (one module per data set), the rows themselves (preprocessors.py),
the vocabulary (vocabulary.py).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import seqio
import tensorflow as tf

from dss_jax.tasks import metrics, preprocessors, vocabulary
from dss_jax.tasks.preprocessors import LABEL, RATIONALE, Row

FIELDS = ('input', 'label', 'rationale', 'teacher_label')
SHUFFLE_BUFFER = 100_000
"""Most source examples held in memory to shuffle them: all of every set but e-SNLI's train."""


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """What the name of a task or mixture stands for.

  Attributes:
    name: the data set.
    metric: how its labels are scored, a key of `metrics.LABEL_METRICS`.
    evaluation_task: the task with gold labels whose inputs look as they did in training.
  """

  name: str
  metric: str
  evaluation_task: str


_infos: dict[str, DatasetInfo] = {}


def register_dataset(name: str, source: seqio.DataSource, metric: str = 'text') -> None:
  """Registers the tasks of a data set. The vocabulary may be set later.

      <name>_label      inputs `[label] <input>`      targets: gold label
      <name>_rationale  inputs `[rationale] <input>`  targets: the teacher's rationale
      <name>_dss        mixture of the two, 1:1
      <name>_paired     both rows of each example, adjacent also when SeqIO shuffles
      <name>_standard   inputs without prefix         targets: gold label

  and with the teacher's label as the target <name>_teacher_{label,dss,paired,standard}. Rows with
  a blank target are left out. A data set of your own, from files of JSON lines:

      import json, seqio, tensorflow as tf
      from dss_jax.tasks.registration import FIELDS, register_dataset

      def read(split, shuffle_files):
        with open(f'my_data/{split}.jsonl', encoding='utf-8') as lines:
          rows = [json.loads(line) for line in lines]
        return tf.data.Dataset.from_tensor_slices({k: [row[k] for row in rows] for k in FIELDS})

      register_dataset('mine', seqio.FunctionDataSource(read, ['train', 'validation', 'test']))

  Args:
    name: letters, digits and underscores.
    source: yields dicts of strings `input`, `label`, `rationale`, `teacher_label`; a rationale or
      teacher label that is absent is the empty string. An input may hold `</s>` between its parts.
    metric: 'text' for labels compared as strings, 'equation' for labels compared by value.

  Raises:
    ValueError: the name is taken, or the metric unknown.
  """
  if name in {info.name for info in _infos.values()}:
    raise ValueError(f'The data set {name!r} is registered already; choose another name.')
  if metric not in metrics.LABEL_METRICS:
    raise ValueError(f'metric must be one of {list(metrics.LABEL_METRICS)}; got {metric!r}.')
  source = NumberedSource(source)
  score = metrics.LABEL_METRICS[metric]

  _add_task(f'{name}_rationale', source, [(RATIONALE, 'rationale')], metrics.rouge_l)
  for variant, target in ((name, 'label'), (f'{name}_teacher', 'teacher_label')):
    label_row = (LABEL, target)
    _add_task(f'{variant}_label', source, [label_row], score)
    _add_task(f'{variant}_standard', source, [label_row], score, prefixed=False)
    _add_task(f'{variant}_paired', source, [label_row, (RATIONALE, 'rationale')])
    members = [f'{variant}_label', f'{name}_rationale']
    seqio.MixtureRegistry.add(f'{variant}_dss', members, default_rate=1.0)
    for kind in ('label', 'standard', 'paired', 'dss'):
      evaluation = f'{name}_standard' if kind == 'standard' else f'{name}_label'
      _infos[f'{variant}_{kind}'] = DatasetInfo(name, metric, evaluation)
  _infos[f'{name}_rationale'] = DatasetInfo(name, metric, f'{name}_label')


def dataset_of(task_or_mixture_name: str) -> DatasetInfo:
  """Returns the data set that a task or mixture trains on and is evaluated on.

  A mixture over several data sets, made with seqio.MixtureRegistry, stands for the data set of its
  first member.

  Raises:
    ValueError: the name, or the mixture's first member, was not made by `register_dataset`.
  """
  name = task_or_mixture_name
  while name not in _infos and name in seqio.MixtureRegistry.names():
    name = next(iter(seqio.MixtureRegistry.get(name).rate_per_task_name))
  if name not in _infos:
    raise ValueError(
      f'No task or mixture {task_or_mixture_name!r}; expected one of a registered data set '
      f'({", ".join(sorted({info.name for info in _infos.values()}))}), such as <name>_dss. '
      'Set MIXTURE_OR_TASK_NAME.'
    )
  return _infos[name]


class NumberedSource(seqio.DataSource):
  """Another source with its rows numbered in `example_id`, and shuffled as a whole on request.

  The number has to be given here: SeqIO's tasks shard, cache and repeat the source before their
  preprocessors see it. For the same reason the inner source is always read in its own order.
  """

  def __init__(self, source: seqio.DataSource):
    super().__init__((), caching_permitted=source.caching_permitted)
    self._source = source

  @property
  def splits(self) -> Sequence[str]:
    return self._source.splits

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  @property
  def performs_internal_shuffling(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]  # SeqIO then shards the numbered examples instead of the files

  def num_input_examples(self, split: str) -> int | None:
    return self._source.num_input_examples(split)

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """Returns dicts of strings, FIELDS, and the int64 scalar `example_id`.

    Raises:
      ValueError: a field is missing or not a string.
    """
    dataset = self._source.get_dataset(split=split, shuffle=False)
    spec = dataset.element_spec
    wrong = [k for k in FIELDS if k not in spec or spec[k].dtype != tf.string]
    if wrong:
      raise ValueError(f'A source must yield the strings {FIELDS}; {wrong} are not in {spec}.')
    dataset = dataset.enumerate().map(
      lambda number, row: {**{k: row[k] for k in FIELDS}, 'example_id': number}
    )
    if shuffle:
      buffer = min(self.num_input_examples(split) or SHUFFLE_BUFFER, SHUFFLE_BUFFER)
      dataset = dataset.shuffle(buffer, seed=seed)
    return dataset


class DistillationTask(seqio.Task):
  """A task that is shuffled by source example, so that the rows of one stay adjacent."""

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
  source: seqio.DataSource,
  rows: Sequence[Row],
  metric: Any = None,
  prefixed: bool = True,
) -> None:
  """Adds one task with a row for each of `rows` per source example."""
  feature = seqio.Feature(vocabulary.LazyVocabulary(), add_eos=True)
  task = DistillationTask(
    name,
    source=source,
    output_features={'inputs': feature, 'targets': feature},
    preprocessors=[
      preprocessors.batch,
      preprocessors.make_rows(rows, prefixed),
      preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
      preprocessors.unbatch,
    ],
    postprocess_fn=preprocessors.gold_label if len(rows) == 1 and rows[0][0] == LABEL else None,
    metric_fns=[metric] if metric else [],
    shuffle_buffer_size=None,  # the source shuffles
  )
  seqio.TaskRegistry.add_provider(name, task)
