"""What training carries from step to step, and how its arrays are sharded.

Owns the state's form, creation and shardings. checkpoints/manager.py saves it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from dss_jax.models import t5
from dss_jax.parallel import devices, partitioning


class TrainState(NamedTuple):
  """Everything that an update changes.

  Attributes:
    step: int32 scalar, updates made so far.
    params: nested dict of float32 arrays.
    opt_state: optax's state.
  """

  step: Any
  params: Any
  opt_state: Any


def create(
  model: t5.T5Config, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int
) -> TrainState:
  """A fresh state, created sharded: no device ever holds a complete array that is sharded."""
  return _maker(model, optimizer, mesh)(np.uint32(seed))  # an argument: one serves all seeds


@functools.lru_cache(4)
def _maker(model: t5.T5Config, optimizer: optax.GradientTransformation, mesh: Mesh) -> Any:
  shapes = abstract(model, optimizer, mesh)
  return jax.jit(
    lambda seed: from_params(t5.init(model, jax.random.key(seed)), optimizer),
    out_shardings=jax.tree.map(lambda leaf: leaf.sharding, shapes),
  )


def from_params(params: t5.Params, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first update of these parameters."""
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def jit_update(update: Callable, state: TrainState) -> Any:
  """`update`, (state, ...) -> (state, metrics), jitted; the new state is sharded like the old.

  Otherwise the compiler may shard parts of it differently, and the next call compiles again.
  """
  places = jax.tree.map(lambda leaf: leaf.sharding, state)
  return jax.jit(
    update,
    donate_argnums=0,
    out_shardings=(places, None),
    compiler_options=devices.update_options(state.step.sharding),
  )


def abstract(model: t5.T5Config, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
  """The state as ShapeDtypeStructs with shardings; optimizer state follows its parameter."""
  shapes, axes = t5.abstract(model)
  param_shardings = partitioning.shardings(mesh, shapes, axes)
  state = jax.eval_shape(lambda params: from_params(params, optimizer), shapes)
  by_path = {
    path: (leaf.shape, sharding)
    for (path, leaf), sharding in zip(
      jax.tree.leaves_with_path(shapes), jax.tree.leaves(param_shardings), strict=True
    )
  }
  replicated = partitioning.replicated(mesh)

  def place(path, leaf):
    # The path of an optimizer's leaf ends with the path of its parameter. Factored moments have
    # another shape and are replicated.
    ends = (path[start:] for start in range(len(path)))
    shape, sharding = next((by_path[end] for end in ends if end in by_path), (None, replicated))
    return jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding if shape == leaf.shape else replicated
    )

  return jax.tree.map_with_path(place, state)
