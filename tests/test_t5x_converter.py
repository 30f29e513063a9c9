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
METHODS = [method for method in methods.registered() if not method.is_grouped]
STREAMS = ('dss', 'paired', 'weighted_rationales')


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
def streams() -> dict[str, list[dict]]:
  """The rows of some methods as SeqIO's own mixtures and tasks have them."""
  return {name: list(rows_of(f'converted_{name}').as_numpy_iterator()) for name in STREAMS}


def dataset_of(rows: list[dict]) -> tf.data.Dataset:
  """A stream of such rows."""
  columns = {
    'inputs': tf.ragged.constant([row['inputs'] for row in rows], tf.int32),
    'targets': tf.ragged.constant([row['targets'] for row in rows], tf.int32),
    'task_id': [int(row['task_id']) for row in rows],
    'loss_weight': [float(row.get('loss_weight', 1.0)) for row in rows],
  }
  return tf.data.Dataset.from_tensor_slices(columns).map(
    lambda row: {**row, 'inputs': row['inputs'] + 0, 'targets': row['targets'] + 0}
  )


@pytest.mark.parametrize('pack', [False, True])
def test_every_sequence_has_its_task_and_its_weight(streams, pack):
  rows, tasks = [row for rows in streams.values() for row in rows], ('rationale', 'label')
  # Ours have none of weight 0, but tasks of somebody else's may.
  weightless = [
    row for row in streams['paired'] if int(row['task_id']) == registry.task_id('rationale')
  ]
  rows = [{**row, 'loss_weight': 0.0} for row in weightless[:3]] + rows
  expected = [
    (
      tuple(row['targets'].tolist()),
      tasks.index(registry.task_of(int(row['task_id']))),
      float(row.get('loss_weight', 1.0)),
    )
    for row in rows
  ]
  weights = {(0, 1.0), (1, 1.0), (0, 0.5), (0, 0.0)}
  assert {(task, weight) for _, task, weight in expected} == weights
  found = [one for row in convert(dataset_of(rows), tasks, pack) for one in sequences(row, pack)]
  assert sorted(found) == sorted(expected)


@pytest.mark.parametrize('method', METHODS, ids=lambda method: method.name)
def test_the_rows_of_every_method_are_of_its_own_tasks(method):
  row = {'inputs': tf.constant([5, 1]), 'targets': tf.constant([7, 8, 1])}
  spread = converter._spread({'task_id': tf.TensorSpec((), tf.int32)}, method.tasks)
  for made in method.rows:
    ids = spread({**row, 'task_id': registry.task_id(made.task)})[converter.IDS]
    assert [method.tasks[place - 1] for place in ids.numpy()] == [made.task] * 3


def test_rows_without_a_task_are_refused_where_the_loss_has_several():
  members = ['converted_label', 'converted_rationale']
  seqio.MixtureRegistry.add('converted_plain', members, default_rate=1.0)
  with pytest.raises(ValueError, match='no task_id'):
    convert(rows_of('converted_plain'), ('label', 'rationale'), pack=True)
  own = mixture.Mixture('converted_own', members, default_rate=1.0)
  seqio.MixtureRegistry.add_provider('converted_own', own)
  assert {'task_id', 'loss_weight'} <= set(rows_of('converted_own').element_spec)


def test_rows_of_a_task_that_the_loss_does_not_have_are_refused():
  with pytest.raises(tf.errors.InvalidArgumentError, match='the loss does not have; it has label'):
    convert(rows_of('converted_rationale'), ('label',), pack=False)
