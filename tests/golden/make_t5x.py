"""Makes tests/golden/t5x.tar.xz: tiny checkpoints that T5X itself wrote, and what it computes.

Needs T5X and what it imports, which CI does not have:
  python tests/golden/make_t5x.py --t5x=DIR[:DIR...]   (T5X, airio, jestimator, flaxformer)
The tests import the cases and the values of the weights from here; those need nothing of T5X.
Weights repeat a short table, so that a megabyte of them compresses to some kilobytes, and yet no
two rows, columns or tensors are the same.
"""

import argparse
import io
import os
import pathlib
import sys
import tarfile
import tempfile
import zlib
from typing import Any, NamedTuple

import numpy as np

FILE = pathlib.Path(__file__).with_name('t5x.tar.xz')
STEP = 1_000_000
LEARNING_RATE = 1e-3
SAMPLES = 20  # of every updated tensor
LOGITS = slice(None, None, 4)  # of the vocabulary, which are kept
PERIOD = 61


class Case(NamedTuple):
  """One checkpoint.

  Attributes:
    layout: 'legacy' or 'orbax'.
    scanned: layers stacked, with a relative bias each, from T5X's scalable_t5.
    version: '1_1' or '1_0'.
    with_state: whether Adafactor's state is in it.
    dtype: of the weights as stored.
    size: of the embedding and the feed-forward; from 128 on Adafactor factors.
    head_dim: of each of two heads.
  """

  layout: str
  scanned: bool
  version: str
  with_state: bool
  dtype: str
  size: int
  head_dim: int = 6


CASES = {
  'legacy': Case('legacy', False, '1_1', True, 'float32', 128),
  'orbax': Case('orbax', False, '1_1', True, 'float32', 128),
  'legacy_1_0': Case('legacy', False, '1_0', False, 'bfloat16', 16),
  'legacy_scanned': Case('legacy', True, '1_1', True, 'float32', 128, 72),
  'orbax_scanned': Case('orbax', True, '1_1', False, 'float32', 16),
}


def config(case: Case) -> dict[str, Any]:
  """The arguments of T5X's T5Config; ours has the same names."""
  gated = case.version == '1_1'
  return {
    'vocab_size': 2 * case.size,
    'emb_dim': case.size,
    'num_heads': 2,
    'head_dim': case.head_dim,
    'mlp_dim': case.size + 32,
    'num_encoder_layers': 1,
    'num_decoder_layers': 2,
    'mlp_activations': ('gelu', 'linear') if gated else ('relu',),
    'logits_via_embedding': not gated,
    'dtype': 'float32',
  }


def batch(vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Inputs, the decoder's inputs and targets, padded with 0."""
  random = np.random.default_rng(0)
  inputs, targets = random.integers(2, vocab_size, (2, 2, 9), np.int32)
  inputs[1, 6:], targets[0, 5:] = 0, 0
  return inputs, np.pad(targets, ((0, 0), (1, 0)))[:, :-1], targets


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The array of this name in T5X's state, or under 'gradient/' its gradient; float32."""
  if name == 'state/step':
    return np.asarray(STEP, np.int32)
  table = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(PERIOD).round(1)
  array = table[np.arange(np.prod(shape)) % PERIOD].reshape(shape)
  if name.startswith('state/'):
    array = 1e-4 * np.exp(array)
  elif name.startswith('gradient/'):
    array = 1e-2 * array
  elif name.endswith('scale'):
    array = 1 + 0.1 * array
  elif not name.endswith('embedding'):
    array = array * np.prod(shape[:-1]) ** -0.5
  return array.astype(np.float32)


def samples(arrays: dict[str, Any]) -> np.ndarray:
  """A few entries of each array of T5X's state that is used, one after the other by name."""
  flat = [np.ravel(arrays[name]) for name in sorted(arrays) if np.shape(arrays[name]) != (1,)]
  return np.concatenate([array[:: max(1, len(array) // SAMPLES)] for array in flat])


def unpack(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Lays the checkpoints of `CASES` down below a folder; returns what T5X computed with them."""
  with tarfile.open(FILE) as archive:
    archive.extractall(folder, filter='data')
  with np.load(folder / 'results.npz') as results:
    return dict(results)


# ---------------------------------------------------------------- with T5X


def import_t5x(folders: str) -> None:
  """Makes T5X importable from folders that are separated as in PATH."""
  sys.path[:0] = folders.split(os.pathsep)
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')


def module(scanned: bool, settings: dict[str, Any]) -> Any:
  """T5X's own network."""
  from t5x.examples.scalable_t5 import network as scalable
  from t5x.examples.t5 import network as minimal

  network = scalable if scanned else minimal
  return network.Transformer(network.T5Config(**settings))


def fresh_state(network: Any, with_state: bool) -> Any:
  """T5X's train state of random weights; with Adafactor as in its t5_1_1/base.gin or without."""
  import jax
  from t5x import adafactor, train_state

  ids = np.ones((2, 8), np.int32)
  init = jax.jit(lambda key: network.init(key, ids, ids, ids, enable_dropout=False))
  variables = init(jax.random.key(0))
  if not with_state:
    return train_state.InferenceState.create(variables)
  rules = adafactor.standard_logical_factor_rules()
  optimizer = adafactor.Adafactor(
    LEARNING_RATE, decay_rate=0.8, step_offset=0, logical_factor_rules=rules
  )
  return train_state.FlaxOptimTrainState.create(optimizer, variables)


def with_values(state: Any, make: Any) -> Any:
  """The train state with `make(name, shape)` for each array that it uses."""
  import jax.numpy as jnp

  arrays = {
    name: array if array.shape == (1,) else jnp.asarray(make(name, array.shape), array.dtype)
    for name, array in flat(state).items()
  }
  return state.restore_state(nested(arrays))


def flat(state: Any) -> dict[str, Any]:
  """The arrays of a train state by path."""
  from flax import traverse_util

  return traverse_util.flatten_dict(state.state_dict(), sep='/')


def nested(arrays: dict[str, Any]) -> dict[str, Any]:
  """The nested dict of arrays by path."""
  from flax import traverse_util

  return traverse_util.unflatten_dict(arrays, sep='/')


def save(state: Any, folder: str, layout: str, dtype: str) -> None:
  """Writes checkpoint_<step> into a folder with T5X's own classes."""
  import jax.numpy as jnp
  from t5x import checkpoints, partitioning

  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  os.makedirs(folder, exist_ok=True)  # T5X's orbax manager takes the parent of what is not there
  if layout == 'legacy':
    checkpoints.Checkpointer(state, partitioner, folder, save_dtype=jnp.dtype(dtype)).save(state)
    return
  manager = checkpoints.OrbaxCheckpointManagerInterface(
    folder, state, partitioner, save_dtype=jnp.dtype(dtype)
  )
  manager.save(state)
  manager.wait_until_finished()
  manager.close()


def logits(network: Any, state: Any, tokens: tuple[np.ndarray, ...]) -> np.ndarray:
  """What T5X's network computes."""
  return np.asarray(network.apply({'params': state.params}, *tokens, enable_dropout=False))


def _make(folder: pathlib.Path) -> None:
  results = {}
  for name, case in CASES.items():
    network = module(case.scanned, config(case))
    state = with_values(fresh_state(network, case.with_state), value)
    save(state, str(folder / name), case.layout, case.dtype)
    stored = with_values(state, lambda n, s, d=case.dtype: rounded(value(n, s), d))
    tokens = batch(config(case)['vocab_size'])
    results[f'{name}/logits'] = logits(network, stored, tokens)[..., LOGITS]
    if case.with_state and case.layout == 'legacy':
      results[f'{name}/updated'] = _updated(state)
  np.savez_compressed(folder / 'results.npz', **results)


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
  """An array as it is after it was stored with a type."""
  import ml_dtypes  # noqa: F401  numpy then knows bfloat16

  return array if array.dtype == np.int32 else array.astype(dtype).astype(array.dtype)


def _updated(state: Any) -> np.ndarray:
  """`samples` after one update by T5X's Adafactor."""
  grads = nested(
    {
      name.removeprefix('target/'): value(f'gradient/{name}', array.shape)
      for name, array in flat(state).items()
      if name.startswith('target/')
    }
  )
  return samples(flat(state.apply_gradient(grads, learning_rate=LEARNING_RATE)))


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
  """Without what differs between two runs and machines."""
  info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, '', ''
  return info


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--t5x', required=True, help='folders of T5X and of what it imports')
  import_t5x(parser.parse_args().t5x)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    _make(folder)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode='w:xz') as archive:
      archive.add(folder, arcname='.', filter=_plain)
  FILE.write_bytes(packed.getvalue())
  print(f'{FILE}: {FILE.stat().st_size} bytes')


if __name__ == '__main__':
  main()
