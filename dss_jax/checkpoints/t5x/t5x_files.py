"""T5X's checkpoints on disk: found, opened array by array, and written.

Owns folders, T5X's msgpack index and the specs for tensorstore. Two layouts are read: T5X's own (a
file `checkpoint` with the small arrays and the places of the others) and orbax's (a folder `state`,
in which tensorstore stores each array under its name). What names mean is t5x.py's.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath
from flax import serialization, traverse_util
from ml_dtypes import bfloat16

from dss_jax.checkpoints import foreign_files
from dss_jax.checkpoints.hf import flax_msgpack
from dss_jax.checkpoints.transfer import Tensor
from dss_jax.settings import plain_files

VERSION = 3  # what T5X writes since 2021
INDEX, STATE = 'checkpoint', 'state'
DRIVERS = {'.zarray': 'zarr', 'zarr.json': 'zarr3'}  # by the file that every array has
CHUNK_BYTES = 64 * 2**20
LARGEST_CHUNK = 2**30  # of an array that is smaller
MOST_BYTES = 2**50
MOST_STEPS = 2**40
_STEP = re.compile(r'checkpoint_(\d+)')
_SPEC_KEYS = {'driver', 'kvstore', 'metadata'}
_PLACEHOLDER = 'PLACEHOLDER://'
_TENSORFLOW = b'model_checkpoint_path'


def find(path: str) -> epath.Path | None:
  """The folder of the checkpoint at `path`, or of the latest below it; None where there is none.

  Args:
    path: a folder checkpoint_N, its parent (a model_dir), or the file `checkpoint` in it.
  """
  folder = epath.Path(path).expanduser()
  if folder.name == INDEX and not folder.is_dir():
    folder = folder.parent
  if _is_checkpoint(folder):
    return folder
  if not plain_files.exists(folder) or not folder.is_dir():
    return None
  steps = {child: _STEP.fullmatch(child.name) for child in folder.iterdir()}
  numbers = {child: int(match[1]) for child, match in steps.items() if match}
  for child in sorted(numbers, key=numbers.__getitem__, reverse=True):
    if _is_checkpoint(child):
      return child
  return None


def whole_number(name: str, tensor: Tensor) -> int:
  """The value of an array that is one whole number.

  Raises:
    ValueError: it is not.
  """
  if math.prod(tensor.shape) != 1 or tensor.dtype.kind not in 'iuf':
    raise ValueError(f'{name} has shape {tensor.shape} of {tensor.dtype}; expected one number.')
  value = np.asarray(tensor.read((slice(None),) * len(tensor.shape))).item()
  if not 0 <= value < MOST_STEPS or value != int(value):
    raise ValueError(f'{name} is {value}; expected a number of steps.')
  return int(value)


def step_of(folder: epath.Path) -> int | None:
  """The step of the checkpoint in `folder`, from its name or else its state; None without one."""
  if match := _STEP.fullmatch(folder.name):
    return int(match[1])
  step = open_checkpoint(folder).get('state/step')
  return None if step is None else whole_number('state/step', step)


def open_checkpoint(folder: epath.Path) -> dict[str, Tensor]:
  """Opens every array of a checkpoint; reads only the small ones.

  Args:
    folder: the result of `find`.

  Returns:
    The arrays by their path in T5X's state: 'target/token_embedder/embedding', 'state/step', ...

  Raises:
    ValueError: a file is missing or is not what it should be; the message names it.
  """
  if not (folder / STATE).is_dir() and (folder / INDEX).exists():
    leaves = _read_index(folder / INDEX)
    inside = folder
  else:
    inside = folder / STATE if (folder / STATE).is_dir() else folder
    leaves = _orbax_leaves(inside)
  small = {name: leaf for name, leaf in leaves.items() if not isinstance(leaf, dict)}
  opening = {
    name: ts.open(_spec(inside, leaf), open=True, read=True)
    for name, leaf in leaves.items()
    if isinstance(leaf, dict)
  }
  tensors = {name: _inline(np.asarray(array)) for name, array in small.items()}
  for name, future in opening.items():
    try:
      tensors[name] = _stored(future.result())
    except ValueError as error:
      why = foreign_files.shown(str(error).partition(' [tensorstore_spec')[0], most=400)
      what = foreign_files.shown(name)
      raise ValueError(f'{what} in {inside} cannot be opened: {why}.') from error
  return tensors


def write(
  folder: epath.Path, arrays: Iterable[tuple[str, np.ndarray]], small: Mapping[str, np.ndarray]
) -> None:
  """Writes a checkpoint in T5X's own layout, array by array.

  Args:
    folder: of the checkpoint; the caller must then rename it to checkpoint_N.
    arrays: by name, each to files of its own.
    small: by name, all in the index.
  """
  folder.mkdir(parents=True, exist_ok=True)
  leaves: dict[str, Any] = dict(small)
  for name, array in arrays:
    row = max(1, array.nbytes // max(1, array.shape[0]))
    chunks = [min(array.shape[0], max(1, CHUNK_BYTES // row)), *array.shape[1:]]
    metadata = {'shape': list(array.shape), 'chunks': chunks, 'compressor': {'id': 'zstd'}}
    place = {'driver': 'file', 'path': f'{name.replace("/", ".")}/'}
    leaves[name] = {
      'driver': 'zarr',
      'dtype': array.dtype.name,
      'kvstore': place,
      'metadata': metadata,
    }
    spec = leaves[name] | {'kvstore': _kvstore(folder, place['path'])}
    ts.open(spec, create=True, open=True).result().write(array).result()
  tree = traverse_util.unflatten_dict(leaves, sep='/')
  index = serialization.msgpack_serialize({'version': VERSION, 'optimizer': tree})
  (folder / INDEX).write_bytes(index)


def _is_checkpoint(folder: epath.Path) -> bool:
  """Whether a folder is a finished checkpoint, by what every layout has."""
  for inside in (folder / STATE, folder):
    if any((inside / name).exists() for name in ('_METADATA', 'manifest.ocdbt')):
      # Object stores have no rename: there orbax writes a file when it has finished.
      return not str(folder).startswith('gs://') or (inside / 'commit_success.txt').exists()
    if (inside / INDEX).exists():
      return not (inside / INDEX).is_dir()
  return False


def _read_index(file: epath.Path) -> dict[str, Any]:
  """The leaves of a msgpack index by path: arrays, and specs of arrays that are files."""
  plain_files.size(file, 'an index of T5X')
  content = file.read_bytes()
  if content.startswith(_TENSORFLOW):
    raise ValueError(
      f'{file} belongs to a TensorFlow checkpoint; first convert it with T5X '
      '(t5x/scripts/convert_tf_checkpoint.py).'
    )
  try:
    flax_msgpack.check(content)
    tree = serialization.msgpack_restore(content)
    # Before T5X had versions, the state was at the top.
    tree = tree.get('optimizer', tree)
    leaves = traverse_util.flatten_dict(tree, is_leaf=lambda _, v: set(v) >= _SPEC_KEYS, sep='/')
    return {name: _leaf(name, value) for name, value in leaves.items() if value is not None}
  except Exception as error:  # of msgpack, of numpy, and of flax, which checks nothing itself
    why = foreign_files.shown(error)
    raise ValueError(f'{file} is truncated or not an index of T5X: {why}.') from error


def _leaf(name: str, value: Any) -> Any:
  """An array, or the place of one: {'driver', 'path'}; drivers of file systems do not matter."""
  if isinstance(value, dict):
    # tensorstore before 0.1.14 had the path next to the file system's driver.
    return _place(value['driver'], value['kvstore'].get('path') or value.get('path'))
  if isinstance(value, str) and value.startswith(_PLACEHOLDER):
    return _place('zarr', value.removeprefix(_PLACEHOLDER))
  array = np.asarray(value)
  if array.dtype.kind not in 'iufb' and array.dtype != bfloat16:
    raise ValueError(f'{name} is {type(value).__name__}, not numbers')
  return array


def _place(driver: Any, path: Any) -> dict[str, str]:
  """Where an array is, if that is below the folder of the checkpoint."""
  if driver not in DRIVERS.values():
    raise ValueError(f'an array has the driver {driver}; expected {" or ".join(DRIVERS.values())}')
  if not isinstance(path, str) or '..' in path.split('/') or not path.strip('/'):
    raise ValueError(f'an array is at {path}; expected a path below the folder of the checkpoint')
  return {'driver': driver, 'path': path}


def _orbax_leaves(inside: epath.Path) -> dict[str, Any]:
  """The leaves that orbax saved, by path."""
  leaves: dict[str, Any] = {}
  if (inside / 'manifest.ocdbt').exists():
    store: Any = {'driver': 'ocdbt', 'base': _kvstore(inside, '')}
    try:
      keys = ts.KvStore.open(store).result().list().result()
    except ValueError as error:
      raise ValueError(f'{inside} cannot be opened: {error}.') from error
    files = [str(key, 'utf-8') for key in keys]
  else:
    store = None
    folders = [child for child in inside.iterdir() if child.is_dir()]
    files = [
      f'{folder.name}/{name}' for folder in folders for name in DRIVERS if (folder / name).exists()
    ]
  for name, _, file in (file.rpartition('/') for file in files):
    if file in DRIVERS:
      leaves[name.replace('.', '/')] = {'driver': DRIVERS[file], 'path': name, 'store': store}
  if (inside / INDEX).exists():  # early versions: small values, and names of the others
    index = _read_index(inside / INDEX)
    leaves |= {name: leaf for name, leaf in index.items() if name not in leaves}
  return leaves


def _spec(inside: epath.Path, leaf: Mapping[str, Any]) -> dict[str, Any]:
  path = leaf['path'].rstrip('/') + '/'
  store = leaf.get('store')
  return {
    'driver': leaf['driver'],
    'kvstore': store | {'path': path} if store else _kvstore(inside, path),
    # Otherwise a lost file would be read as zeros.
    'fill_missing_data_reads': False,
  }


def _kvstore(folder: epath.Path, path: str) -> dict[str, str]:
  """Tensorstore's spec for a path below a folder, local or gs://."""
  root = str(folder)
  if root.startswith('gs://'):
    bucket, _, prefix = root.removeprefix('gs://').partition('/')
    return {'driver': 'gcs', 'bucket': bucket, 'path': f'{prefix.rstrip("/")}/{path}'}
  return {'driver': 'file', 'path': f'{epath.Path(root).absolute()}/{path}'}


def _stored(store: Any) -> Tensor:
  dtype = np.dtype(store.dtype.numpy_dtype)
  size = math.prod(store.shape) * dtype.itemsize
  chunk = math.prod(store.chunk_layout.read_chunk.shape or ()) * dtype.itemsize
  if size > MOST_BYTES or chunk > max(size, LARGEST_CHUNK):
    raise ValueError(f'it should have {size} bytes, in chunks of {chunk}')
  if dtype != np.uint16:
    return Tensor(tuple(store.shape), dtype, lambda index: store[index].read().result())
  # Before version 3, T5X stored bfloat16 under the name of another type of 16 bits.
  read = lambda index: store[index].read().result().view(bfloat16)  # noqa: E731
  return Tensor(tuple(store.shape), np.dtype(bfloat16), read)


def _inline(array: np.ndarray) -> Tensor:
  return Tensor(array.shape, array.dtype, array.__getitem__)
