"""The feature converter for T5X, on every method, packed and not; needs no T5X."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from dss_jax import methods
from dss_jax.data import pipeline
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


def convert(name: str, tasks, pack: bool) -> list[dict[str, np.ndarray]]:
  """SeqIO's own stream of one epoch through the converter."""
  rows = seqio.get_dataset(
    mixture_or_task_name=name,
    task_feature_lengths=LENGTHS,
    dataset_split='train',
    shuffle=False,
    num_epochs=1,
    feature_converter=converter.for_tasks(tasks)(pack=pack),
  )
  return list(rows.as_numpy_iterator())


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


@pytest.mark.parametrize('pack', [False, True])
@pytest.mark.parametrize('method', METHODS, ids=lambda method: method.name)
def test_every_sequence_has_the_task_and_weight_that_our_own_batches_give_it(method, pack):
  name = f'converted_{method.name}'
  ours = [part.examples for part in pipeline.load_mixture(name, 'train', method.tasks)]
  expected = {
    (tuple(tokens), int(task), float(weight))
    for part in ours
    for tokens, task, weight in zip(
      np.split(part.targets, part.target_offsets[1:-1]),
      part.task_ids,
      part.loss_weights,
      strict=True,
    )
  }
  found = [one for row in convert(name, method.tasks, pack) for one in sequences(row, pack)]
  assert set(found) <= expected
  # A SeqIO mixture ends with its shortest task; a task is read to its end.
  assert len(found) >= min(len(part) for part in ours)
  assert {task for _, task, _ in found} == {task for _, task, _ in expected}
  assert {weight for *_, weight in found} == {weight for *_, weight in expected}


def test_rows_without_a_task_are_refused_where_the_loss_has_several():
  members = ['converted_label', 'converted_rationale']
  seqio.MixtureRegistry.add('converted_plain', members, default_rate=1.0)
  with pytest.raises(ValueError, match='no task_id'):
    convert('converted_plain', ('label', 'rationale'), pack=True)
  own = mixture.Mixture('converted_own', members, default_rate=1.0)
  seqio.MixtureRegistry.add_provider('converted_own', own)
  assert len(convert('converted_own', ('label', 'rationale'), pack=True)) > 1


def test_rows_of_a_task_that_the_loss_does_not_have_are_refused():
  with pytest.raises(tf.errors.InvalidArgumentError, match='the loss does not have; it has label'):
    convert('converted_rationale', ('label',), pack=False)


def test_the_places_of_tasks_are_those_of_the_objective_and_not_their_numbers():
  assert registry.task_id('label') < registry.task_id('rationale')
  rows = convert('converted_paired', ('rationale', 'label'), pack=False)
  label, rationale = rows[0], rows[1]
  real = label['decoder_target_tokens'] > 0
  assert set(label['decoder_task_ids'][real]) == {1}
  assert not rationale['decoder_task_ids'].any()
