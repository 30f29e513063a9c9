"""Makes tests/golden/t5x_adamw.tar.xz: tiny checkpoints with AdamW's state that T5X itself wrote.

Needs T5X as make_t5x.py does, whose weights and values it has:
  python tests/golden/make_t5x_adamw.py --t5x=DIR[:DIR...]
"""

import argparse
import io
import pathlib
import sys
import tarfile
import tempfile
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import make_t5x

FILE = pathlib.Path(__file__).with_name('t5x_adamw.tar.xz')
STEP = 5
CASES = {
  'plain': make_t5x.Case('legacy', False, '1_0', True, 'float32', 8, 4),
  'chain': make_t5x.Case('legacy', True, '1_1', True, 'float32', 8, 4),
}
"""'plain' has T5X's `optimizers.adamw`; the other clips first and has a schedule, as ours does."""


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The array of this name in T5X's state, or under 'gradient/' its gradient."""
  if not shape:
    return np.asarray(STEP, np.int32)
  array = make_t5x.value(name.replace('state/', 'gradient/', 1), shape)
  return np.square(array) if '/nu/' in name else array


def optimizer(case: str) -> Any:
  """T5X's AdamW."""
  import optax
  from t5x import optimizers

  if case == 'plain':
    return optimizers.adamw(learning_rate=make_t5x.LEARNING_RATE, weight_decay=0.0)
  schedule = optax.constant_schedule(make_t5x.LEARNING_RATE)
  clip = optax.clip_by_global_norm(1.0)
  return optimizers.chain([clip, optax.adamw(schedule, weight_decay=0.0)])


def state_of(case: str) -> Any:
  """T5X's train state with `value` everywhere."""
  import jax
  from flax import core
  from t5x import train_state

  settings = CASES[case]
  network = make_t5x.module(settings.scanned, make_t5x.config(settings))
  ids = np.ones((2, 8), np.int32)
  variables = network.init(jax.random.key(0), ids, ids, ids, enable_dropout=False)
  state = train_state.FlaxOptimTrainState.create(optimizer(case), core.freeze(variables))
  arrays = {name: np.asarray(value(name, np.shape(a))) for name, a in make_t5x.flat(state).items()}
  return state.restore_state(make_t5x.nested(arrays))


def updated(state: Any) -> np.ndarray:
  """A few entries of each weight after one update."""
  from flax import core

  gradients = {
    name.removeprefix('target/'): value(f'gradient/{name}', array.shape)
    for name, array in make_t5x.flat(state).items()
    if name.startswith('target/')
  }
  frozen = core.freeze(make_t5x.nested(gradients))
  after = make_t5x.flat(state.apply_gradient(frozen, learning_rate=1.0))
  return make_t5x.samples({n: array for n, array in after.items() if n.startswith('target/')})


def unpack(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Lays the checkpoints of `CASES` down below a folder; returns what T5X computed with them."""
  with tarfile.open(FILE) as archive:
    archive.extractall(folder, filter='data')
  with np.load(folder / 'results.npz') as results:
    return dict(results)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--t5x', required=True, help='folders of T5X and of what it imports')
  make_t5x.import_t5x(parser.parse_args().t5x)
  with tempfile.TemporaryDirectory() as temporary:
    folder, results = pathlib.Path(temporary), {}
    for case, settings in CASES.items():
      state = state_of(case)
      make_t5x.save(state, str(folder / case), settings.layout, 'float32')
      results[case] = updated(state)
    np.savez_compressed(folder / 'results.npz', **results)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode='w:xz') as archive:
      archive.add(folder, arcname='.', filter=make_t5x._plain)
  FILE.write_bytes(packed.getvalue())
  print(f'{FILE}: {FILE.stat().st_size} bytes')


if __name__ == '__main__':
  main()
