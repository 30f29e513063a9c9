"""Adafactor's state in T5X's checkpoints: where each moment lies, whether it is there, a fresh one.

Owns what T5X keeps for each weight: `v_row` and `v_col`, the means of a factored one, or `v`. T5X
factors as optax does (`v_row` as long as the shorter axis, from 128 on), except for the kernels of
scanned layers: those by its logical_factor_rules, at any size, `v_row` along `embed` and `v_col`
along the other axis. The two have the same mean, so an update is the same under either name. Where
weights lie is t5x.py's; the state in optax is adafactor.py's.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dss_jax.checkpoints import transfer
from dss_jax.checkpoints.adafactor import KINDS
from dss_jax.checkpoints.transfer import Leaf, Moments, Path, Recipe, Tensor
from dss_jax.models import t5
from dss_jax.models.t5 import T5Config

TARGET, STATES, STEP = 'target/', 'state/param_states/', 'state/step'
FACTORED_FROM = 128  # of both sizes, but for scanned layers


def find(
  config: T5Config, weights: Recipe, tensors: Mapping[str, Tensor]
) -> tuple[Moments | None, tuple[str, ...]]:
  """Where Adafactor's state is in a checkpoint, or None, and what a person should know about it.

  Args:
    config: the network.
    weights: where its weights lie.
    tensors: what the checkpoint holds.
  """
  states = [name for name in tensors if name.startswith('state/') and name != STEP]
  if not states:
    return None, ()
  if STEP not in tensors or not any(name.startswith(STATES) for name in states):
    return None, (f"its optimizer state is left out: it is not Adafactor's, but has {states[0]}",)
  if not is_kept(config):
    return None, ('its optimizer state is left out: T5X factors scanned layers smaller than 128',)
  step = int(np.asarray(tensors[STEP].read((slice(None),) * len(tensors[STEP].shape))).item())
  where = _places(config, weights, step)
  for name, shape in _their_shapes(config, where).items():
    if name not in tensors or tensors[name].shape != shape:
      there = tensors[name].shape if name in tensors else 'missing'
      return None, (
        f'its optimizer state is left out: Adafactor has {name} {shape}, here it is {there}',
      )
  if any(name.endswith('/m') and tensors[name].shape != (1,) for name in tensors):
    return where, ('the momentum of its optimizer is left out: ours has none',)
  return where, ()


def is_kept(config: T5Config) -> bool:
  """Whether T5X and optax factor the same weights, so that the state goes from one to the other."""
  return all(_is_factored(weight.size) for weight in _weights(config) if weight.is_scanned_kernel)


def arrays(
  config: T5Config, weights: Recipe, step: int, moments: Mapping[str, Any] | None
) -> dict[str, np.ndarray]:
  """All arrays of T5X's state but the weights: what is not used is one zero.

  Args:
    config: the network.
    weights: where its weights lie.
    step: updates made so far.
    moments: as `adafactor.moments_of` gives them, or None for those before the first update.
  """
  where = _places(config, weights, step)
  found = {STEP: np.asarray(step, np.int32)}
  for name in itertools.chain.from_iterable(leaf.names for leaf in weights.values()):
    for kind in ('v_row', 'v_col', 'v', 'm'):
      found[_state_of(name, kind)] = np.zeros(1, np.float32)
  shapes = _their_shapes(config, where)
  found |= {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
  if moments is not None:
    for kind in KINDS:
      found.update(transfer.written(getattr(where, kind), transfer.flatten(moments[kind])))
  return found


def _places(config: T5Config, weights: Recipe, step: int) -> Moments:
  """Where the state lies, of each weight as T5X keeps it."""
  rows, columns, full = {}, {}, {}
  for weight in _weights(config):
    path, leaf = weight.path, weights[weight.path]
    if weight.is_scanned_kernel:
      # optax's rows are along the first of two axes that are equally long
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
  # Kernels are [in, layers, out]; means of heads are named as t5x.py shows them, layers first.
  of_heads = axes[axis] == 'heads'
  return _state(leaf, kind, (1, 0) if axis == 0 and not of_heads else (0, 1))


def _state(leaf: Leaf, kind: str, axes: tuple[int, ...]) -> Leaf:
  return Leaf(tuple(_state_of(name, kind) for name in leaf.names), axes, leaf.per_layer)


def _state_of(name: str, kind: str) -> str:
  return f'{STATES}{name.removeprefix(TARGET)}/{kind}'


def _their_shapes(config: T5Config, where: Moments) -> dict[str, tuple[int, ...]]:
  """The shapes of T5X's arrays that are used, from those of ours."""
  rows, columns, full = {}, {}, {}
  for path, layers, size, *_ in _weights(config):
    if path in where.full:
      full[path] = (*layers, *size)
    else:
      rows[path], columns[path] = (*layers, min(size)), (*layers, max(size))
  found: dict[str, tuple[int, ...]] = {}
  for kind, ours in zip(KINDS, (rows, columns, full), strict=True):
    found |= transfer.expected_shapes(getattr(where, kind), ours)
  return found


class _Weight(NamedTuple):
  """One of our weights.

  Attributes:
    path: of keys.
    layers: (number of layers,) where it is stacked, else ().
    size: its own shape, of one layer.
    axes: its logical axes, of one layer.
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
