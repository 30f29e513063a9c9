"""The place of every example: the order of draws, the packing of rows, the filling of arrays.

Pure functions of numpy arrays and a seed. Everything random comes from raw Philox bits, whose
stream numpy never changes, so that a window of draws is the same on every machine and version.
Does not own loading (examples.py) or the iteration over batches (pipeline.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from dss_jax.data.examples import Examples, offsets_of, spans

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

  def take(self, rows: np.ndarray) -> Rows:
    """These rows, int64 [n], in the order given."""
    sizes = np.diff(self.offsets)[rows]
    return Rows(self.members[spans(self.offsets[rows], sizes)], offsets_of(sizes))

  @staticmethod
  def concatenate(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, in order."""
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    members = np.concatenate([part.members for part in parts])
    return Rows(members, offsets_of(sizes))

  def padded_to(self, rows: int) -> Rows:
    """The same with empty rows appended up to `rows`."""
    return Rows(self.members, np.pad(self.offsets, (0, rows - len(self)), mode='edge'))


@functools.lru_cache(maxsize=16)
def permutation(n: int, seed: int, index: int) -> np.ndarray:
  """int64 [n]: permutation number `index` of 0..n-1, computed without the ones before it."""
  bits = np.random.Philox(key=[seed, index]).random_raw(n)
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
  times: list[np.ndarray] = []
  tasks: list[np.ndarray] = []
  items: list[np.ndarray] = []
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
  examples: Examples, starts: np.ndarray, ends: np.ndarray, lengths: Mapping[str, int]
) -> Rows:
  """Packs groups of sequences into rows by first fit, in the order given.

  Not first-fit-decreasing: sorting by length puts all rationales first and leaves rows of labels
  only, whose inputs fill up while their targets stay empty. With lengths like CQA's in rows of
  512/128, the order of draws fills 99 % of the side that is full first and decreasing order 80 %.
  The draws are random already, so rows need no shuffling, and without it 64 rows hold each task's
  share to within 1 %.

  A group goes whole into one row. One that is too long for a row is spread over neighbouring new
  rows, one member each. Rows stay in the order in which they were opened.

  Args:
    examples: where the lengths come from; none longer than `lengths`.
    starts: int64 [groups], first example of each group.
    ends: int64 [groups], one past its last.
    lengths: 'inputs' and 'targets': capacity of a row in tokens.
  """
  capacity = (lengths['inputs'], lengths['targets'])
  members, sizes, alone = _units(examples, starts, ends, capacity)
  unit_ends = np.cumsum(sizes)
  inputs, targets = (
    np.add.reduceat(tokens[members], unit_ends - sizes).tolist()
    for tokens in (examples.input_lengths, examples.target_lengths)
  )
  row_of_unit = _first_fit(inputs, targets, alone.tolist(), capacity)
  row_of_member = np.repeat(row_of_unit, sizes)
  order = np.argsort(row_of_member, kind='stable')
  return Rows(members[order], offsets_of(np.bincount(row_of_member)))


def _units(
  examples: Examples, starts: np.ndarray, ends: np.ndarray, capacity: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The units of packing: whole groups, or the single members of groups too long for a row.

  Returns:
    members int64 [sequences]; sizes int64 [units], members of each unit; alone bool [units]: the
    unit is a member of a spread group and opens a row.
  """
  too_long = np.zeros(len(starts), bool)
  offsets = (examples.input_offsets, examples.target_offsets)
  for offset, limit in zip(offsets, capacity, strict=True):
    too_long |= offset[ends] - offset[starts] > limit
  group_sizes = ends - starts
  units = np.where(too_long, group_sizes, 1)
  sizes = np.repeat(np.where(too_long, 1, group_sizes), units)
  return spans(starts, group_sizes), sizes, np.repeat(too_long, units)


def _first_fit(
  inputs: list[int], targets: list[int], alone: list[bool], capacity: tuple[int, int]
) -> np.ndarray:
  """Row of each unit, int64 [units]."""
  least_input, least_target = min(inputs), min(targets)
  chosen: list[int] = []
  open_rows: list[list[int]] = []  # [row, input tokens left, target tokens left], oldest first
  opened = 0
  for need_input, need_target, new_row in zip(inputs, targets, alone, strict=True):
    for row in () if new_row else open_rows:
      if row[1] >= need_input and row[2] >= need_target:
        break
    else:
      row = [opened, *capacity]
      opened += 1
      open_rows.append(row)
      if len(open_rows) > OPEN_ROWS:
        del open_rows[0]
    chosen.append(row[0])
    row[1] -= need_input
    row[2] -= need_target
    if row[1] < least_input or row[2] < least_target:
      open_rows.remove(row)
  return np.array(chosen)


def fill(examples: Examples, rows: Rows, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
  """The arrays of a batch: see the table in pipeline.py. Static shapes [rows, S] and [rows, T]."""
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
      decoder.spread(examples.loss_weights[rows.members]), shape_out, np.float32
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
