"""SeqIO's feature converter for our rows: which task each target token belongs to, packed or not.

Owns how a row's `task_id` and `loss_weight` get to its tokens. Needs TensorFlow and SeqIO, not T5X.

SeqIO packs sequences and drops all else, and its packer strips zeros. So both scalars are spread
over the target tokens before packing, as whole numbers that are never 0: the task's place + 1, and
the bits of the weight, of which 0 has its sign's set.
"""

from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from dss_jax.methods import registry

IDS, WEIGHTS = 'task_ids', 'loss_weight_bits'
NEGATIVE_ZERO = -(2**31)  # the bits of the float32 -0.0
Lengths = Mapping[str, int]


class Converter(seqio.EncDecFeatureConverter):
  """SeqIO's converter of encoder-decoder models, with the arrays of our batches.

  Besides SeqIO's features: `decoder_task_ids` int32 [T], the place of each token's task among
  `tasks`, 0 at padding; and `decoder_loss_weights` is float32, with the rows' own weights.
  """

  tasks: tuple[str, ...] = ()
  MODEL_FEATURES: Mapping[str, seqio.FeatureConverter.FeatureSpec] = {
    **seqio.EncDecFeatureConverter.MODEL_FEATURES,
    'decoder_loss_weights': seqio.FeatureConverter.FeatureSpec(dtype=tf.float32),
    'decoder_task_ids': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
  }

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Lengths
  ) -> tf.data.Dataset:
    ds = ds.map(_spread(ds.element_spec, self.tasks), num_parallel_calls=tf.data.AUTOTUNE)
    length = task_feature_lengths['targets']
    return super()._convert_features(ds, {**task_feature_lengths, IDS: length, WEIGHTS: length})

  def _convert_example(self, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    converted = dict(super()._convert_example(features))
    converted['decoder_task_ids'] = tf.maximum(features[IDS] - 1, 0)
    converted['decoder_loss_weights'] = tf.bitcast(features[WEIGHTS], tf.float32)
    return converted

  def get_model_feature_lengths(self, task_feature_lengths: Lengths) -> dict[str, int]:
    """The lengths of all features that come out, by name."""
    lengths = dict(super().get_model_feature_lengths(task_feature_lengths))
    return {**lengths, 'decoder_task_ids': task_feature_lengths['targets']}


def for_tasks(tasks: Sequence[str]) -> type[Converter]:
  """The converter for an objective with these tasks, in their order."""
  return type('ConverterOfTasks', (Converter,), {'tasks': tuple(tasks)})


def _spread(spec: Mapping[str, tf.TensorSpec], tasks: Sequence[str]):
  """The function that spreads a row's task and weight over its target tokens."""
  if 'task_id' not in spec and len(tasks) > 1:
    raise ValueError(
      f'the loss is of {", ".join(tasks)}, but the rows do not say which they are of: they have '
      f'{", ".join(sorted(spec))} and no task_id. Name a mixture of dss_jax.tasks, make your own '
      'with dss_jax.tasks.mixture.Mixture, or choose a METHOD with one task.'
    )
  numbers = tf.constant([registry.task_id(task) for task in tasks], tf.int32)
  message = f'a row is of a task that the loss does not have; it has {", ".join(tasks)}'

  def spread(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    number = row.get('task_id', numbers[0])
    place = tf.reduce_sum(tf.where(numbers == number, tf.range(1, len(tasks) + 1), 0))
    with tf.control_dependencies([tf.debugging.assert_positive(place, message)]):
      place = tf.identity(place)
    bits = tf.bitcast(tf.cast(row.get('loss_weight', 1.0), tf.float32), tf.int32)
    weight = tf.where(tf.equal(bits, 0), NEGATIVE_ZERO, bits)
    ones = tf.ones_like(row['targets'], tf.int32)
    kept = {name: row[name] for name in ('inputs', 'targets')}
    return {**kept, IDS: ones * place, WEIGHTS: ones * weight}

  return spread
