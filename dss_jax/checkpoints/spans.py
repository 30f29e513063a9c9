"""Tensors stored uncompressed in files: only the rows that are asked for are read.

Owns the byte offsets within a tensor; the readers of each format (hf_files.py, flax_msgpack.py)
know which bytes belong to a tensor.
"""

import functools
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dss_jax.checkpoints.transfer import Index, Tensor


class Span(NamedTuple):
  """Bytes of a file, from `start` on."""

  path: pathlib.Path
  start: int
  size: int


def tensor(shape: tuple[int, ...], dtype: np.dtype, spans: Sequence[Span]) -> Tensor:
  """A tensor whose elements, in C order, are the bytes of `spans`, concatenated."""
  return Tensor(shape, dtype, functools.partial(_read, shape, dtype, tuple(spans)))


def _read(
  shape: tuple[int, ...], dtype: np.dtype, spans: tuple[Span, ...], index: Index
) -> np.ndarray:
  """The part at `index`: whole rows are read, then cut.

  Raises:
    ValueError: a file has become shorter.
    OSError: a file cannot be read.
  """
  start, stop, step = index[0].indices(shape[0])
  row = math.prod(shape[1:]) * dtype.itemsize
  rows = np.empty((max(stop - start, 0), *shape[1:]), dtype)
  _fill(rows.reshape(-1).view(np.uint8), spans, start * row)
  return rows[(slice(None, None, step), *index[1:])]


def _fill(out: np.ndarray, spans: tuple[Span, ...], skip: int) -> None:
  """Reads len(out) bytes, `skip` bytes from the start of the spans."""
  for span in spans:
    at, size = min(skip, span.size), min(span.size - min(skip, span.size), len(out))
    skip -= at
    if size:
      _fill_from(span.path, span.start + at, out[:size])
      out = out[size:]


def _fill_from(path: pathlib.Path, start: int, out: np.ndarray) -> None:
  with open(path, 'rb', buffering=0) as file:
    file.seek(start)
    while len(out):
      count = file.readinto(out.data)
      if not count:
        raise ValueError(f'{path} ended {len(out)} bytes early: it was truncated while it was read')
      out = out[count:]
