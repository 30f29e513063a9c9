"""Files of Hugging Face weights: opened without reading them, read in parts, written in a stream.

Owns safetensors, PyTorch's .bin (where torch is installed), and how files are split into shards;
the form of Flax's msgpack is flax_msgpack.py's. What tensors mean is huggingface.py's.

Whatever is wrong with a file is reported when it is opened, as far as that needs no tensor read.
"""

import importlib
import importlib.util
import json
import math
import os
import pathlib
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from dss_jax.checkpoints import foreign_files, spans
from dss_jax.checkpoints.hf import flax_msgpack
from dss_jax.checkpoints.transfer import Index, Tensor
from dss_jax.settings import json_form

SAFETENSORS, MSGPACK, BIN = 'model.safetensors', 'flax_model.msgpack', 'pytorch_model.bin'
INDEX = '.index.json'  # after a name: where the tensors of its shards are
SHARD_BYTES = 5_000_000_000
_DTYPES = {'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16}
_OTHER_DTYPES = {  # of the format; whose weights would have to be scaled, or are none
  'F64': '64-bit floats', 'F8': '8-bit floats', 'F6': '6-bit floats', 'F4': '4-bit floats',
  'C64': 'complex numbers', 'BOOL': 'truth values', 'I8': '8-bit integers',
  'U8': '8-bit integers', 'I16': '16-bit integers', 'U16': '16-bit integers',
  'I32': '32-bit integers', 'U32': '32-bit integers', 'I64': '64-bit integers',
  'U64': '64-bit integers',
}  # fmt: skip
_MOST_AXES, _MOST_BYTES = 8, 1 << 50
_TORCH = (2, 6)  # before, torch.load runs code of some files in spite of weights_only
_METADATA = '__metadata__'
_HEADER_SIZE = struct.Struct('<Q')
_LFS_POINTER = b'version https://git-lfs'
Opener = Callable[[pathlib.Path], dict[str, Tensor]]
INSTALL_TORCH = (
  'needs torch to be read: pip install torch (2.6 or later, the CPU build will do), or convert it '
  'to safetensors with transformers'
)
SAVE_AS_FLOATS = (
  'load it with transformers and save it again with model.float().save_pretrained(FOLDER)'
)


def has_torch() -> bool:
  """Whether torch is installed; it is imported only to read a .bin."""
  return importlib.util.find_spec('torch') is not None


def open_weights(folder: pathlib.Path) -> dict[str, Tensor]:
  """The tensors of a folder by Hugging Face's names: safetensors, else msgpack, else .bin.

  Raises:
    ValueError: there are none, or a file is truncated, corrupt or missing.
    OSError: a file cannot be read.
  """
  for name, open_file in _FORMATS.items():
    if foreign_files.is_there(folder / name):
      return _opened(folder / name, open_file)
    if foreign_files.is_there(folder / f'{name}{INDEX}'):
      return _open_shards(folder / f'{name}{INDEX}', open_file)
  raise ValueError(
    f'{folder} holds no weights: expected one of {", ".join(_FORMATS)}, or its {INDEX} file.'
  )


def write_weights(
  folder: pathlib.Path,
  shapes: Mapping[str, tuple[int, ...]],
  arrays: Iterable[tuple[str, np.ndarray]],
  shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes float32 safetensors, one array after the other; several files if they are large.

  Args:
    folder: where to.
    shapes: of all tensors, in the order in which `arrays` gives them.
    arrays: names and values; only one is in memory at a time.
    shard_bytes: the largest size of a file, unless a single tensor is larger.

  Raises:
    ValueError: an array is not the next one in `shapes`.
    OSError: a file cannot be written.
  """
  shards = _shards(shapes, shard_bytes)
  files = [SAFETENSORS]
  if len(shards) > 1:
    files = [f'model-{i + 1:05d}-of-{len(shards):05d}.safetensors' for i in range(len(shards))]
    _write_index(folder / f'{SAFETENSORS}{INDEX}', files, shards, shapes)
  rest = iter(arrays)
  for file, names in zip(files, shards, strict=True):
    with open(folder / file, 'wb') as out:
      _write_header(out, {name: shapes[name] for name in names})
      for expected in names:
        name, array = next(rest, ('nothing', np.empty(0)))
        if (name, array.shape) != (expected, tuple(shapes[expected])):
          raise ValueError(
            f'expected the array {expected} {shapes[expected]}, got {name} {array.shape}.'
          )
        out.write(np.ascontiguousarray(array, np.float32).data)
  if next(rest, None) is not None:
    raise ValueError('got more arrays than `shapes` names.')


def _open_safetensors(path: pathlib.Path) -> dict[str, Tensor]:
  size = path.stat().st_size
  most = foreign_files.MOST_JSON
  with open(path, 'rb') as file:
    start = file.read(_HEADER_SIZE.size)
    length = _HEADER_SIZE.unpack(start)[0] if len(start) == _HEADER_SIZE.size else 0
    if not 2 <= length <= size - _HEADER_SIZE.size:
      raise ValueError(
        f'{path} is truncated or not a safetensors file: its header should have {length} '
        f'bytes, but the file has {size}.'
      )
    if length > most:
      raise ValueError(
        f'{path} has a header of {length} bytes; expected at most {most}, which no T5 exceeds.'
      )
    header = json_form.parse_object(file.read(length), f'{path} has a corrupt header, which')
  _check_dtypes(path, header)
  try:
    entries = {name: _entry(name, entry) for name, entry in header.items() if name != _METADATA}
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    why = error if isinstance(error, ValueError) else repr(error)
    raise ValueError(f'{path} has a corrupt header: {foreign_files.shown(why)}.') from error
  first = _HEADER_SIZE.size + length
  end = 0
  for name, (_, _, (at, stop)) in sorted(entries.items(), key=lambda item: item[1][2]):
    if at != end:
      raise ValueError(
        f'{path} has a corrupt header: {foreign_files.shown(name)} starts at byte {at}, not {end}.'
      )
    end = stop
  if size != first + end:
    raise ValueError(
      f'{path} is truncated or corrupt: its header describes {first + end} bytes, but the file '
      f'has {size}.'
    )
  return {
    name: spans.tensor(shape, dtype, [spans.Span(path, first + at, stop - at)])
    for name, (dtype, shape, (at, stop)) in entries.items()
  }


def _check_dtypes(path: pathlib.Path, header: Mapping[str, Any]) -> None:
  """Refuses tensors of a type that the format has, but that is not one of weights as floats."""
  for name, entry in header.items():
    dtype = entry.get('dtype') if name != _METADATA and isinstance(entry, dict) else None
    words = isinstance(dtype, str) and _OTHER_DTYPES.get(dtype.partition('_')[0])
    if words:
      raise ValueError(
        f'{path} holds {foreign_files.shown(name)} as {words}, dtype '
        f'{foreign_files.shown(dtype)}; expected one of {", ".join(_DTYPES)}: {SAVE_AS_FLOATS}.'
      )


def _entry(name: str, entry: Mapping[str, Any]) -> tuple[np.dtype, tuple[int, ...], tuple]:
  """Type, shape and place of a tensor, as a safetensors header gives them."""
  shape, (at, stop) = tuple(entry['shape']), entry['data_offsets']
  if entry['dtype'] not in _DTYPES:
    raise ValueError(f'{name} has dtype {entry["dtype"]}; expected one of {", ".join(_DTYPES)}')
  if len(shape) > _MOST_AXES or not all(
    type(number) is int and 0 <= number < _MOST_BYTES for number in (*shape, at, stop)
  ):
    raise ValueError(f'{name} has shape {shape} in bytes {at} to {stop}; expected integers from 0')
  dtype = np.dtype(_DTYPES[entry['dtype']])
  if stop - at != math.prod(shape) * dtype.itemsize:
    raise ValueError(f'{name} has {stop - at} bytes, which do not fit shape {shape} of {dtype}')
  return dtype, shape, (at, stop)


def _open_bin(path: pathlib.Path) -> dict[str, Tensor]:
  if not has_torch():
    raise ValueError(f'{path} {INSTALL_TORCH}.')
  torch = importlib.import_module('torch')
  version = re.match(r'(\d+)\.(\d+)', str(torch.__version__))
  if version is None or (int(version[1]), int(version[2])) < _TORCH:
    raise ValueError(
      f'{path} is not read: torch {torch.__version__} can run code that is hidden in a .bin; '
      f"pip install 'torch>=2.6', or convert the file to safetensors."
    )
  with open(path, 'rb') as file:
    zipped = file.read(2) == b'PK'  # files before torch 1.6 are not, and cannot be mapped
  try:
    state = torch.load(path, map_location='cpu', weights_only=True, mmap=zipped)
  except Exception as error:  # pickle's, zip's, torch's own, and OSError where bytes are missing
    reason = str(error).splitlines()[0] if str(error).strip() else type(error).__name__
    raise ValueError(
      f'{path} ({path.stat().st_size} bytes) is truncated, corrupt or holds more than weights: '
      f'{foreign_files.shown(reason)}'
    ) from error
  dtypes = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: None}
  for name, value in state.items() if isinstance(state, dict) else [('It', state)]:
    is_tensor = isinstance(value, torch.Tensor) and value.layout == torch.strided
    if not is_tensor or value.dtype not in dtypes or not isinstance(name, str) or value.is_meta:
      what = getattr(value, 'dtype', type(value).__name__)
      raise ValueError(
        f'{path} is not a state dict of float weights: {foreign_files.shown(name)} is of type '
        f'{what}; {SAVE_AS_FLOATS}.'
      )

  def tensor(value) -> Tensor:
    dtype = np.dtype(dtypes[value.dtype] or ml_dtypes.bfloat16)
    if value.dtype == torch.bfloat16:
      value = value.view(torch.int16)  # numpy has no name for it
    return Tensor(
      tuple(value.shape), dtype, lambda index: value[index].detach().numpy().view(dtype)
    )

  return {name: tensor(value) for name, value in state.items()}


def _open_msgpack(path: pathlib.Path) -> dict[str, Tensor]:
  """A Flax model under the names and in the layout of its PyTorch counterpart."""
  tensors = {}
  for key, tensor in flax_msgpack.open_arrays(path).items():
    name, transposed = _from_flax(key)
    tensors[name] = _turned(tensor) if transposed and len(tensor.shape) == 2 else tensor
  return tensors


def _from_flax(key: str) -> tuple[str, bool]:
  """The name of a Flax parameter in PyTorch, and whether that is its transpose."""
  *modules, last = key.split('/')
  weight = last in ('kernel', 'embedding', 'weight')
  return '.'.join([*modules, 'weight' if weight else last]), last == 'kernel'


def _turned(tensor: Tensor) -> Tensor:
  def read(index: Index) -> np.ndarray:
    return tensor.read(index[::-1]).T

  return Tensor(tensor.shape[::-1], tensor.dtype, read)


def _opened(path: pathlib.Path, open_file: Opener) -> dict[str, Tensor]:
  foreign_files.check(path, 'weights')
  with open(path, 'rb') as file:
    if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
      raise ValueError(f'{path} is a Git LFS pointer, not the weights: run `git lfs pull`.')
  return open_file(path)


def _open_shards(index: pathlib.Path, open_file: Opener) -> dict[str, Tensor]:
  places = _places(index)
  files = sorted(set(places.values()))
  for file in files:
    _check_inside(index, file)
  tensors: dict[str, Tensor] = {}
  home: dict[str, str] = {}
  for file in files:
    for name, tensor in _opened(index.parent / file, open_file).items():
      if name in home:
        what = foreign_files.shown(name)
        raise ValueError(f'{index.parent} has {what} in both {home[name]} and {file}.')
      tensors[name], home[name] = tensor, file
  for key, file in places.items():
    name = _from_flax(key)[0] if '/' in key else key
    if home.get(name) != file:
      raise ValueError(
        f'{index} says that {foreign_files.shown(key)} is in {file}, which does not hold it.'
      )
  return tensors


def _places(index: pathlib.Path) -> dict[str, str]:
  """The file of each tensor, by an index of shards; every file is there."""
  try:
    places = foreign_files.read_json(index, 'an index of shards').get('weight_map')
    if not isinstance(places, dict) or not places:
      raise ValueError('it has no weight_map')
    for file in places.values():
      if not isinstance(file, str) or os.path.basename(file) != file or not file.strip('.'):
        raise ValueError(f'{foreign_files.shown(file)} is no file of its folder')
  except ValueError as error:
    raise ValueError(f'{index} is not an index of shards: {error}') from error
  files = dict.fromkeys(places.values())
  missing = [file for file in files if not foreign_files.is_there(index.parent / file)]
  if missing:
    raise ValueError(
      f'{index.parent} lacks {foreign_files.shown(", ".join(missing))}, which {index.name} names: '
      'copy it there, or download the model again.'
    )
  return places


def _check_inside(index: pathlib.Path, file: str) -> None:
  """Refuses a shard that is a link out of the folder, but for those of the hub's cache."""
  folder = index.parent.resolve()
  target = (folder / file).resolve()
  if target.parent not in (folder, folder.parent.parent / 'blobs'):
    raise ValueError(
      f'{index.parent / file}, which {index.name} names, is a link out of its folder, to '
      f'{foreign_files.shown(target)}: copy that file there instead.'
    )


def _shards(shapes: Mapping[str, tuple[int, ...]], shard_bytes: int) -> list[list[str]]:
  """The names that each file holds, in order."""
  shards: list[list[str]] = [[]]
  used = 0
  for name, shape in shapes.items():
    size = _bytes(shape)
    if shards[-1] and used + size > shard_bytes:
      shards.append([])
      used = 0
    shards[-1].append(name)
    used += size
  return shards


def _bytes(shape: tuple[int, ...]) -> int:
  return math.prod(shape) * np.dtype(np.float32).itemsize


def _write_header(out: BinaryIO, shapes: Mapping[str, tuple[int, ...]]) -> None:
  header: dict[str, Any] = {_METADATA: {'format': 'pt'}}
  at = 0
  for name, shape in shapes.items():
    end = at + _bytes(shape)
    header[name] = {'dtype': 'F32', 'shape': list(shape), 'data_offsets': [at, end]}
    at = end
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)  # the format's own alignment
  out.write(_HEADER_SIZE.pack(len(text)) + text)


def _write_index(
  path: pathlib.Path,
  files: list[str],
  shards: list[list[str]],
  shapes: Mapping[str, tuple[int, ...]],
) -> None:
  total = sum(_bytes(shape) for shape in shapes.values())
  places = {name: file for file, names in zip(files, shards, strict=True) for name in names}
  content = {'metadata': {'total_size': total}, 'weight_map': places}
  path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


_FORMATS: dict[str, Opener] = {  # by preference
  SAFETENSORS: _open_safetensors,
  MSGPACK: _open_msgpack,
  BIN: _open_bin,
}
