"""Which example goes where: the order of draws, the packing of rows, the filling of arrays.

Pure functions of numpy arrays and a seed. Everything random comes from raw Philox bits, whose
stream numpy never changes, so that a window of draws is the same on every machine and version.
Does not own loading (examples.py) or the iteration over batches (data.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from dss_jax.examples import Examples, spans

# First-fit keeps this many rows open. More is slower and hardly denser.
OPEN_ROWS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """A plan: row r holds the examples `members[offsets[r]:offsets[r + 1]]`, left to right.

  Attributes:
    members: int64 [sequences], indices into an `Examples`.
    offsets: int64 [rows + 1].
  """

  members: np.ndarray
  offsets: np.ndarray

  def __len__(self) -> int:
    return len(self.offsets) - 1

  def __getitem__(self, rows: slice) -> Rows:
    start, stop, _ = rows.indices(len(self))
    offsets = self.offsets[start : max(start, stop) + 1]
    return Rows(self.members[offsets[0] : offsets[-1]], offsets - offsets[0])

  @staticmethod
  def concatenate(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, in order."""
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    members = np.concatenate([part.members for part in parts])
    return Rows(members, np.concatenate([[0], np.cumsum(sizes)]))

  def padded_to(self, rows: int) -> Rows:
    """The same with empty rows appended up to `rows`."""
    return Rows(self.members, np.pad(self.offsets, (0, rows - len(self)), mode='edge'))


@functools.lru_cache(maxsize=16)
def permutation(n: int, seed: int, index: int, purpose: int = 0) -> np.ndarray:
  """int64 [n]: permutation number `index` of 0..n-1, computed without the ones before it."""
  bits = np.random.Philox(key=[seed, index], counter=[0, 0, 0, purpose]).random_raw(n)
  order = np.argsort(bits, kind='stable')
  order.setflags(write=False)
  return order


def draw_window(
  window: int, draws: int, shares: Sequence[float], sizes: Sequence[int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws `window * draws` up to `(window + 1) * draws` of an endless, balanced mixture.

  Task k's j-th draw happens at time (j + 1/2) / shares[k]; a window is the draws of one span of
  time. So every stretch of draws has each task's share to within one draw, rates are exact in the
  long run however small, and no window needs the ones before it. Each task visits all its items
  once an epoch, in a permutation keyed by seed and epoch but not by task: tasks of equal size
  (label and rationale) visit the same items side by side.

  Args:
    window: which one, from 0.
    draws: expected number of draws in a window (the actual one differs by at most one per task).
    shares: of each task, summing to 1; a task of share 0 is never drawn.
    sizes: items of each task.
    seed: of the permutations.

  Returns:
    tasks int64 [about draws] and items int64 [same]: item < sizes[task].
  """
  times, tasks, items = [], [], []
  for task, (share, size) in enumerate(zip(shares, sizes, strict=True)):
    if share == 0:
      continue
    first, last = (int(edge * draws * share + 0.5) for edge in (window, window + 1))
    count = np.arange(first, last)
    epoch, position = np.divmod(count, size)
    times.append((count + 0.5) / share)
    tasks.append(np.full(len(count), task))
    items.extend(permutation(size, seed, int(e))[position[epoch == e]] for e in np.unique(epoch))
  order = np.argsort(np.concatenate(times), kind='stable')
  return np.concatenate(tasks)[order], np.concatenate(items)[order]


def one_per_row(members: np.ndarray) -> Rows:
  """Rows of one sequence each, in the given order."""
  return Rows(members, np.arange(len(members) + 1))


def pack(
  examples: Examples,
  starts: np.ndarray,
  ends: np.ndarray,
  lengths: Mapping[str, int],
  shuffle: tuple[int, int] | None = None,
) -> Rows:
  """Packs groups of sequences into rows by first fit in the order given.

  Not first-fit-decreasing: sorting by length puts all rationales first and leaves rows of labels
  only, whose inputs fill up while their targets stay empty. On lengths like CQA's in rows of
  512/128, the order of draws fills 99 % of what the binding side allows, decreasing order 80 %,
  and each row keeps the mixture's shares.

  A group goes whole into one row. One that is too long for a row is spread over neighbouring new
  rows, which stay neighbours.

  Args:
    examples: where the lengths come from; none longer than `lengths`.
    starts: int64 [groups], first example of each group.
    ends: int64 [groups], one past its last.
    lengths: 'inputs' and 'targets': capacity of a row in tokens.
    shuffle: (seed, index) of the random order of the rows; None keeps the order they were opened.
  """
  capacity = (lengths['inputs'], lengths['targets'])
  members, unit_sizes, alone = _units(examples, starts, ends, capacity)
  unit_ends = np.cumsum(unit_sizes)
  totals = [
    np.add.reduceat(sizes[members], unit_ends - unit_sizes).tolist()
    for sizes in (examples.input_lengths, examples.target_lengths)
  ]
  row_of_unit, continues = _first_fit(totals[0], totals[1], alone.tolist(), capacity)
  if shuffle is not None:
    blocks = np.cumsum(~continues) - 1  # rows of one group are a block and move together
    rank = permutation(int(blocks[-1]) + 1, *shuffle, purpose=1)
    order = np.argsort(rank[blocks], kind='stable')
    row_of_unit = np.argsort(order)[row_of_unit]
  row_of_member = np.repeat(row_of_unit, unit_sizes)
  counts = np.bincount(row_of_member, minlength=len(continues))
  order = np.argsort(row_of_member, kind='stable')
  return Rows(members[order], np.concatenate([[0], np.cumsum(counts)]))


def _units(
  examples: Examples, starts: np.ndarray, ends: np.ndarray, capacity: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """What is placed at once: whole groups, or the single members of groups too long for a row.

  Returns:
    members int64 [sequences]; sizes int64 [units], members of each unit; alone int8 [units]: 0 for
    a group, 1 for the first member of a spread group, 2 for its other members.
  """
  too_long = np.zeros(len(starts), bool)
  offsets = (examples.input_offsets, examples.target_offsets)
  for offset, limit in zip(offsets, capacity, strict=True):
    too_long |= offset[ends] - offset[starts] > limit
  group_sizes = ends - starts
  units_of_group = np.where(too_long, group_sizes, 1)
  group_of_unit = np.repeat(np.arange(len(starts)), units_of_group)
  first = np.r_[True, group_of_unit[1:] != group_of_unit[:-1]]
  alone = np.where(too_long[group_of_unit], np.where(first, 1, 2), 0)
  sizes = np.where(alone > 0, 1, group_sizes[group_of_unit])
  return spans(starts, group_sizes), sizes, alone


def _first_fit(
  inputs: list[int], targets: list[int], alone: list[int], capacity: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Row of each unit, int64 [units]; and per row whether it continues the group of the last row."""
  least_input, least_target = min(inputs), min(targets)
  rows, continues, open_rows = [], [], []
  for need_input, need_target, kind in zip(inputs, targets, alone, strict=True):
    row = None
    if kind == 0:
      for candidate in open_rows:
        if candidate[1] >= need_input and candidate[2] >= need_target:
          row = candidate
          break
    if row is None:
      row = [len(continues), *capacity]
      continues.append(kind == 2)
      open_rows.append(row)
      if len(open_rows) > OPEN_ROWS:
        del open_rows[0]
    rows.append(row[0])
    row[1] -= need_input
    row[2] -= need_target
    if row[1] < least_input or row[2] < least_target:
      open_rows.remove(row)
  return np.array(rows), np.array(continues, bool)


def fill(examples: Examples, rows: Rows, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
  """The arrays of a batch: see the table in data.py. Static shapes [rows, S] and [rows, T]."""
  segments = np.diff(rows.offsets)
  row_of = np.repeat(np.arange(len(rows)), segments)
  number = np.arange(len(row_of)) - rows.offsets[row_of] + 1
  encoder = _Side(examples.input_offsets, rows.members, rows.offsets, row_of, lengths['inputs'])
  decoder = _Side(examples.target_offsets, rows.members, rows.offsets, row_of, lengths['targets'])
  targets = examples.targets[decoder.source]
  shifted = np.empty_like(targets)
  shifted[1:] = targets[:-1]
  shifted[decoder.firsts] = 0
  shape_in, shape_out = (len(rows), lengths['inputs']), (len(rows), lengths['targets'])
  return {
    'encoder_input_tokens': encoder.scatter(examples.inputs[encoder.source], shape_in),
    'encoder_segment_ids': encoder.scatter(encoder.spread(number), shape_in),
    'decoder_input_tokens': decoder.scatter(shifted, shape_out),
    'decoder_target_tokens': decoder.scatter(targets, shape_out),
    'decoder_segment_ids': decoder.scatter(decoder.spread(number), shape_out),
    'decoder_task_ids': decoder.scatter(decoder.spread(examples.task_ids[rows.members]), shape_out),
    'decoder_loss_weights': decoder.scatter(
      np.ones(len(targets), np.float32), shape_out, np.float32
    ),
  }


class _Side:
  """Where the tokens of one side (encoder or decoder) come from and go to."""

  def __init__(
    self,
    offsets: np.ndarray,
    members: np.ndarray,
    row_offsets: np.ndarray,
    row_of: np.ndarray,
    width: int,
  ):
    starts = offsets[members]
    self.lengths = offsets[members + 1] - starts
    ends = np.cumsum(self.lengths)
    before = np.r_[0, ends]  # tokens of all earlier sequences
    in_row = before[:-1] - before[row_offsets[row_of]]
    self.source = spans(starts, self.lengths)
    self.target = spans(row_of * width + in_row, self.lengths)
    self.firsts = before[:-1][self.lengths > 0]

  def spread(self, values: np.ndarray) -> np.ndarray:
    """A value per sequence, repeated for each of its tokens."""
    return np.repeat(values, self.lengths)

  def scatter(self, values: np.ndarray, shape: tuple[int, int], dtype=np.int32) -> np.ndarray:
    """Zeros of `shape` with `values` at the tokens' places."""
    array = np.zeros(shape, dtype)
    array.reshape(-1)[self.target] = values
    return array
