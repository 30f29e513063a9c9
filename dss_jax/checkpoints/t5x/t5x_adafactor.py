"""Adafactor's state in T5X's checkpoints: where each moment is, whether it exists, a fresh one.

Owns what T5X stores for each weight: the means `v_row` and `v_col` if it is factored, else `v`. T5X
factors as optax does (sizes from 128 on, `v_row` as long as the shorter axis), except for the
kernels of scanned layers: its logical_factor_rules factor these at any size, with `v_row` along
`embed` and `v_col` along the other axis. Both have the same mean, so swapping their names does not
change an update. t5x.py knows where weights are; adafactor.py owns the state in optax.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dss_jax.checkpoints import transfer
from dss_jax.checkpoints.adafactor import KINDS
from dss_jax.checkpoints.t5x import t5x_files
from dss_jax.checkpoints.transfer import Leaf, Moments, Path, Recipe, Tensor
from dss_jax.models import t5
from dss_jax.models.t5 import T5Config

TARGET, STATES, STEP = 'target/', 'state/param_states/', 'state/step'
FACTORED_FROM = 128  # both sizes at least; scanned layers are factored at any size


def find(
  config: T5Config, weights: Recipe, tensors: Mapping[str, Tensor]
) -> tuple[Moments | None, tuple[str, ...]]:
  """Where Adafactor's state is in a checkpoint, or None, and notes to show to the user.

  Args:
    config: the network.
    weights: where its weights are.
    tensors: what the checkpoint holds.
  """
  states = [name for name in tensors if name.startswith('state/') and name != STEP]
  if not states:
    return None, ()
  if STEP not in tensors or not any(name.startswith(STATES) for name in states):
    return None, (f"its optimizer state is left out: it has {states[0]}, so it is not Adafactor's",)
  if not is_kept(config):
    return None, ('its optimizer state is left out: T5X factors scanned layers smaller than 128',)
  step = t5x_files.whole_number(STEP, tensors[STEP])
  where = _places(config, weights, step)
  for name, shape in _their_shapes(config, where).items():
    if name not in tensors or tensors[name].shape != shape:
      there = tensors[name].shape if name in tensors else 'missing'
      return None, (
        f'its optimizer state is left out: expected {name} {shape} for Adafactor, not {there}',
      )
  if any(name.endswith('/m') and tensors[name].shape != (1,) for name in tensors):
    return where, ('the momentum of its optimizer is left out: ours has none',)
  return where, ()


def is_kept(config: T5Config) -> bool:
  """Whether T5X and optax factor the same weights, so that the state can be converted."""
  return all(_is_factored(weight.size) for weight in _weights(config) if weight.is_scanned_kernel)


def arrays(
  config: T5Config, weights: Recipe, step: int, moments: Mapping[str, Any] | None
) -> dict[str, np.ndarray]:
  """All arrays of T5X's state except the weights; an unused array is a single zero.

  Args:
    config: the network.
    weights: where its weights are.
    step: updates made so far.
    moments: as `adafactor.moments_of` gives them, or None for the state before the first update.
  """
  where = _places(config, weights, step)
  state = {STEP: np.asarray(step, np.int32)}
  for name in itertools.chain.from_iterable(leaf.names for leaf in weights.values()):
    for kind in ('v_row', 'v_col', 'v', 'm'):
      state[_state_of(name, kind)] = np.zeros(1, np.float32)
  shapes = _their_shapes(config, where)
  state |= {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
  if moments is not None:
    for kind in KINDS:
      state.update(transfer.written(getattr(where, kind), transfer.flatten(moments[kind])))
  return state


def _places(config: T5Config, weights: Recipe, step: int) -> Moments:
  """Where T5X stores the state of each weight."""
  rows, columns, full = {}, {}, {}
  for weight in _weights(config):
    path, leaf = weight.path, weights[weight.path]
    if weight.is_scanned_kernel:
      # if both axes are equally long, optax's rows are along the first
      shorter = int(weight.size[1] < weight.size[0])
      rows[path] = _along(leaf, weight.axes, shorter)
      columns[path] = _along(leaf, weight.axes, 1 - shorter)
    elif _is_factored(weight.size):
      rows[path], columns[path] = _state(leaf, 'v_row', (0,)), _state(leaf, 'v_col', (0,))
    else:
      full[path] = _state(leaf, 'v', leaf.axes)
  return Moments(step, rows, columns, full)


def _along(leaf: Leaf, axes: t5.Axes, axis: int) -> Leaf:
  """The means of scanned layers along one axis of a layer's kernel, 0 (in) or 1 (out)."""
  kind = 'v_row' if axes[axis] == 'embed' else 'v_col'
  # Kernels are [in, layers, out]; means of heads are in t5x.py's layout, layers first.
  of_heads = axes[axis] == 'heads'
  return _state(leaf, kind, (1, 0) if axis == 0 and not of_heads else (0, 1))


def _state(leaf: Leaf, kind: str, axes: tuple[int, ...]) -> Leaf:
  return Leaf(tuple(_state_of(name, kind) for name in leaf.names), axes, leaf.per_layer)


def _state_of(name: str, kind: str) -> str:
  return f'{STATES}{name.removeprefix(TARGET)}/{kind}'


def _their_shapes(config: T5Config, where: Moments) -> dict[str, tuple[int, ...]]:
  """The shapes of the arrays that T5X uses, from the shapes of ours."""
  rows, columns, full = {}, {}, {}
  for path, layers, size, *_ in _weights(config):
    if path in where.full:
      full[path] = (*layers, *size)
    else:
      rows[path], columns[path] = (*layers, min(size)), (*layers, max(size))
  shapes: dict[str, tuple[int, ...]] = {}
  for kind, ours in zip(KINDS, (rows, columns, full), strict=True):
    shapes |= transfer.expected_shapes(getattr(where, kind), ours)
  return shapes


class _Weight(NamedTuple):
  """One of our weights.

  Attributes:
    path: of keys.
    layers: (number of layers,) where it is stacked, else ().
    size: the shape of one layer's weight.
    axes: the logical axes of one layer's weight.
    is_scanned_kernel: whether T5X has it as a kernel of scanned layers.
  """

  path: Path
  layers: tuple[int, ...]
  size: tuple[int, ...]
  axes: t5.Axes
  is_scanned_kernel: bool


def _weights(config: T5Config) -> Iterator[_Weight]:
  shapes, logical = t5.abstract(config)
  all_axes: list[t5.Axes] = jax.tree.leaves(logical, is_leaf=lambda leaf: isinstance(leaf, tuple))
  for (path, leaf), axes in zip(transfer.flatten(shapes).items(), all_axes, strict=True):
    own = t5.of_one_layer(axes)
    first = len(axes) - len(own)
    scanned = config.relative_bias_per_layer and first == 1 and t5.is_kernel(axes)
    yield _Weight(path, leaf.shape[:first], leaf.shape[first:], own, scanned)


def _is_factored(size: tuple[int, ...]) -> bool:
  return len(size) == 2 and min(size) >= FACTORED_FROM
