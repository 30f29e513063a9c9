"""Tokenised examples in memory: load a SeqIO task or mixture, and count and cut what is too long.

Owns the ragged container `Examples`. SeqIO stays the authority on tasks, mixtures, rates and
tokenisation; TensorFlow and SeqIO are imported inside the loading functions only, because they take
seconds to start. Does not own order, packing or batches (packing.py, pipeline.py).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dss_jax.data import shared_tables
from dss_jax.datasets.rows import decode
from dss_jax.methods import registry
from dss_jax.methods.dss import DSS

SCALARS = ('task_id', 'example_id', 'loss_weight')
TEXTS = ('inputs_pretokenized', 'targets_pretokenized', 'label', 'choices')
READ_BATCH = 1024  # examples that cross from TensorFlow to numpy at once


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """The n examples of one task, as flat arrays.

  Sequence i of the inputs is `inputs[input_offsets[i]:input_offsets[i + 1]]`, likewise the targets.

  Attributes:
    inputs: int32 [input tokens], each sequence with its EOS.
    input_offsets: int64 [n + 1].
    targets: int32 [target tokens], each sequence with its EOS.
    target_offsets: int64 [n + 1].
    task_ids: int32 [n], which task of the objective an example belongs to: its place in `tasks` of
      `load_mixture`.
    example_ids: int64 [n], the row of the source example. Neighbours with equal ids (the two rows
      of a paired task) form a group that is drawn and packed together.
    texts: name -> n strings, for evaluation; empty unless asked for. The rows of a task of somebody
      else's too, where it is evaluated (inference/evaluator.py).
    loss_weights: float32 [n], of the target tokens of each; None becomes all 1.
  """

  inputs: np.ndarray
  input_offsets: np.ndarray
  targets: np.ndarray
  target_offsets: np.ndarray
  task_ids: np.ndarray
  example_ids: np.ndarray
  texts: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
  loss_weights: np.ndarray = None  # type: ignore[assignment]

  def __post_init__(self):
    if self.loss_weights is None:
      object.__setattr__(self, 'loss_weights', np.ones(len(self), np.float32))

  def __len__(self) -> int:
    return len(self.task_ids)

  @property
  def input_lengths(self) -> np.ndarray:
    """int64 [n] in tokens."""
    return np.diff(self.input_offsets)

  @property
  def target_lengths(self) -> np.ndarray:
    """int64 [n] in tokens."""
    return np.diff(self.target_offsets)

  def group_offsets(self) -> np.ndarray:
    """int64 [groups + 1]: group g is the examples from offset g up to offset g + 1."""
    ids = self.example_ids
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    return np.append(starts, len(ids)).astype(np.int64)

  def truncated(self, lengths: Mapping[str, int]) -> Examples:
    """Sequences cut to `lengths` tokens; a cut sequence keeps its last token (the EOS)."""
    inputs, input_offsets = _cut(self.inputs, self.input_offsets, lengths['inputs'])
    targets, target_offsets = _cut(self.targets, self.target_offsets, lengths['targets'])
    return dataclasses.replace(
      self,
      inputs=inputs,
      input_offsets=input_offsets,
      targets=targets,
      target_offsets=target_offsets,
    )

  def take(self, rows: np.ndarray) -> Examples:
    """These examples, int64 [m], in the order given, with their texts."""
    input_lengths, target_lengths = self.input_lengths[rows], self.target_lengths[rows]
    return Examples(
      inputs=self.inputs[spans(self.input_offsets[rows], input_lengths)],
      input_offsets=offsets_of(input_lengths),
      targets=self.targets[spans(self.target_offsets[rows], target_lengths)],
      target_offsets=offsets_of(target_lengths),
      task_ids=self.task_ids[rows],
      example_ids=self.example_ids[rows],
      texts={name: [texts[row] for row in rows] for name, texts in self.texts.items()},
      loss_weights=self.loss_weights[rows],
    )

  @staticmethod
  def concatenate(parts: Sequence[Examples]) -> Examples:
    """All examples of all parts, in order, without their texts."""
    return Examples(
      inputs=np.concatenate([part.inputs for part in parts]),
      input_offsets=offsets_of(np.concatenate([part.input_lengths for part in parts])),
      targets=np.concatenate([part.targets for part in parts]),
      target_offsets=offsets_of(np.concatenate([part.target_lengths for part in parts])),
      task_ids=np.concatenate([part.task_ids for part in parts]),
      example_ids=np.concatenate([part.example_ids for part in parts]),
      loss_weights=np.concatenate([part.loss_weights for part in parts]),
    )


class EmptyTaskError(ValueError):
  """A split of a task holds no example."""


class TaskExamples(NamedTuple):
  """One task of a mixture: its SeqIO name, its mixing rate (not normalised), its examples."""

  name: str
  rate: float
  examples: Examples


@dataclasses.dataclass(frozen=True)
class Truncation:
  """`count` of `total` sequences of a feature are longer than `limit` tokens."""

  task: str
  feature: str
  count: int
  total: int
  limit: int
  longest: int

  def __str__(self) -> str:
    return (
      f'{self.task}: {self.count} of {self.total} {self.feature} are cut at {self.limit} tokens '
      f"(longest {self.longest}); raise TASK_FEATURE_LENGTHS['{self.feature}'] to keep them"
    )


def truncations(mixture: Sequence[TaskExamples], lengths: Mapping[str, int]) -> list[Truncation]:
  """What `lengths` would cut, per task and feature; empty if nothing. Their `str` is a log line."""
  results = []
  for name, _, examples in mixture:
    for feature, sizes in (
      ('inputs', examples.input_lengths),
      ('targets', examples.target_lengths),
    ):
      limit = lengths[feature]
      count = int((sizes > limit).sum())
      if count:
        results.append(Truncation(name, feature, count, len(sizes), limit, int(sizes.max())))
  return results


def load_mixture(
  name: str, split: str, tasks: Sequence[str] = DSS.tasks, skip_empty: bool = False
) -> list[TaskExamples]:
  """Reads a SeqIO task or mixture; the tasks of a mixture come in the order of their names.

  Args:
    name: a registered task or mixture; import the module that registers it first.
    split: a split that all its tasks have.
    tasks: of the objective, in order; a row's task_id becomes its task's place among them.
    skip_empty: leave out tasks without examples, unless none has any: a validation split need not
      have rationales.

  Raises:
    ValueError: unknown name or split (with the near names), a task without examples, or one with
      rows of a task that is not in the objective.
  """
  import seqio

  known = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()}
  check_known('MIXTURE_OR_TASK_NAME: task or mixture', name, known)
  provider = seqio.get_mixture_or_task(name)
  if isinstance(provider, seqio.Task):
    return [TaskExamples(name, 1.0, load_examples(name, split, tasks))]
  loaded, empty = [], None
  for task in provider.tasks:
    try:
      examples = load_examples(task.name, split, tasks)
    except EmptyTaskError as error:
      if not skip_empty:
        raise
      empty = error
    else:
      loaded.append(TaskExamples(task.name, provider.get_rate(task), examples))
  if not loaded and empty is not None:
    raise empty
  return loaded


def load_examples(
  task_name: str, split: str, tasks: Sequence[str] | None = None, keep_text: bool = False
) -> Examples:
  """As `read_examples`, of which further calls may get what one has read; see shared_tables.py."""
  key = (task_name, split, None if tasks is None else tuple(tasks), keep_text)
  return shared_tables.get(key, lambda: read_examples(task_name, split, tasks, keep_text))


def read_examples(
  task_name: str, split: str, tasks: Sequence[str] | None = None, keep_text: bool = False
) -> Examples:
  """Reads one split of a SeqIO task, untruncated, unshuffled, once. See `load_mixture`.

  Rows without `task_id` are of the first task, rows without `example_id` get the numbers 0..n-1,
  rows without `loss_weight` have the weight 1.

  Args:
    task_name: a registered task.
    split: one that it has.
    tasks: of the objective; None keeps the task_ids of SeqIO's rows.
    keep_text: also keep the strings named in TEXTS, for evaluation.
  """
  import seqio
  import tensorflow as tf

  check_known('task', task_name, seqio.TaskRegistry.names())
  task = seqio.TaskRegistry.get(task_name)
  check_known(f'split (TRAIN_SPLIT, EVAL_SPLIT, SPLIT) of task {task_name!r}', split, task.splits)
  _keep_tensorflow_off_accelerators(tf)
  # Untruncated and read once: SeqIO's trimming and its cache would only cost time.
  rows = task.get_dataset(
    None, split, shuffle=False, seed=0, trim_output_features=False, try_in_mem_cache=False
  )
  wanted = {'inputs', 'targets', *SCALARS, *(TEXTS if keep_text else ())}
  place = f'task {task_name!r}, split {split!r}'
  batches: list[Mapping[str, Any]] = []
  try:
    for batch in _batched(tf, rows).prefetch(2):
      _refuse_broken_text(batch, place, READ_BATCH * len(batches))
      batches.append({key: value for key, value in batch.items() if key in wanted})
  except (tf.errors.InvalidArgumentError, tf.errors.InternalError, tf.errors.UnknownError) as error:
    if not isinstance(error, tf.errors.InvalidArgumentError) and 'PyFunc' not in error.message:
      raise  # a bucket's, perhaps
    said = re.sub(r'\{\{.*?\}\} ?', '', error.message).split('\n')[0]
    raise ValueError(f'{place}: its source or a preprocessor fails: {said[:300]}.') from error
  examples = _concatenate(batches, task_name, split)
  if tasks is None or 'task_id' not in batches[0]:
    return examples
  return dataclasses.replace(examples, task_ids=_places(examples.task_ids, tasks, task_name))


def _refuse_broken_text(batch: Mapping[str, Any], place: str, before: int) -> None:
  """Refuses a batch with a text that is not UTF-8, which vocabularies would quietly mend.

  Args:
    batch: rows of a task; only those that kept their texts can be checked.
    place: of the rows, for messages.
    before: rows of the task before these, from which rows without an `example_id` are numbered.
  """
  for key in TEXTS:
    texts = batch[key].numpy() if key in batch else np.empty(0)
    if texts.dtype != object or texts.ndim != 1:  # of a task of another kind
      continue
    try:
      b'\n'.join(texts).decode('utf-8')
    except UnicodeDecodeError:
      for at, text in enumerate(texts):
        number = int(batch['example_id'][at]) if 'example_id' in batch else before + at
        decode(text, f'{place}, example {number} (from 0), {key}')


def _places(task_ids: np.ndarray, tasks: Sequence[str], task_name: str) -> np.ndarray:
  """int32 [n]: the place of each row's task among those of the objective."""
  places = np.zeros(len(task_ids), np.int32)
  for number in np.unique(task_ids):
    task = registry.task_of(int(number))
    if task not in tasks:
      raise ValueError(
        f'{task_name!r} has rows of the task {task!r}, but the loss of METHOD is of '
        f'{", ".join(tasks)}; choose another METHOD, or another MIXTURE_OR_TASK_NAME.'
      )
    places[task_ids == number] = tasks.index(task)
  return places


def _batched(tf: Any, rows: Any) -> Any:
  """The tf.data.Dataset in batches whose sequences are ragged tensors.

  Our own tasks yield them as slices of such tensors, which `batch` joins; `ragged_batch` would
  first convert every row, which takes as long as half of the tokenising.
  """
  ragged = isinstance(rows.element_spec['inputs'], tf.RaggedTensorSpec)
  return rows.batch(READ_BATCH) if ragged else rows.ragged_batch(READ_BATCH)


def _concatenate(batches: Sequence[Mapping[str, Any]], task_name: str, split: str) -> Examples:
  """Joins batches of tensors (ragged where lengths differ) into one `Examples`."""
  if not batches:
    raise EmptyTaskError(
      f'task {task_name!r} has no examples in split {split!r}: expected at least one; look at the '
      "task's source and at the filter it was prepared with"
    )
  inputs, input_offsets = _join(batches, 'inputs')
  targets, target_offsets = _join(batches, 'targets')
  n = len(input_offsets) - 1
  scalars = {
    key: np.concatenate([batch[key].numpy() for batch in batches])
    for key in SCALARS
    if key in batches[0]
  }
  return Examples(
    inputs=inputs,
    input_offsets=input_offsets,
    targets=targets,
    target_offsets=target_offsets,
    task_ids=scalars.get('task_id', np.zeros(n)).astype(np.int32),
    example_ids=scalars.get('example_id', np.arange(n)).astype(np.int64),
    texts={
      key: [text.decode('utf-8') for batch in batches for text in batch[key].numpy()]
      for key in TEXTS
      if key in batches[0] and _is_text(batches[0][key])
    },
    loss_weights=scalars.get('loss_weight', np.ones(n)).astype(np.float32),
  )


def _is_text(column: Any) -> bool:
  """Whether a column holds one text a row; a task of somebody else's may have anything there."""
  return column.dtype.name == 'string' and column.shape.rank == 1


def _join(batches: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
  """Flat int32 tokens and int64 offsets of one feature over all batches."""
  flats, lengths = [], []
  for batch in batches:
    tensor = batch[key]
    if hasattr(tensor, 'flat_values'):
      flats.append(tensor.flat_values.numpy())
      lengths.append(tensor.row_lengths().numpy())
    else:  # a feature of one fixed length is batched densely
      flats.append(tensor.numpy().reshape(-1))
      lengths.append(np.full(tensor.shape[0], tensor.shape[1]))
  return np.concatenate(flats).astype(np.int32), offsets_of(np.concatenate(lengths))


def _cut(tokens: np.ndarray, offsets: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
  """Flat tokens and offsets with each sequence at most `limit` long, its last token kept."""
  lengths = np.diff(offsets)
  if lengths.max(initial=0) <= limit:
    return tokens, offsets
  keep = np.minimum(lengths, limit)
  kept_offsets = offsets_of(keep)
  kept = tokens[spans(offsets[:-1], keep)]
  cut = np.flatnonzero(lengths > limit)
  kept[kept_offsets[cut + 1] - 1] = tokens[offsets[cut + 1] - 1]
  return kept, kept_offsets


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
  """int64 [sum of lengths]: starts[0], starts[0] + 1, ... for every span, one after the other."""
  ends = np.cumsum(lengths)
  return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
  """int64 [n + 1]: where each of n sequences of these lengths starts, and the end of the last."""
  return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def check_known(what: str, given: str, known: Iterable[str]) -> None:
  """Refuses a name that is not among the known ones; the message has the near ones."""
  names = sorted(known)
  if given not in names:
    near = difflib.get_close_matches(given, names, n=5, cutoff=0.4) or names[:10]
    raise ValueError(
      f'{what} {given!r} does not exist; near names: {", ".join(near) or "(none registered)"}'
    )


def _keep_tensorflow_off_accelerators(tf: Any) -> None:
  """TensorFlow would otherwise reserve the memory of every GPU that JAX is about to use."""
  try:
    tf.config.set_visible_devices([], 'GPU')
  except RuntimeError:  # devices were already initialised by the caller: too late to change
    return
