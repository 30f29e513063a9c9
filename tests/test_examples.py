"""Loading of SeqIO tasks into flat arrays, groups, and the cutting of long sequences."""

import itertools

import numpy as np
import pytest

from dss_jax.data import examples as lib


def ragged(inputs, targets, task_id=0, example_ids=None):
  """An `Examples` from lists of token lists."""
  flat = [np.array([t for row in rows for t in row], np.int32) for rows in (inputs, targets)]
  offsets = [lib.offsets_of(np.array([len(row) for row in rows])) for rows in (inputs, targets)]
  ids = np.arange(len(inputs)) if example_ids is None else np.array(example_ids)
  task_ids = np.full(len(inputs), task_id, np.int32)
  return lib.Examples(flat[0], offsets[0], flat[1], offsets[1], task_ids, ids)


def rows_of(flat, offsets):
  return [flat[a:b].tolist() for a, b in itertools.pairwise(offsets)]


@pytest.fixture(scope='module')
def registered():
  """SeqIO tasks `data_test_label`, `.._rationale` (3 byte-level examples), `.._empty`, mixtures."""
  seqio = pytest.importorskip('seqio')
  import tensorflow as tf

  def source(targets, task_id):
    def read(split, shuffle_files, seed=None):
      n = len(targets)
      return tf.data.Dataset.from_tensor_slices(
        {
          'inputs': tf.constant(['a', 'bcd', 'é'][:n], tf.string),
          'targets': tf.constant(targets, tf.string),
          'label': tf.constant(targets, tf.string),
          'task_id': tf.fill([n], task_id),
          'example_id': tf.range(10, 10 + n),
        }
      )

    return seqio.FunctionDataSource(read, splits=['train', 'test'])

  feature = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
  steps = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
  for name, targets, task_id in (
    ('data_test_label', ['x', 'y', 'z'], 0),
    ('data_test_rationale', ['xx', 'yyyy', 'z'], 1),
    ('data_test_empty', [], 0),
  ):
    seqio.TaskRegistry.add(
      name,
      source=source(targets, task_id),
      preprocessors=steps,
      output_features={'inputs': feature, 'targets': feature},
    )
  both = ['data_test_label', 'data_test_rationale']
  seqio.MixtureRegistry.add('data_test_mixture', [(both[0], 1.0), (both[1], 3.0)])
  yield
  for name in (*both, 'data_test_empty'):
    seqio.TaskRegistry.remove(name)
  seqio.MixtureRegistry.remove('data_test_mixture')


def test_a_task_is_loaded_whole_in_order_with_eos(registered):
  loaded = lib.load_examples('data_test_rationale', 'train')
  byte = lambda text: [b + 3 for b in text.encode()] + [1]  # noqa: E731
  assert rows_of(loaded.inputs, loaded.input_offsets) == [byte('a'), byte('bcd'), byte('é')]
  assert rows_of(loaded.targets, loaded.target_offsets) == [byte('xx'), byte('yyyy'), byte('z')]
  assert loaded.task_ids.tolist() == [1, 1, 1]
  assert loaded.example_ids.tolist() == [10, 11, 12]
  assert loaded.inputs.dtype == loaded.targets.dtype == loaded.task_ids.dtype == np.int32
  assert loaded.texts == {}


def test_texts_are_kept_on_request(registered):
  loaded = lib.load_examples('data_test_label', 'test', keep_text=True)
  assert loaded.texts['inputs_pretokenized'] == ['a', 'bcd', 'é']
  assert loaded.texts['targets_pretokenized'] == loaded.texts['label'] == ['x', 'y', 'z']


def test_a_mixture_is_its_tasks_with_their_rates(registered):
  mixture = lib.load_mixture('data_test_mixture', 'train')
  assert [(task.name, task.rate, len(task.examples)) for task in mixture] == [
    ('data_test_label', 1.0, 3),
    ('data_test_rationale', 3.0, 3),
  ]
  (task,) = lib.load_mixture('data_test_label', 'train')
  assert task.rate == 1.0


@pytest.mark.parametrize(
  ('name', 'split', 'message'),
  [
    ('data_test_lable', 'train', 'near names: data_test_label'),
    ('data_test_label', 'trian', 'near names: train'),
    ('data_test_empty', 'train', 'no examples in split'),
  ],
)
def test_what_cannot_be_loaded_is_named(registered, name, split, message):
  with pytest.raises(ValueError, match=message):
    lib.load_mixture(name, split)


def test_equal_neighbouring_ids_form_a_group():
  examples = ragged([[1]] * 6, [[1]] * 6, example_ids=[4, 4, 7, 4, 8, 8])
  assert examples.group_offsets().tolist() == [0, 2, 3, 4, 6]


def test_cut_sequences_keep_their_eos_and_others_stay():
  examples = ragged([[5, 6, 7, 8, 1], [9, 1], [2, 3, 1]], [[4, 1], [4, 5, 6, 1], [1]])
  cut = examples.truncated({'inputs': 3, 'targets': 2})
  assert rows_of(cut.inputs, cut.input_offsets) == [[5, 6, 1], [9, 1], [2, 3, 1]]
  assert rows_of(cut.targets, cut.target_offsets) == [[4, 1], [4, 1], [1]]
  assert rows_of(examples.inputs, examples.input_offsets)[0] == [5, 6, 7, 8, 1]


def test_truncations_are_counted_per_task_and_feature():
  short = lib.TaskExamples('short', 1.0, ragged([[1]], [[1]]))
  long = lib.TaskExamples('long', 1.0, ragged([[2, 1]] * 3, [[2, 2, 2, 1], [2, 2, 1], [1]]))
  (found,) = lib.truncations([short, long], {'inputs': 2, 'targets': 2})
  assert (found.count, found.total, found.longest) == (2, 3, 4)
  assert str(found) == (
    'long: 2 of 3 targets are cut at 2 tokens (longest 4); '
    "raise TASK_FEATURE_LENGTHS['targets'] to keep them"
  )


def test_concatenated_examples_keep_every_sequence():
  both = lib.Examples.concatenate(
    [ragged([[5, 1], [1]], [[6, 1], [7, 1]]), ragged([[8, 9, 1]], [[1]], task_id=1)]
  )
  assert rows_of(both.inputs, both.input_offsets) == [[5, 1], [1], [8, 9, 1]]
  assert rows_of(both.targets, both.target_offsets) == [[6, 1], [7, 1], [1]]
  assert both.task_ids.tolist() == [0, 0, 1]
