"""The feature converter for T5X, on every method, packed and not; needs no T5X."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from dss_jax import methods
from dss_jax.methods import registry
from dss_jax.t5x import converter
from dss_jax.tasks import mixture, registration, vocabulary

LENGTHS = {'inputs': 96, 'targets': 64}
ROWS = [
  {
    'input': f'question {n}',
    'label': f'gold {n}',
    'rationale': f'because {n} is {n + 1} less one',
    'teacher_label': f'gold {n - n % 3}',
  }
  for n in range(24)
]
METHODS = [
  method
  for method in methods.registered()
  if not method.is_grouped and method.label_source == 'gold'  # the others have the same rows
]


@pytest.fixture(scope='module', autouse=True)
def converted():
  """The data set `converted` under the byte vocabulary."""

  def read(split, shuffle_files):
    return tf.data.Dataset.from_tensor_slices({key: [row[key] for row in ROWS] for key in ROWS[0]})

  source = seqio.FunctionDataSource(read, ['train'], {'train': len(ROWS)})
  registration.register_dataset('converted', source)
  with vocabulary.temporary_vocabulary('bytes'):
    yield


def rows_of(name: str) -> tf.data.Dataset:
  """SeqIO's own stream of one epoch."""
  return seqio.get_mixture_or_task(name).get_dataset(
    LENGTHS, 'train', shuffle=False, num_epochs=1, try_in_mem_cache=False
  )


def convert(rows: tf.data.Dataset, tasks, pack: bool) -> list[dict[str, np.ndarray]]:
  """The rows as T5X gets them."""
  converted = converter.for_tasks(tasks)(pack=pack)(rows, LENGTHS)
  return list(converted.as_numpy_iterator())


def sequences(arrays: dict[str, np.ndarray], packed: bool) -> list[tuple]:
  """(target tokens, task, weight) of every sequence of a row."""
  segments = arrays['decoder_segment_ids'] if packed else arrays['decoder_target_tokens'] > 0
  found = []
  for number in range(1, int(segments.max(initial=0)) + 1):
    at = segments == number
    tasks, weights = (
      set(arrays[key][at].tolist()) for key in ('decoder_task_ids', 'decoder_loss_weights')
    )
    assert len(tasks) == len(weights) == 1, 'tokens of a sequence are of one task, with one weight'
    found.append((tuple(arrays['decoder_target_tokens'][at].tolist()), tasks.pop(), weights.pop()))
  padding = segments == 0
  for key in ('decoder_task_ids', 'decoder_loss_weights'):
    assert not arrays[key][padding].any()
  return found


@pytest.fixture(scope='module')
def rows_of_methods() -> list[dict]:
  """The rows of every method on the data set, each as SeqIO's own stream has it."""
  rows = []
  for method in METHODS:
    of_method = list(rows_of(f'converted_{method.name}').as_numpy_iterator())
    tasks = {registry.task_of(int(row['task_id'])) for row in of_method}
    assert tasks == {row.task for row in method.rows}, method.name
    rows += of_method
  return rows


@pytest.mark.parametrize('pack', [False, True])
def test_every_sequence_of_every_method_has_its_task_and_its_weight(rows_of_methods, pack):
  tasks = sorted({task for method in METHODS for task in method.tasks})
  columns = {
    'inputs': tf.ragged.constant([row['inputs'] for row in rows_of_methods], tf.int32),
    'targets': tf.ragged.constant([row['targets'] for row in rows_of_methods], tf.int32),
    'task_id': [int(row['task_id']) for row in rows_of_methods],
    'loss_weight': [float(row.get('loss_weight', 1.0)) for row in rows_of_methods],
  }
  stream = tf.data.Dataset.from_tensor_slices(columns).map(
    lambda row: {**row, 'inputs': row['inputs'] + 0, 'targets': row['targets'] + 0}
  )
  found = [one for row in convert(stream, tasks, pack) for one in sequences(row, pack)]
  expected = [
    (tuple(targets), tasks.index(registry.task_of(number)), weight)
    for targets, number, weight in zip(
      columns['targets'].to_list(), columns['task_id'], columns['loss_weight'], strict=True
    )
  ]
  assert sorted(found) == sorted(expected)
  assert len({weight for *_, weight in found}) == 2, 'weighted_rationales has weights of 0.5'


def test_rows_without_a_task_are_refused_where_the_loss_has_several():
  members = ['converted_label', 'converted_rationale']
  seqio.MixtureRegistry.add('converted_plain', members, default_rate=1.0)
  with pytest.raises(ValueError, match='no task_id'):
    convert(rows_of('converted_plain'), ('label', 'rationale'), pack=True)
  own = mixture.Mixture('converted_own', members, default_rate=1.0)
  seqio.MixtureRegistry.add_provider('converted_own', own)
  assert len(convert(rows_of('converted_own'), ('label', 'rationale'), pack=True)) > 1


def test_rows_of_a_task_that_the_loss_does_not_have_are_refused():
  with pytest.raises(tf.errors.InvalidArgumentError, match='the loss does not have; it has label'):
    convert(rows_of('converted_rationale'), ('label',), pack=False)


def test_the_places_of_tasks_are_those_of_the_objective_and_not_their_numbers():
  assert registry.task_id('label') < registry.task_id('rationale')
  rows = convert(rows_of('converted_paired'), ('rationale', 'label'), pack=False)
  label, rationale = rows[0], rows[1]
  real = label['decoder_target_tokens'] > 0
  assert set(label['decoder_task_ids'][real]) == {1}
  assert not rationale['decoder_task_ids'].any()
