"""The programs of training, kept for further runs of the process with the same settings.

Owns what is kept, and how long. A sweep's next cell with another seed then traces and loads nothing
anew. What the programs compute is steps.py's and train_state.py's.
"""

import functools
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from dss_jax.models import t5
from dss_jax.training import losses, optimizers, steps, train_state

MOST = 4  # methods of a sweep, which alternate


class Update(NamedTuple):
  """An update and its optimizer.

  Attributes:
    optimizer: optax's transformation.
    step: jitted; (state, batch, seed) -> (state, metrics), see `steps.make_train_step`.
  """

  optimizer: optax.GradientTransformation
  step: Any


@functools.lru_cache(MOST)
def update(
  model: t5.T5Config,
  objective: losses.Objective,
  optimizer: optimizers.OptimizerConfig,
  num_microbatches: int,
  mesh: Mesh,
) -> Update:
  """The update of a run. Its seed is an argument of the step, so that one serves all seeds."""
  transformation = optimizers.make_optimizer(optimizer, t5.logical_axes(model))
  step = steps.make_train_step(model, objective, transformation, 0, num_microbatches)
  like = train_state.abstract(model, transformation, mesh)
  return Update(transformation, train_state.jit_update(step, like))


@functools.lru_cache(MOST)
def eval_step(model: t5.T5Config, objective: losses.Objective) -> Any:
  """`steps.make_eval_step`, jitted."""
  return jax.jit(steps.make_eval_step(model, objective))
