"""What T5X writes and computes against what we read and compute; needs T5X beside us.

  python benchmarks/t5x_parity.py --t5x=DIR[:DIR...]   (T5X, airio, jestimator, flaxformer)

Owns the comparison: random weights of T5X's own network, written by T5X's own classes in each of
its layouts, are opened, computed with, written back and restored by T5X. Prints a table; with
--json=FILE also that. Exit status 1 if anything differs by more than it may. How T5X is driven is
tests/golden/make_t5x.py's.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / 'tests' / 'golden'))

import make_t5x  # noqa: E402

from dss_jax.checkpoints import adafactor, transfer  # noqa: E402
from dss_jax.checkpoints.t5x import t5x, t5x_adafactor, t5x_files  # noqa: E402
from dss_jax.models import t5  # noqa: E402
from dss_jax.training import optimizers  # noqa: E402

SIZES: dict[str, Any] = {
  'vocab_size': 512,
  'emb_dim': 256,
  'num_heads': 4,
  'head_dim': 64,
  'mlp_dim': 384,
  'num_encoder_layers': 2,
  'num_decoder_layers': 3,
  'dtype': 'float32',
}
FAMILIES: dict[str, dict[str, Any]] = {
  '1.1': {'mlp_activations': ('gelu', 'linear'), 'logits_via_embedding': False},
  '1.0': {'mlp_activations': ('relu',), 'logits_via_embedding': True},
  'mT5': {
    'vocab_size': 977,
    'mlp_activations': ('gelu', 'linear'),
    'logits_via_embedding': False,
  },
  'umT5': {  # as in its small one, attention is narrower than the embedding
    'vocab_size': 977,
    'num_heads': 3,
    'mlp_activations': ('gelu', 'linear'),
    'logits_via_embedding': False,
  },
  'ByT5': {
    'vocab_size': 384,
    'num_encoder_layers': 6,
    'num_decoder_layers': 2,
    'mlp_activations': ('gelu', 'linear'),
    'logits_via_embedding': False,
  },
}
CASES = (
  ('1.1', False, True),
  ('1.1', False, False),
  ('1.1', True, True),
  ('1.1', True, False),
  ('1.0', False, True),
  ('1.0', True, False),
  ('mT5', False, True),
  ('umT5', True, True),
  ('ByT5', False, True),
)
UPDATES = (('1.1', False), ('1.1', True), ('umT5', True))
TOLERANCE, UPDATE_TOLERANCE = 1e-5, 1e-6
STEP = t5x_adafactor.STEP
KINDS = ('rows', 'columns', 'full')


@functools.cache
def fresh_state(family: str, scanned: bool, with_state: bool) -> tuple[Any, Any]:
  """T5X's network and its train state with its own random weights."""
  network = make_t5x.module(scanned, SIZES | FAMILIES[family])
  return network, make_t5x.fresh_state(network, with_state)


@functools.cache
def random_state(family: str, scanned: bool, with_state: bool) -> tuple[Any, Any]:
  """As `fresh_state`, with some second moments, at step 1,000,000."""
  network, state = fresh_state(family, scanned, with_state)
  random, arrays = np.random.default_rng(1), make_t5x.flat(state)

  def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.startswith('target/'):
      array = np.array(arrays[name])
      if name.endswith('scale'):
        array += 0.1 * random.standard_normal(shape)
      return array
    return make_t5x.STEP if name == 'state/step' else 1e-4 * np.exp(random.standard_normal(shape))

  return network, make_t5x.with_values(state, value)


def our_logits(config: t5.T5Config, params: t5.Params, tokens: tuple) -> np.ndarray:
  """What our network computes, in float32."""

  @jax.jit
  def compute(params, inputs, targets_in, targets):
    network = t5.bind(config, params)
    segments = (inputs > 0).astype(jnp.int32)
    encoded = network.encode(inputs, segments)
    return network.decode(encoded, segments, targets_in, (targets > 0).astype(jnp.int32))

  return np.asarray(compute(params, *tokens))


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
  """As a part of the largest entry."""
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def read_moments(opened: transfer.Pretrained) -> dict[str, Any] | None:
  """Adafactor's state in our form."""
  where = opened.moments
  if where is None:
    return None
  parts = {kind: transfer.read_all(getattr(where, kind), opened.tensors) for kind in KINDS}
  return {'step': where.step, **parts}


def compare(family: str, layout: str, scanned: bool, with_state: bool) -> dict[str, Any]:
  """One checkpoint: in, computed with, out, restored by T5X."""
  settings = SIZES | FAMILIES[family]
  network, state = random_state(family, scanned, with_state)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    make_t5x.save(state, str(folder / 'theirs'), layout, 'float32')
    start = time.perf_counter()
    opened = t5x.open_pretrained(str(folder / 'theirs'))
    params, moments = transfer.read_all(opened.recipe, opened.tensors), read_moments(opened)
    seconds = time.perf_counter() - start
    config = t5.T5Config(**settings, relative_bias_per_layer=scanned)
    assert opened.config == dataclasses.replace(config, dtype='bfloat16'), opened.config

    tokens = make_t5x.batch(config.vocab_size)
    real = tokens[2] > 0
    theirs = make_t5x.logits(network, state, tokens)
    logits = largest_difference(our_logits(config, params, tokens)[real], theirs[real])

    written = folder / 'ours' / f'checkpoint_{make_t5x.STEP}'
    t5x.write(str(written), opened.config, transfer.flatten(params), make_t5x.STEP, moments)
    exact = {
      name: restored_is_exact(str(written), state, family, scanned, moments, manager)
      for name, manager in (('Checkpointer', False), ('Orbax manager', True))
    }
  return {
    'family': family,
    'layout': layout,
    'scanned': scanned,
    'adafactor': with_state,
    'adafactor read': moments is not None,
    'logits': logits,
    'round trip exact': all(exact.values()),
    'seconds': round(seconds, 2),
    'ok': logits <= TOLERANCE and all(exact.values()),
  }


def restored_is_exact(
  written: str, before: Any, family: str, scanned: bool, moments: Any, manager: bool
) -> bool:
  """Whether T5X restores what we wrote to the arrays that it had, bit for bit."""
  from t5x import checkpoints, partitioning

  _, like = fresh_state(family, scanned, with_state=True)
  partitioner, parent = (
    partitioning.PjitPartitioner(num_partitions=1),
    str(pathlib.Path(written).parent),
  )
  if manager:
    reader = checkpoints.OrbaxCheckpointManagerInterface(parent, like, partitioner)
  else:
    reader = checkpoints.Checkpointer(like, partitioner, parent)
  after = make_t5x.flat(reader.restore(path=written))
  if manager:
    reader.close()
  expected = make_t5x.flat(before)
  for name, array in after.items():
    if name.startswith('target/') or name == 'state/step' or moments is not None:
      if not np.array_equal(array, expected[name]):
        return False
    elif np.any(array):  # a fresh state is zero
      return False
  return True


def update_difference(family: str, scanned: bool) -> dict[str, float]:
  """Largest differences between T5X's third update by Adafactor and ours of its second state.

  The learning rate is 1, so that the change of a parameter is of its own size and float32 hides
  nothing of it. T5X makes the state itself, since the two means of a weight have one mean.
  """
  _, drawn = random_state(family, scanned, with_state=False)
  weights = {n: array for n, array in make_t5x.flat(drawn).items() if n.startswith('target/')}
  _, state = fresh_state(family, scanned, with_state=True)
  state = state.restore_state(make_t5x.nested(make_t5x.flat(state) | weights))
  for seed in (2, 3):
    state = updated(state, gradient(weights, seed))
  last = gradient(weights, seed=4)
  theirs = make_t5x.flat(updated(state, last))
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    make_t5x.save(state, str(folder / 'theirs'), 'legacy', 'float32')
    t5x_files.write(epath.Path(folder / 'gradients'), last.items(), {})
    opened = t5x.open_pretrained(str(folder / 'theirs'))
    assert opened.moments is not None and opened.moments.step == 2
    params = transfer.read_all(opened.recipe, opened.tensors)
    of_gradients = t5x.open_pretrained(str(folder / 'gradients'))
    read = transfer.read_all(of_gradients.recipe, of_gradients.tensors)
    after, moments = our_update(opened.config, params, read, read_moments(opened))
    t5x.write(str(folder / 'ours'), opened.config, transfer.flatten(after), 0, moments)
    tensors = t5x_files.open_checkpoint(epath.Path(folder / 'ours'))
    whole = {n: np.asarray(t.read((slice(None),) * len(t.shape))) for n, t in tensors.items()}
  assert whole.keys() == theirs.keys() and whole[STEP] == theirs[STEP] == 3
  found: dict[str, float] = {}
  for name in theirs:
    kind = 'weights' if name.startswith('target/') else name.rpartition('/')[2]
    if name != STEP and np.shape(theirs[name]) != (1,):
      found[kind] = max(found.get(kind, 0), largest_difference(whole[name], theirs[name]))
      found[f'arrays of {kind}'] = found.get(f'arrays of {kind}', 0) + 1
  return found


def gradient(weights: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
  """Random gradients of T5X's weights."""
  random = np.random.default_rng(seed)
  draw = lambda shape: 1e-2 * random.standard_normal(shape).astype(np.float32)  # noqa: E731
  return {name: draw(array.shape) for name, array in weights.items()}


def updated(state: Any, gradients: dict[str, np.ndarray]) -> Any:
  """T5X's train state after its own update."""
  nested = make_t5x.nested({n.removeprefix('target/'): g for n, g in gradients.items()})
  return state.apply_gradient(nested, learning_rate=1.0)


def our_update(
  config: t5.T5Config, params: t5.Params, gradients: t5.Params, moments: dict[str, Any]
) -> tuple:
  """Our parameters and second moments after our update."""
  settings = optimizers.OptimizerConfig(
    name='adafactor', learning_rate=1.0, schedule='constant', clip_norm=None
  )
  optimizer = optimizers.make_optimizer(settings, t5.logical_axes(config))

  @jax.jit
  def update(params, gradients, moments):
    opt_state = adafactor.with_moments(optimizer.init(params), moments)
    changes, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, changes), adafactor.moments_of(opt_state)

  return update(params, gradients, moments)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--t5x', required=True, help='folders of T5X and of what it imports')
  parser.add_argument('--json', help='a file for the figures')
  arguments = parser.parse_args()
  make_t5x.import_t5x(arguments.t5x)
  rows = []
  for family, scanned, with_state in CASES:
    for layout in ('legacy', 'orbax'):
      rows.append(compare(family, layout, scanned, with_state))
      print(' | '.join(f'{key} {value}' for key, value in rows[-1].items()), flush=True)
  updates = {}
  for family, scanned in UPDATES:
    case = f'{family} {"scanned" if scanned else "unscanned"}'
    updates[case] = update_difference(family, scanned)
    print(f'Adafactor of {case}, largest difference / largest entry: {updates[case]}', flush=True)
  ok = all(row['ok'] for row in rows)
  kinds = ('weights', 'v_row', 'v_col', 'v')
  ok &= all(found[kind] <= UPDATE_TOLERANCE for found in updates.values() for kind in kinds)
  if arguments.json:
    figures = {'checkpoints': rows, 'adafactor updates': updates, 'ok': ok}
    pathlib.Path(arguments.json).write_text(json.dumps(figures, indent=2) + '\n')
  print('all as it should be' if ok else 'SOMETHING DIFFERS')
  return 0 if ok else 1


if __name__ == '__main__':
  sys.exit(main())
