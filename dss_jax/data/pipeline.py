"""Batches: an endless, resumable stream for training, one pass for validation and for decoding.

Batch t is a function of the data, the seed and t alone. SeqIO defines tasks, rates and tokens
(examples.py); order, mixing and packing are ours (packing.py), so that the state of the stream is
two integers, restoring it takes no time and it does not depend on the number of processes.

A batch's arrays (all numpy; S, T = task_feature_lengths of inputs, targets):
  encoder_input_tokens   int32 [rows, S]    0 = padding
  encoder_segment_ids    int32 [rows, S]    0 = padding, 1.. = which of the packed sequences
  decoder_input_tokens   int32 [rows, T]    targets shifted right inside each segment, first 0
  decoder_target_tokens  int32 [rows, T]
  decoder_segment_ids    int32 [rows, T]    the encoder's numbering
  decoder_task_ids       int32 [rows, T]    task id of the segment; 0 at padding
  decoder_loss_weights   float32 [rows, T]  the example's (mostly 1) on targets and EOS, else 0
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dss_jax.data import packing
from dss_jax.data.examples import (
  Examples,
  TaskExamples,
  Truncation,
  load_examples,
  load_mixture,
  truncations,
)
from dss_jax.data.prefetch import Prefetch
from dss_jax.settings import fields

__all__ = [
  'Batch',
  'DataConfig',
  'Examples',
  'InferenceBatch',
  'Prefetch',
  'TaskExamples',
  'TrainBatches',
  'Truncation',
  'epoch_batches',
  'fingerprint',
  'inference_batches',
  'load_examples',
  'load_mixture',
  'truncations',
]

# Draws that are packed together. The few unfilled rows at a window's end cost below 1 %.
WINDOW_DRAWS = 2048


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What to train on and in which shape.

  Attributes:
    mixture_or_task_name: registered in SeqIO.
    task_feature_lengths: 'inputs' and 'targets': tokens of a row.
    batch_size: rows of the global batch.
    split: of all tasks.
    fraction: of the split's examples that are learned from, in (0, 1]. At one seed every method has
      the same examples, and a smaller fraction lies within a larger one (data/subsets.py).
    pack: put several sequences into one row.
    seed: of the order, and of the fraction.
    rationale_scores: file by which rationales are selected (`dss evaluate --rationale_scores`);
      None: all are learned from.
    rationales_kept: fraction of the rationales that are kept then, those with the highest scores.
  """

  mixture_or_task_name: str
  task_feature_lengths: Mapping[str, int]
  batch_size: int = 128
  split: str = 'train'
  fraction: float = 1.0
  pack: bool = True
  seed: int = 0
  rationale_scores: fields.Path | None = None
  rationales_kept: float = 1.0

  def __post_init__(self):
    fields.check(self)
    lengths = dict(self.task_feature_lengths)
    if set(lengths) != {'inputs', 'targets'} or not all(
      1 <= length <= fields.MOST for length in lengths.values()
    ):
      raise ValueError(
        "TASK_FEATURE_LENGTHS: expected {'inputs': n, 'targets': m} with positive numbers of "
        f'tokens below 2^31, got {lengths}'
      )
    if self.batch_size < 1:
      raise ValueError(f'BATCH_SIZE: expected at least 1 row, got {self.batch_size}')
    if not 0.0 < self.fraction <= 1.0:
      raise ValueError(f'DataConfig.fraction (TRAIN_FRACTION) is in (0, 1], not {self.fraction}.')
    if not 0.0 < self.rationales_kept <= 1.0:
      raise ValueError(
        'DataConfig.rationales_kept (RATIONALES_KEPT) is above 0 and at most 1, '
        f'not {self.rationales_kept}.'
      )
    if self.rationales_kept < 1.0 and self.rationale_scores is None:
      raise ValueError(
        'RATIONALES_KEPT selects rationales by RATIONALE_SCORES=FILE, which is not given; '
        '`dss evaluate --rationale_scores=FILE` writes one.'
      )
    if not 0 <= self.seed < 2**32:
      raise ValueError(f'DataConfig.seed (RANDOM_SEED) is from 0 to 2**32 - 1, not {self.seed}.')


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
  """A global batch: the arrays of this process's rows, and facts about all rows.

  Attributes:
    arrays: the table at the top of this file; `rows` = this process's share of the batch.
    example_ids: int64 [rows of the global batch, most segments of a row], -1 where there is none.
    sequences: real sequences in the global batch.
    tokens: non-padding tokens in the global batch, encoder plus decoder.
    state: continues the stream right after this batch (`TrainBatches.restore`).
  """

  arrays: dict[str, np.ndarray]
  example_ids: np.ndarray
  sequences: int
  tokens: int
  state: dict[str, int] = dataclasses.field(default_factory=dict)


class TrainBatches(Iterator[Batch]):
  """The endless stream of training batches.

  Each task is a sequence of epochs, mixed in exact proportion and cut into windows of draws (see
  `packing.draw_window`); each window is packed by itself. Rows that a batch does not use go into
  the next: nothing is dropped and no batch is short. Unpacked rows are in the order of the draws,
  so that an even batch of a paired task holds whole pairs.

  Args:
    mixture: from `load_mixture`.
    config: shape, packing and seed.
    parts: which equal parts of a batch's rows this process makes.
    count: how many parts there are; it has to divide the batch size.
  """

  def __init__(
    self,
    mixture: Sequence[TaskExamples],
    config: DataConfig,
    parts: Sequence[int] = (0,),
    count: int = 1,
  ):
    self.config = config
    self.examples, groups = _merge(mixture, config)
    self._group_starts = [offsets[:-1] for offsets in groups]
    self._group_ends = [offsets[1:] for offsets in groups]
    self._group_counts = [len(starts) for starts in self._group_starts]
    self._shares = _draw_shares(mixture, self._group_counts)
    self._local = _local_rows(config.batch_size, parts, count)
    self._window, self._row = 0, 0
    self._plan: packing.Rows | None = None

  @property
  def state(self) -> dict[str, int]:
    """Where the next batch starts."""
    return {'window': self._window, 'row': self._row}

  def restore(self, state: Mapping[str, int]) -> None:
    """Continues right after the batch that `state` was taken from."""
    self._window, self._row = int(state['window']), int(state['row'])
    self._plan = None

  def __next__(self) -> Batch:
    parts, missing = [], self.config.batch_size
    while missing:
      if self._plan is None:
        self._plan = self._plan_window(self._window)
      part = self._plan[self._row : self._row + missing]
      parts.append(part)
      missing -= len(part)
      self._row += len(part)
      if self._row >= len(self._plan):
        self._window, self._row, self._plan = self._window + 1, 0, None
    rows = packing.Rows.concatenate(parts)
    return _batch(self.examples, rows, self._local, self.config.task_feature_lengths, self.state)

  def _plan_window(self, window: int) -> packing.Rows:
    tasks, items = packing.draw_window(
      window, WINDOW_DRAWS, self._shares, self._group_counts, self.config.seed
    )
    starts, ends = np.empty_like(items), np.empty_like(items)
    for task in range(len(self._group_counts)):
      of_task = tasks == task
      starts[of_task] = self._group_starts[task][items[of_task]]
      ends[of_task] = self._group_ends[task][items[of_task]]
    return _plan(self.examples, starts, ends, self.config)


def fingerprint(mixture: Sequence[TaskExamples]) -> int:
  """A CRC-32 of all tokens, tasks and loss weights in their order; it changes when any does."""
  crc = 0
  for name, rate, examples in mixture:
    crc = zlib.crc32(f'{name} {rate}'.encode(), crc)
    for array in (examples.inputs, examples.input_offsets, examples.targets, examples.task_ids):
      crc = zlib.crc32(array.tobytes(), crc)
    if (examples.loss_weights != 1.0).any():
      crc = zlib.crc32(examples.loss_weights.tobytes(), crc)
  return crc


def epoch_batches(
  mixture: Sequence[TaskExamples],
  config: DataConfig,
  parts: Sequence[int] = (0,),
  count: int = 1,
) -> Iterator[Batch]:
  """Every example exactly once, in order, packed as configured: for validation loss.

  The last batch is filled up with empty rows (all zeros, weights too). Mixing rates are ignored.
  """
  local = _local_rows(config.batch_size, parts, count)
  examples, groups = _merge(mixture, config)
  starts = np.concatenate([offsets[:-1] for offsets in groups])
  ends = np.concatenate([offsets[1:] for offsets in groups])
  rows = _plan(examples, starts, ends, config)
  for start in range(0, len(rows), config.batch_size):
    part = rows[start : start + config.batch_size].padded_to(config.batch_size)
    yield _batch(examples, part, local, config.task_feature_lengths, {})


@dataclasses.dataclass(frozen=True, eq=False)
class InferenceBatch:
  """Inputs to decode.

  Attributes:
    arrays: encoder_input_tokens and encoder_segment_ids, int32 [rows, width], one sequence a row.
    rows: int64 [rows], index into the examples; -1 for a filler row (all padding).
  """

  arrays: dict[str, np.ndarray]
  rows: np.ndarray


def inference_batches(
  examples: Examples,
  batch_size: int,
  max_input_length: int,
  narrowest: int = 32,
  parts: Sequence[int] = (0,),
  count: int = 1,
) -> Iterator[InferenceBatch]:
  """Every input once, longest first, in batches of few widths, so that few shapes are compiled.

  Args:
    examples: inputs longer than `max_input_length` are cut and keep their EOS.
    batch_size: rows of the global batch; the last one is filled up.
    max_input_length: the largest width.
    narrowest: the least width, a power of two; the others are the powers of two above it, those
      halfway between two, and `max_input_length`.
    parts: which equal parts of a batch's rows this process makes.
    count: how many parts there are.
  """
  local = _local_rows(batch_size, parts, count)
  steps = (part * narrowest * 2**power // 2 for power in range(26) for part in (2, 3))
  allowed = sorted({max_input_length, *(w for w in steps if w < max_input_length)})
  limits = {'inputs': max_input_length, 'targets': max(1, int(examples.target_lengths.max()))}
  examples = examples.truncated(limits)
  order = np.argsort(-examples.input_lengths, kind='stable')
  for start in range(0, len(order), batch_size):
    indices = order[start : start + batch_size]
    width = next(w for w in allowed if w >= examples.input_lengths[indices[0]])
    rows = packing.one_per_row(indices).padded_to(batch_size).take(local)
    arrays = packing.fill(examples, rows, {**limits, 'inputs': width})
    yield InferenceBatch(
      arrays={key: arrays[key] for key in ('encoder_input_tokens', 'encoder_segment_ids')},
      rows=np.pad(indices, (0, batch_size - len(indices)), constant_values=-1)[local],
    )


def _merge(
  mixture: Sequence[TaskExamples], config: DataConfig
) -> tuple[Examples, list[np.ndarray]]:
  """All tasks' examples as one `Examples`, cut to length, and each task's group offsets in it."""
  parts = [part.examples.truncated(config.task_feature_lengths) for part in mixture]
  counts = np.cumsum([0, *(len(part) for part in parts)])
  groups = [part.group_offsets() + base for part, base in zip(parts, counts, strict=False)]
  return Examples.concatenate(parts), groups


def _draw_shares(mixture: Sequence[TaskExamples], group_counts: Sequence[int]) -> list[float]:
  """Share of each task in the draws. A rate counts examples, a draw takes a whole group."""
  rates = np.array([task.rate for task in mixture], float)
  if rates.min() < 0 or rates.sum() <= 0:
    names = {task.name: task.rate for task in mixture}
    raise ValueError(f'mixing rates must be at least 0 and not all 0, got {names}')
  weights = rates * group_counts / [len(task.examples) for task in mixture]
  return (weights / weights.sum()).tolist()


def _local_rows(batch_size: int, parts: Sequence[int], count: int) -> np.ndarray:
  """int64: the rows of the global batch that this process makes."""
  if batch_size % count:
    raise ValueError(
      f'BATCH_SIZE: expected a multiple of the {count} parts that the devices divide it into, '
      f'got {batch_size}'
    )
  return np.arange(batch_size).reshape(count, -1)[list(parts)].ravel()


def _plan(
  examples: Examples,
  starts: np.ndarray,
  ends: np.ndarray,
  config: DataConfig,
) -> packing.Rows:
  if config.pack:
    return packing.pack(examples, starts, ends, config.task_feature_lengths)
  return packing.one_per_row(packing.spans(starts, ends - starts))


def _batch(
  examples: Examples,
  rows: packing.Rows,
  local: np.ndarray,
  lengths: Mapping[str, int],
  state: dict[str, int],
) -> Batch:
  """Fills this process's rows; ids and counts are those of all rows."""
  segments = np.diff(rows.offsets)
  ids = np.full((len(rows), max(1, segments.max())), -1, np.int64)
  ids[np.arange(ids.shape[1]) < segments[:, None]] = examples.example_ids[rows.members]
  tokens = examples.input_lengths[rows.members] + examples.target_lengths[rows.members]
  return Batch(
    arrays=packing.fill(examples, rows.take(local), lengths),
    example_ids=ids,
    sequences=len(rows.members),
    tokens=int(tokens.sum()),
    state=state,
  )
