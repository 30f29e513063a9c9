"""Flax's msgpack files: where each array's bytes are, found by walking over the structure.

Owns the part of msgpack and of flax.serialization's conventions that weights use. Flax itself would
hold the whole file in memory; here an array's bytes are skipped and read later, in parts.

Source: github.com/msgpack/msgpack/blob/master/spec.md; flax/serialization.py: arrays are extension
1, itself msgpack of (shape, dtype name, bytes), and above 2^30 bytes a dict of flat chunks.
"""

import math
import mmap
import pathlib
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from dss_jax.checkpoints import foreign_files, spans
from dss_jax.checkpoints.transfer import Tensor

_DTYPES = {'float32': np.float32, 'float16': np.float16, 'bfloat16': ml_dtypes.bfloat16}
_CHUNKED = '__msgpack_chunked_array__'
_ARRAY = 1
_PACKED = (1, 2, 3)  # extensions of flax whose content is msgpack: arrays, complex numbers, scalars
_DEEPEST = 64  # nesting; a T5 has 8 levels
_MOST_VALUES = 200_000  # in a file; a T5X index of the largest T5 has some 80,000
_MOST_AXES, _MOST_BYTES = 8, 1 << 50
_NUMBERS = {  # first byte -> struct format of the value that follows
  0xCA: '>f', 0xCB: '>d', 0xCC: '>B', 0xCD: '>H', 0xCE: '>I', 0xCF: '>Q',
  0xD0: '>b', 0xD1: '>h', 0xD2: '>i', 0xD3: '>q',
}  # fmt: skip
_SIZED = {  # first byte -> (kind, struct format of the size that follows)
  0xC4: ('bin', '>B'), 0xC5: ('bin', '>H'), 0xC6: ('bin', '>I'),
  0xC7: ('ext', '>B'), 0xC8: ('ext', '>H'), 0xC9: ('ext', '>I'),
  0xD9: ('str', '>B'), 0xDA: ('str', '>H'), 0xDB: ('str', '>I'),
  0xDC: ('array', '>H'), 0xDD: ('array', '>I'),
  0xDE: ('map', '>H'), 0xDF: ('map', '>I'),
}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_FIXED_EXTENSIONS = range(0xD4, 0xD9)  # of 1, 2, 4, 8 and 16 bytes


_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error)


class _Bytes(NamedTuple):
  """Binary data, or an extension of others, that was skipped."""

  start: int
  size: int


class _Packed(NamedTuple):
  """An extension whose content is msgpack itself."""

  extension: int
  content: Any


class _Array(NamedTuple):
  shape: tuple[int, ...]
  dtype: np.dtype
  data: _Bytes


def open_arrays(path: pathlib.Path) -> dict[str, Tensor]:
  """The arrays of a file that flax.serialization wrote, by their path with slashes.

  Raises:
    ValueError: the file is truncated, corrupt, or holds something other than float arrays.
    OSError: it cannot be read.
  """
  size = foreign_files.check(path, 'a Flax model')
  with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
    try:
      tree = _walked(data)
      return {name: _tensor(path, name, node) for name, node in _leaves(tree, '')}
    except _ERRORS as error:
      raise ValueError(
        f'{path} ({size} bytes) is truncated, corrupt or not a Flax model: '
        f'{foreign_files.shown(error)}.'
      ) from error


def check(content: bytes) -> None:
  """Walks over msgpack that another program will read: it is whole, shallow and of few values.

  Raises:
    ValueError: it is not.
  """
  try:
    _walked(content)
  except _ERRORS as error:
    raise ValueError(str(error)) from error


def _walked(data: mmap.mmap | bytes) -> Any:
  walk = _Walk(data)
  tree = walk.value()
  if walk.at != len(data):
    raise ValueError(f'its content ends at byte {walk.at}')
  return tree


class _Walk:
  """Reads msgpack from a position on and skips binary data."""

  def __init__(self, data: mmap.mmap | bytes):
    self.data = data
    self.values = 0
    self.at = 0
    self.stop = len(data)

  def value(self, depth: int = 0) -> Any:
    """The value at the current position, which moves past it."""
    if depth > _DEEPEST:
      raise ValueError(f'values are nested deeper than {_DEEPEST}')
    self.values += 1
    if self.values > _MOST_VALUES:
      raise ValueError(f'it has more than {_MOST_VALUES} values, which no T5 has')
    first = self._number('>B')
    if first in _CONSTANTS:
      return _CONSTANTS[first]
    if first < 0x80 or first >= 0xE0:
      return first if first < 0x80 else first - 0x100
    if first in _NUMBERS:
      return self._number(_NUMBERS[first])
    if first in _FIXED_EXTENSIONS:
      return self._sized('ext', 1 << (first - _FIXED_EXTENSIONS.start), depth)
    if first in _SIZED:
      kind, form = _SIZED[first]
      return self._sized(kind, self._number(form), depth)
    if first < 0xC0:
      kind = 'map' if first < 0x90 else 'array' if first < 0xA0 else 'str'
      return self._sized(kind, first & (0x1F if kind == 'str' else 0x0F), depth)
    raise ValueError(f'no value starts at byte {self.at - 1}')

  def _sized(self, kind: str, size: int, depth: int) -> Any:
    if kind == 'map':
      return {self.value(depth + 1): self.value(depth + 1) for _ in range(size)}
    if kind == 'array':
      return [self.value(depth + 1) for _ in range(size)]
    extension = self._number('>b') if kind == 'ext' else None
    start = self._step(size)
    if kind == 'str':
      return self.data[start : self.at].decode()
    if extension in _PACKED:
      return _Packed(extension, self._within(start, depth + 1))
    return _Bytes(start, size)

  def _within(self, start: int, depth: int) -> Any:
    """The one value between `start` and the current position, which counts as all others do."""
    end, outer = self.at, self.stop
    self.at, self.stop = start, end
    value = self.value(depth)
    if self.at != end:
      raise ValueError(f'the extension at byte {start} holds more than one value')
    self.stop = outer
    return value

  def _number(self, form: str) -> Any:
    return struct.unpack_from(form, self.data, self._step(struct.calcsize(form)))[0]

  def _step(self, size: int) -> int:
    """Moves past the next `size` bytes and returns where they start."""
    start = self.at
    self.at += size
    if self.at > self.stop:
      raise ValueError(
        f'expected {size} bytes at byte {start}, but only {self.stop - start} are left'
      )
    return start


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
  """The values that are not dicts, by path; a chunked array is one leaf."""
  if not isinstance(node, dict) or _CHUNKED in node:
    yield prefix, node
    return
  for key, child in node.items():
    yield from _leaves(child, f'{prefix}/{key}' if prefix else str(key))


def _tensor(path: pathlib.Path, name: str, node: Any) -> Tensor:
  if isinstance(node, dict):
    shape = tuple(node['shape'][str(i)] for i in range(len(node['shape'])))
    chunks = [_array(name, node['chunks'][str(i)]) for i in range(len(node['chunks']))]
    dtype = chunks[0].dtype
    if any(chunk.dtype != dtype for chunk in chunks):
      raise ValueError(f'{name} has chunks of several dtypes')
  else:
    chunks = [_array(name, node)]
    shape, dtype = chunks[0].shape, chunks[0].dtype
  if len(shape) > _MOST_AXES or not all(
    type(number) is int and 0 <= number < _MOST_BYTES for number in shape
  ):
    raise ValueError(f'{name} has shape {shape}; expected integers from 0')
  size = sum(chunk.data.size for chunk in chunks)
  if size != math.prod(shape) * dtype.itemsize:
    raise ValueError(f'{name} has {size} bytes, which do not fit shape {shape} of {dtype}')
  parts = [spans.Span(path, chunk.data.start, chunk.data.size) for chunk in chunks]
  return spans.tensor(shape, dtype, parts)


def _array(name: str, node: Any) -> _Array:
  """An extension's shape, type and the place of its bytes."""
  if not isinstance(node, _Packed) or node.extension != _ARRAY:
    raise ValueError(f'{name} is not an array')
  shape, dtype, content = node.content
  if not isinstance(dtype, str) or dtype not in _DTYPES:
    raise ValueError(f'{name} has dtype {dtype}; expected one of {", ".join(_DTYPES)}')
  if not isinstance(content, _Bytes):
    raise ValueError(f'{name} has no bytes')
  return _Array(tuple(shape), np.dtype(_DTYPES[dtype]), content)
