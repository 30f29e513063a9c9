"""A mixture whose rows keep what a loss over tasks needs: which task they are of, and their weight.

Owns the features that a mixture passes on; seqio.Mixture keeps tokens alone. Our own engine reads
the tasks of a mixture one by one and does not need it.
"""

from typing import Any

import seqio
import tensorflow as tf

PASSED_ON = ('task_id', 'example_id', 'loss_weight')


class Mixture(seqio.Mixture):
  """seqio.Mixture with the rows' `task_id`, `example_id` and, if any task has it, `loss_weight`."""

  def get_dataset(self, *args: Any, passthrough_features=None, **kwargs: Any) -> tf.data.Dataset:
    """Returns what seqio.Mixture's does, with these features besides."""
    passed_on = (*PASSED_ON, *(passthrough_features or ()))
    return super().get_dataset(*args, passthrough_features=passed_on, **kwargs)

  def get_task_dataset(self, *args: Any, **kwargs: Any) -> tf.data.Dataset:
    """Returns the rows of one task; all tasks' rows have the same features."""
    rows = super().get_task_dataset(*args, **kwargs)
    if 'loss_weight' in rows.element_spec:
      return rows
    return rows.map(lambda row: {**row, 'loss_weight': tf.constant(1.0)})
