"""Batches for training, validation and decoding: order, state, slices, and SeqIO as the judge."""

import collections
import json

import numpy as np
import pytest

from dss_jax.data import packing, pipeline
from dss_jax.data.examples import Examples, TaskExamples, offsets_of

LENGTHS = {'inputs': 64, 'targets': 32}


def random_examples(n, task_id=0, seed=0, group=1, longest=(30, 14)):
  """Sequences of random tokens (3..99) with EOS; `group` neighbours share an example id."""
  rng = np.random.default_rng([seed, task_id])

  def side(most):
    offsets = offsets_of(rng.integers(2, most + 1, n))
    tokens = rng.integers(3, 100, offsets[-1]).astype(np.int32)
    tokens[offsets[1:] - 1] = 1
    return tokens, offsets

  task_ids = (task_id + np.arange(n) % group).astype(np.int32)
  inputs, input_offsets = side(longest[0])
  targets, target_offsets = side(longest[1])
  ids = np.arange(n) // group
  return Examples(inputs, input_offsets, targets, target_offsets, task_ids, ids)


def two_tasks(n=100):
  return [
    TaskExamples('label', 1.0, random_examples(n, 0, longest=(30, 4))),
    TaskExamples('rationale', 1.0, random_examples(n, 1)),
  ]


def paired(n=100, longest=(30, 14)):
  return [TaskExamples('paired', 1.0, random_examples(2 * n, 0, group=2, longest=longest))]


def config(batch_size=8, **kwargs):
  return pipeline.DataConfig('unused', LENGTHS, batch_size, **kwargs)


def take(batches, n):
  return [next(batches) for _ in range(n)]


def segments_of(arrays):
  """(inputs, targets, task id) of every segment, in order of row and segment."""
  found = []
  for row in range(len(arrays['encoder_segment_ids'])):
    encoder, decoder = arrays['encoder_segment_ids'][row], arrays['decoder_segment_ids'][row]
    for segment in range(1, max(encoder.max(), decoder.max()) + 1):
      inputs = arrays['encoder_input_tokens'][row][encoder == segment]
      targets = arrays['decoder_target_tokens'][row][decoder == segment]
      (task_id,) = set(arrays['decoder_task_ids'][row][decoder == segment].tolist())
      found.append((tuple(inputs.tolist()), tuple(targets.tolist()), task_id))
  return found


def sequences_of(examples):
  ends = examples.input_offsets, examples.target_offsets
  return [
    (
      tuple(examples.inputs[ends[0][i] : ends[0][i + 1]].tolist()),
      tuple(examples.targets[ends[1][i] : ends[1][i + 1]].tolist()),
      int(examples.task_ids[i]),
    )
    for i in range(len(examples))
  ]


def assert_same(a, b):
  for key in a.arrays:
    np.testing.assert_array_equal(a.arrays[key], b.arrays[key], err_msg=key)
  np.testing.assert_array_equal(a.example_ids, b.example_ids)
  assert (a.sequences, a.tokens, a.state) == (b.sequences, b.tokens, b.state)


# Training


@pytest.mark.parametrize('pack', [True, False])
def test_every_sequence_comes_exactly_once_an_epoch(monkeypatch, pack):
  monkeypatch.setattr(pipeline, 'WINDOW_DRAWS', 200)  # one epoch of two tasks of 100
  mixture = two_tasks(100)
  expected = collections.Counter(s for task in mixture for s in sequences_of(task.examples))
  batches = pipeline.TrainBatches(mixture, config(1, pack=pack))
  for epoch in range(3):
    found: collections.Counter = collections.Counter()
    while batches.state['window'] == epoch:
      found.update(segments_of(next(batches).arrays))
    assert found == expected


def test_unpacked_rows_follow_the_permutation():
  examples = random_examples(10)
  batches = pipeline.TrainBatches([TaskExamples('t', 1.0, examples)], config(5, pack=False, seed=4))
  ids = np.concatenate([batch.example_ids[:, 0] for batch in take(batches, 6)])
  expected = np.concatenate([packing.permutation(10, 4, epoch) for epoch in range(3)])
  np.testing.assert_array_equal(ids, expected)


def test_example_ids_name_the_segments_of_their_row():
  examples = random_examples(300)
  by_id = sequences_of(examples)
  batch = next(pipeline.TrainBatches([TaskExamples('t', 1.0, examples)], config()))
  named = [by_id[i] for row in batch.example_ids for i in row if i >= 0]
  assert named == segments_of(batch.arrays)
  assert batch.sequences == len(named)


def test_decoder_inputs_are_targets_shifted_inside_each_segment():
  batch = next(pipeline.TrainBatches(two_tasks(), config()))
  arrays = batch.arrays
  segments, inputs = arrays['decoder_segment_ids'], arrays['decoder_input_tokens']
  first = (segments > 0) & (segments != np.pad(segments, ((0, 0), (1, 0)))[:, :-1])
  inner = (segments > 0) & ~first
  before = np.pad(arrays['decoder_target_tokens'], ((0, 0), (1, 0)))[:, :-1]
  assert (inputs[first] == 0).all()
  np.testing.assert_array_equal(inputs[inner], before[inner])
  np.testing.assert_array_equal(arrays['decoder_loss_weights'], (segments > 0).astype(np.float32))
  real = (segments > 0).sum() + (arrays['encoder_segment_ids'] > 0).sum()
  assert batch.tokens == real


def test_packed_batches_hold_nearly_the_mixtures_shares():
  batches = pipeline.TrainBatches(two_tasks(5000), config(64))
  for batch in take(batches, 20):
    tasks = np.array([task_id for _, _, task_id in segments_of(batch.arrays)])
    assert abs(tasks.mean() - 0.5) < 0.04


def test_unpacked_batches_hold_exactly_the_shares():
  for batch in take(pipeline.TrainBatches(two_tasks(), config(8, pack=False)), 10):
    assert batch.arrays['decoder_task_ids'].max(axis=1).sum() == 4


def test_rates_count_examples_not_groups():
  single = TaskExamples('single', 1.0, random_examples(100, task_id=5))
  batches = pipeline.TrainBatches([*paired(), single], config(6, pack=False))
  for batch in take(batches, 10):
    assert (batch.arrays['decoder_task_ids'].max(axis=1) == 5).sum() in (2, 3, 4)
  draws = batches._shares
  np.testing.assert_allclose(draws, [1 / 3, 2 / 3])


def test_pairs_are_adjacent_unpacked_and_in_one_row_packed():
  for batch in take(pipeline.TrainBatches(paired(), config(6, pack=False)), 10):
    ids = batch.example_ids.reshape(-1, 2)
    np.testing.assert_array_equal(ids[:, 0], ids[:, 1])
    assert batch.arrays['decoder_task_ids'].max(axis=1).tolist() == [0, 1] * 3
  for batch in take(pipeline.TrainBatches(paired(), config(6)), 10):
    for row in batch.example_ids:
      members = row[row >= 0].reshape(-1, 2)
      np.testing.assert_array_equal(members[:, 0], members[:, 1])


@pytest.mark.parametrize('pack', [True, False])
@pytest.mark.parametrize('at', [0, 3, 57])
def test_a_restored_stream_continues_identically(monkeypatch, pack, at):
  monkeypatch.setattr(pipeline, 'WINDOW_DRAWS', 64)
  batches = pipeline.TrainBatches(two_tasks(), config(pack=pack))
  take(batches, at)
  state = json.loads(json.dumps(batches.state))
  expected = take(batches, 12)
  resumed = pipeline.TrainBatches(two_tasks(), config(pack=pack))
  resumed.restore(state)
  for a, b in zip(expected, take(resumed, 12), strict=True):
    assert_same(a, b)
  resumed.restore(expected[4].state)
  assert_same(expected[5], next(resumed))


def test_seeds_give_different_orders():
  a, b = (next(pipeline.TrainBatches(two_tasks(), config(seed=seed))) for seed in (0, 1))
  assert not np.array_equal(a.arrays['encoder_input_tokens'], b.arrays['encoder_input_tokens'])


@pytest.mark.parametrize('make', [pipeline.TrainBatches, pipeline.epoch_batches])
def test_processes_make_the_slices_of_one_batch(make):
  whole = make(two_tasks(), config(8))
  parts = [make(two_tasks(), config(8), [index], 4) for index in range(4)]
  for _ in range(3):
    batch, slices = next(whole), [next(part) for part in parts]
    for key, array in batch.arrays.items():
      np.testing.assert_array_equal(np.concatenate([s.arrays[key] for s in slices]), array)
    assert {(s.sequences, s.tokens, *s.state.values()) for s in slices} == {
      (batch.sequences, batch.tokens, *batch.state.values())
    }


def test_long_sequences_are_cut_and_keep_their_eos():
  long = [TaskExamples('long', 1.0, random_examples(50, longest=(200, 90)))]
  for batch in take(pipeline.TrainBatches(long, config()), 5):
    for inputs, targets, _ in segments_of(batch.arrays):
      assert inputs[-1] == targets[-1] == 1


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: pipeline.TrainBatches(two_tasks(), config(6), [0], 4), 'multiple of the 4 parts'),
    (lambda: pipeline.DataConfig('t', {'inputs': 4}, 2), 'TASK_FEATURE_LENGTHS'),
    (lambda: pipeline.DataConfig('t', {'inputs': 4, 'targets': 0}, 2), 'TASK_FEATURE_LENGTHS'),
    (lambda: config(0), 'BATCH_SIZE'),
    (lambda: config(seed=-1), 'seed'),
    (lambda: pipeline.TrainBatches([two_tasks()[0]._replace(rate=0.0)], config()), 'mixing rates'),
  ],
)
def test_settings_that_cannot_work_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


# Validation


@pytest.mark.parametrize('pack', [True, False])
def test_an_epoch_holds_every_sequence_once_and_is_filled_with_empty_rows(pack):
  mixture = [*two_tasks(37), *paired(10)]
  batches = list(pipeline.epoch_batches(mixture, config(16, pack=pack)))
  assert {batch.arrays['encoder_input_tokens'].shape for batch in batches} == {(16, 64)}
  found = [segment for batch in batches for segment in segments_of(batch.arrays)]
  expected = [sequence for task in mixture for sequence in sequences_of(task.examples)]
  assert collections.Counter(found) == collections.Counter(expected)
  assert sum(batch.sequences for batch in batches) == len(expected)
  assert batches[-1].arrays['decoder_loss_weights'][-1].sum() == 0


# Decoding


def test_every_input_is_decoded_once_in_few_widths():
  examples = random_examples(100, longest=(150, 4))
  cut = examples.truncated({'inputs': 100, 'targets': 4})
  seen = []
  for batch in pipeline.inference_batches(examples, 16, max_input_length=100):
    tokens, segments = batch.arrays['encoder_input_tokens'], batch.arrays['encoder_segment_ids']
    assert len(tokens) == len(batch.rows) == 16
    assert tokens.shape[1] in (32, 48, 64, 96, 100)
    for row, inputs, segment in zip(batch.rows, tokens, segments, strict=True):
      expected = sequences_of(cut)[row][0] if row >= 0 else ()
      assert tuple(inputs[segment == 1].tolist()) == expected
      assert segment.sum() == len(expected)
      seen.append(row)
  assert sorted(row for row in seen if row >= 0) == list(range(100))
  assert seen.count(-1) == 12


def test_the_narrowest_width_and_slices_can_be_chosen():
  examples = random_examples(40, longest=(50, 4))
  whole = list(pipeline.inference_batches(examples, 8, 64, narrowest=16))
  assert {batch.arrays['encoder_input_tokens'].shape[1] for batch in whole} <= {16, 24, 32, 48, 64}
  halves = [list(pipeline.inference_batches(examples, 8, 64, 16, [i], 2)) for i in range(2)]
  for batch, *parts in zip(whole, *halves, strict=True):
    np.testing.assert_array_equal(batch.rows, np.concatenate([part.rows for part in parts]))


# SeqIO as the judge


def seqio_rows(examples, pack):
  """The arrays that SeqIO's own converter makes of the same sequences."""
  seqio = pytest.importorskip('seqio')
  import tensorflow as tf

  sequences = sequences_of(examples)
  signature = {k: tf.TensorSpec([None], tf.int32) for k in ('inputs', 'targets')}
  dataset = tf.data.Dataset.from_generator(
    lambda: ({'inputs': i, 'targets': t} for i, t, _ in sequences), output_signature=signature
  )
  converter = seqio.EncDecFeatureConverter(pack=pack)
  rows = list(converter(dataset, task_feature_lengths=LENGTHS).as_numpy_iterator())
  return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def test_packed_content_equals_seqios_and_is_at_least_as_dense():
  examples = random_examples(200)
  theirs = seqio_rows(examples, pack=True)
  ours = list(pipeline.epoch_batches([TaskExamples('t', 1.0, examples)], config(1)))
  our_segments = [segment for batch in ours for segment in segments_of(batch.arrays)]
  task_ids = np.zeros_like(theirs['decoder_segment_ids'])
  their_segments = segments_of({**theirs, 'decoder_task_ids': task_ids})
  assert collections.Counter(our_segments) == collections.Counter(their_segments)
  assert len(ours) <= len(theirs['encoder_input_tokens'])


def test_unpacked_arrays_equal_seqios():
  examples = random_examples(20)
  theirs = seqio_rows(examples, pack=False)
  mixture = [TaskExamples('t', 1.0, examples)]
  (ours,) = pipeline.epoch_batches(mixture, config(20, pack=False))
  real = theirs['decoder_loss_weights'] > 0
  # SeqIO shifts the last EOS into the padding; ours has zeros there. Nothing reads it.
  theirs['decoder_input_tokens'] *= real
  for key, array in theirs.items():
    np.testing.assert_array_equal(ours.arrays[key], array, err_msg=key)
