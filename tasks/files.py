"""A SeqIO source of users' own files, with rationales and labels in fields of their own.

Does not own: what is read in a file and refused (datasets/rows.py), raw completions, which `dss
prepare` reads.
"""

from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from dss_jax.datasets import rows
from dss_jax.tasks.numbered_source import FIELDS
from dss_jax.tasks.preprocessors import TEACHERS

SPLITS = ('train', 'validation', 'test')


def source(pattern: str, splits: Sequence[str] = SPLITS) -> seqio.DataSource:
  """The rows of one file for each split: JSON lines, CSV or TSV, perhaps with .gz.

  The files are opened when they are read. Each row has the texts `input`, `label`, `rationale` and
  `teacher_label`. The last two may be null, NaN or empty; if a teacher was asked K times, lists of
  K texts. Other texts are passed on.

  Args:
    pattern: a path with `{split}` in it, local or gs://, such as 'my_data/{split}.jsonl'.
    splits: their names.

  Raises:
    ValueError: the pattern has no `{split}`.
  """
  if '{split}' not in pattern:
    raise ValueError(f'expected a path with {{split}} in it, one file a split; got {pattern!r}.')
  return FileSource(pattern, splits)


class FileSource(seqio.FunctionDataSource):
  """See `source`, which makes it."""

  def __init__(self, pattern: str, splits: Sequence[str]):
    self._pattern = pattern
    super().__init__(self._read, splits)

  def path(self, split: str) -> str:
    """The file of a split."""
    return self._pattern.replace('{split}', split)

  def _read(self, split: str, shuffle_files: bool) -> tf.data.Dataset:
    del shuffle_files  # there is one; NumberedSource shuffles
    required = [field for field in FIELDS if field not in TEACHERS]
    texts = list(rows.read_texts(self.path(split), required, TEACHERS))
    return tf.data.Dataset.from_tensor_slices(_columns(texts))


def _columns(texts: Sequence[Mapping[str, str | list[str]]]) -> dict[str, list]:
  """The fields that all rows have; the teacher's are [rows, samples] if any row has a list."""
  shared = set(texts[0]).intersection(*texts)
  columns: dict[str, list] = {field: [row[field] for row in texts] for field in sorted(shared)}
  if all(isinstance(value, str) for field in TEACHERS for value in columns[field]):
    return columns
  samples = {
    field: [[value] if isinstance(value, str) else value or [''] for value in columns[field]]
    for field in TEACHERS
  }
  most = max(len(row) for rows_ in samples.values() for row in rows_)
  return columns | {
    field: [row + [''] * (most - len(row)) for row in rows_] for field, rows_ in samples.items()
  }
