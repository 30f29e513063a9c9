"""The SeqIO source of every data set: prepared on disk, joined from two, or made by our own code.

Importing it registers them. Does not own: what tasks come of them (registration.py).
"""

import seqio
import tensorflow as tf

from dss_jax import datasets
from dss_jax.datasets import embedded
from dss_jax.tasks import prepared, registration


def add_prepared_datasets() -> None:
  """Registers the tasks of all data sets in the table that have none yet; idempotent."""
  for name in datasets.names():
    if not registration.is_dataset(name):
      dataset = datasets.get(name)
      source = prepared.PreparedSource(name)
      registration.register_dataset(name, source, dataset.metric, parts=(name,))


def _embedded(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
  """A split of the embedded problems for SeqIO, in the order in which they were generated."""
  del shuffle_files, seed  # there are no files; NumberedSource shuffles
  rows = embedded.problems(split)
  columns = {name: [row[name] for row in rows] for name in registration.FIELDS}
  return tf.data.Dataset.from_tensor_slices(columns)


add_prepared_datasets()
registration.register_dataset(
  'svamp_asdiv',
  prepared.AugmentedSource('svamp', unlabeled='asdiv'),
  datasets.get('svamp').metric,
  parts=('svamp', 'asdiv'),
)
registration.register_dataset(
  'embedded',
  seqio.FunctionDataSource(_embedded, list(embedded.SIZES), embedded.SIZES),
  metric='equation',
  teacher='its own generator',
)
