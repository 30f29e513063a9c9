"""The SeqIO source of every data set: prepared on disk, joined from two, or generated.

Importing it registers them. Does not own: the tasks made from them (registration.py).
"""

from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from dss_jax import datasets
from dss_jax.tasks import prepared, registration


def add_prepared_datasets() -> None:
  """Registers the tasks of all registered data sets that have none yet; idempotent."""
  for name in datasets.names():
    if not registration.is_dataset(name):
      dataset = datasets.get(name)
      source = prepared.PreparedSource(name)
      registration.register_dataset(
        name, source, dataset.metric, parts=(name,), choices=dataset.choices
      )


def _generated(problems: Callable[[str], Sequence[Mapping[str, str]]]) -> Callable:
  """SeqIO's reader of a generated data set, in the order of generation."""

  def read(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
    del shuffle_files, seed  # there are no files; NumberedSource shuffles
    rows = problems(split)
    columns = {name: [row[name] for row in rows] for name in registration.FIELDS}
    return tf.data.Dataset.from_tensor_slices(columns)

  return read


add_prepared_datasets()
registration.register_dataset(
  'svamp_asdiv',
  prepared.AugmentedSource('svamp', unlabeled='asdiv'),
  datasets.get('svamp').metric,
  parts=('svamp', 'asdiv'),
  unlabeled=('asdiv',),
)
for _name, _module in datasets.EMBEDDED.items():
  registration.register_dataset(
    _name,
    seqio.FunctionDataSource(_generated(_module.problems), list(_module.SIZES), _module.SIZES),
    metric=_module.METRIC,
    teacher='its own generator',
    choices=_module.CHOICES,
  )
