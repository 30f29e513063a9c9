"""Order of draws, packing into rows, filling of arrays: by hand and by property."""

import dataclasses

import numpy as np
import pytest

from dss_jax.data import packing
from dss_jax.data.examples import Examples, offsets_of

LENGTHS = {'inputs': 8, 'targets': 4}


def sized(input_lengths, target_lengths, task_ids=None):
  """Examples of given lengths whose tokens are all different (from 2 up)."""
  offsets = [offsets_of(np.array(lengths)) for lengths in (input_lengths, target_lengths)]
  inputs = np.arange(2, 2 + offsets[0][-1], dtype=np.int32)
  targets = np.arange(1000, 1000 + offsets[1][-1], dtype=np.int32)
  n = len(input_lengths)
  ids = np.zeros(n, np.int32) if task_ids is None else np.array(task_ids, np.int32)
  return Examples(inputs, offsets[0], targets, offsets[1], ids, np.arange(n))


def random_sized(n, seed=0, capacity=(64, 32)):
  rng = np.random.default_rng(seed)
  return sized(rng.integers(1, capacity[0] // 2, n), rng.integers(1, capacity[1] // 2, n))


def pack_all(examples, lengths, group_sizes=None):
  ends = np.cumsum(np.ones(len(examples), int) if group_sizes is None else group_sizes)
  starts = np.r_[0, ends[:-1]]
  return packing.pack(examples, starts, ends, lengths)


def as_lists(rows):
  return [rows[r : r + 1].members.tolist() for r in range(len(rows))]


# Order of draws


def test_permutations_are_permutations_that_depend_on_seed_and_epoch():
  orders = [packing.permutation(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
  assert all(sorted(order) == list(range(50)) for order in orders)
  assert len({tuple(order) for order in orders}) == 4


def test_a_permutation_never_changes_between_releases():
  assert packing.permutation(8, 0, 0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]


def test_every_item_is_drawn_once_an_epoch_in_permuted_order():
  items = np.concatenate([packing.draw_window(w, 16, [1.0], [10], seed=3)[1] for w in range(5)])
  assert len(items) == 80
  for epoch in range(8):
    expected = packing.permutation(10, 3, epoch)
    np.testing.assert_array_equal(items[10 * epoch : 10 * epoch + 10], expected)


def test_equal_sized_tasks_visit_the_same_items_side_by_side():
  tasks, items = packing.draw_window(7, 100, [0.5, 0.5], [30, 30], seed=0)
  assert tasks.tolist() == [0, 1] * 50
  np.testing.assert_array_equal(items[0::2], items[1::2])


@pytest.mark.parametrize('shares', [[0.5, 0.5], [0.1, 0.2, 0.7], [1 / 3, 2 / 3], [0.001, 0.999]])
def test_every_stretch_of_draws_has_each_tasks_share(shares):
  tasks = np.concatenate(
    [packing.draw_window(w, 128, shares, [50] * len(shares), 0)[0] for w in range(40)]
  )
  for task, share in enumerate(shares):
    drawn = np.r_[0, np.cumsum(tasks == task)]
    excess = drawn - share * np.arange(len(drawn))
    assert np.ptp(excess) <= len(shares) + 1
  assert abs(len(tasks) - 40 * 128) <= len(shares)


def test_a_task_of_rate_zero_is_never_drawn():
  tasks, _ = packing.draw_window(0, 64, [0.0, 1.0], [5, 5], 0)
  assert set(tasks) == {1}


# Packing


def test_first_fit_by_hand():
  # Row 0 takes 0 and 1 (inputs 5 + 2, targets 2 + 1), row 1 takes 2; 3 fits row 0 again.
  examples = sized([5, 2, 4, 1], [2, 1, 3, 1])
  assert as_lists(pack_all(examples, LENGTHS)) == [[0, 1, 3], [2]]


def test_targets_alone_can_fill_a_row():
  assert as_lists(pack_all(sized([1, 1, 1], [3, 3, 1]), LENGTHS)) == [[0, 2], [1]]


def test_a_group_goes_whole_into_one_row():
  # Example 1 alone would fit row 0; with its partner it does not.
  examples = sized([5, 3, 3], [1, 1, 1])
  assert as_lists(pack_all(examples, LENGTHS, group_sizes=[1, 2])) == [[0], [1, 2]]


def test_a_group_too_long_for_a_row_takes_neighbouring_rows():
  # Row 0 has room for example 1, but the pair (1, 2) is to stay in neighbouring rows.
  examples = sized([3, 5, 5, 3], [1, 1, 1, 1])
  assert as_lists(pack_all(examples, LENGTHS, group_sizes=[1, 2, 1])) == [[0, 3], [1], [2]]


@pytest.mark.parametrize('group', [1, 2, 3])
def test_rows_hold_every_sequence_once_and_never_overflow(group):
  examples = random_sized(900)
  lengths = {'inputs': 64, 'targets': 32}
  rows = pack_all(examples, lengths, group_sizes=[group] * (900 // group))
  assert sorted(rows.members) == list(range(900))
  for members in as_lists(rows):
    assert members
    assert examples.input_lengths[members].sum() <= 64
    assert examples.target_lengths[members].sum() <= 32


def test_groups_that_fit_are_adjacent_in_one_row():
  examples = random_sized(400, capacity=(32, 16))
  rows = pack_all(examples, {'inputs': 64, 'targets': 32}, group_sizes=[2] * 200)
  for members in as_lists(rows):
    pairs = np.array(members).reshape(-1, 2)
    np.testing.assert_array_equal(pairs[:, 0] + 1, pairs[:, 1])


def test_packing_is_dense():
  examples = random_sized(2000, capacity=(16, 8))
  rows = pack_all(examples, {'inputs': 64, 'targets': 32})
  bound = max(examples.input_lengths.sum() / 64, examples.target_lengths.sum() / 32)
  assert bound / len(rows) > 0.95


def test_slices_of_rows_join_to_the_whole():
  rows = pack_all(random_sized(100), {'inputs': 64, 'targets': 32})
  joined = packing.Rows.concatenate([rows[:5], rows[5:5], rows[5:9], rows[9:]])
  np.testing.assert_array_equal(joined.members, rows.members)
  np.testing.assert_array_equal(joined.offsets, rows.offsets)


# Filling


def test_a_packed_row_by_hand():
  examples = sized([2, 3], [1, 2], task_ids=[0, 1])
  rows = packing.Rows(np.array([1, 0]), np.array([0, 2]))
  arrays = packing.fill(examples, rows, LENGTHS)
  assert {name: array.tolist() for name, array in arrays.items()} == {
    'encoder_input_tokens': [[4, 5, 6, 2, 3, 0, 0, 0]],
    'encoder_segment_ids': [[1, 1, 1, 2, 2, 0, 0, 0]],
    'decoder_input_tokens': [[0, 1001, 0, 0]],
    'decoder_target_tokens': [[1001, 1002, 1000, 0]],
    'decoder_segment_ids': [[1, 1, 2, 0]],
    'decoder_task_ids': [[1, 1, 0, 0]],
    'decoder_loss_weights': [[1.0, 1.0, 1.0, 0.0]],
  }
  kinds = {name: array.dtype for name, array in arrays.items()}
  assert kinds.pop('decoder_loss_weights') == np.float32
  assert set(kinds.values()) == {np.dtype(np.int32)}


def test_a_sequence_keeps_its_loss_weight_wherever_it_goes():
  examples = sized([2, 3, 1], [1, 2, 3])
  assert examples.loss_weights.tolist() == [1.0, 1.0, 1.0]
  weighted = dataclasses.replace(examples, loss_weights=np.array([0.5, 0.0, 2.0], np.float32))
  cut = Examples.concatenate([weighted.take(np.array([2, 0])), examples]).truncated(
    {'inputs': 8, 'targets': 2}
  )
  assert cut.loss_weights.tolist() == [2.0, 0.5, 1.0, 1.0, 1.0]
  rows = packing.Rows(np.array([0, 1, 3]), np.array([0, 2, 3]))
  weights = packing.fill(cut, rows, LENGTHS)['decoder_loss_weights']
  assert weights.tolist() == [[2.0, 2.0, 0.5, 0.0], [1.0, 1.0, 0.0, 0.0]]


def test_empty_rows_are_all_zero():
  rows = packing.one_per_row(np.array([0])).padded_to(3)
  arrays = packing.fill(sized([2], [2]), rows, LENGTHS)
  for array in arrays.values():
    assert len(array) == 3
    assert not array[1:].any()
