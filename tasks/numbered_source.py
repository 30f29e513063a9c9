"""A data set's source with its examples numbered, and shuffled as a whole.

Owns the fields that a source gives. Does not own what becomes of them (preprocessors.py).
"""

from collections.abc import Sequence
from typing import Any

import seqio
import tensorflow as tf

from dss_jax.tasks import preprocessors

FIELDS = ('input', 'label', 'rationale', 'teacher_label')
SHUFFLE_BUFFER = 100_000
"""The most source examples held in memory for shuffling: all of every split but e-SNLI's train."""


class NumberedSource(seqio.DataSource):
  """Another source with its rows numbered in `example_id`, and shuffled globally on request.

  The rows must be numbered here: SeqIO's tasks shard, cache and repeat the source before their
  preprocessors see it. For the same reason the inner source is always read in its own order.
  """

  def __init__(self, source: seqio.DataSource, name: str = ''):
    """Args: the source; its data set, for messages."""
    super().__init__((), caching_permitted=source.caching_permitted)
    self.source = source
    self._name = name

  @property
  def splits(self) -> Sequence[str]:
    return self.source.splits

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  @property
  def performs_internal_shuffling(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]  # SeqIO then shards the numbered examples instead of the files

  def num_input_examples(self, split: str) -> int | None:
    return self.source.num_input_examples(split)

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """Returns dicts of strings, FIELDS and others, and the int64 scalar `example_id`.

    Raises:
      ValueError: a field is missing or not a string, or a function of the user's fails on its rows.
    """
    try:
      dataset = self.source.get_dataset(split=split, shuffle=False)
      spec = dataset.element_spec
    except (TypeError, LookupError, AttributeError, ValueError) as error:
      if not isinstance(self.source, seqio.FunctionDataSource):
        raise
      raise ValueError(_failure(error, self._name, split)) from error
    wrong = [k for k in FIELDS if k not in spec or spec[k].dtype != tf.string]
    if wrong:
      raise ValueError(f'A source must yield the strings {FIELDS}; {wrong} are not in {spec}.')
    texts = [k for k, of in spec.items() if of.dtype == tf.string and of.shape.rank == 0]
    kept = {*texts, *preprocessors.TEACHERS}  # templates cannot use numbers and the like
    dataset = dataset.enumerate().map(
      lambda number, row: {**{k: row[k] for k in kept}, 'example_id': number}
    )
    if shuffle:
      buffer = min(self.num_input_examples(split) or SHUFFLE_BUFFER, SHUFFLE_BUFFER)
      dataset = dataset.shuffle(buffer, seed=seed)
    return dataset


def _failure(error: Exception, name: str, split: str) -> str:
  """What is said of a user's function that fails; files.source names file and line by itself."""
  said = str(error)
  if type(error) is ValueError and 'Tensor' not in said:
    return said
  return (
    f'the source of data set {name!r}, split {split!r}, fails: {type(error).__name__}: '
    f'{said[:300].removesuffix(".")}. Every field of every row is a text; '
    'dss_jax.tasks.files.source reads files and names the row that is wrong.'
  )
