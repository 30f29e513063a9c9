"""Optimizers and learning-rate schedules, from optax.

Owns the choice and its per-layer form for stacked layers. The update itself is optax's.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dss_jax.settings import fields
from dss_jax.training import factors as t5x_factors

SINGLE = 'single'  # the partition of weights that are not stacked
OPTIMIZERS = ('adamw', 'adafactor')
SCHEDULES = ('constant', 'linear', 'rsqrt', 'factors')

Axes = Mapping[str, Any]  # nested dicts of tuples of logical axes


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Which optimizer, at which learning rate; the defaults are the paper's recipe.

  Attributes:
    name: 'adamw' or 'adafactor' (T5X's: factored, relative to the parameter's size, no momentum).
    learning_rate: the peak, or the factor of 'rsqrt'.
    schedule: 'constant'; 'linear' to 0 at `decay_steps`; 'rsqrt': rate / sqrt(max(t, warmup));
      'factors', as T5X's files have them.
    warmup_steps: linear from 0 at step 0 ('constant', 'linear'), flat ('rsqrt', as in T5X).
    decay_steps: where 'linear' reaches 0: the end of training (TRAIN_STEPS); None otherwise, so
      that a run with another schedule can be made longer.
    clip_norm: largest global gradient norm, or None.
    weight_decay: of AdamW.
    b1: decay of AdamW's first moment.
    b2: decay of AdamW's second moment.
    eps: added to the root of AdamW's second moment.
    decay_rate: of Adafactor's second moment: 1 - t^-decay_rate.
    factors: of the schedule 'factors'.
  """

  name: str = 'adamw'
  learning_rate: float = 5e-5
  schedule: str = 'linear'
  warmup_steps: int = 0
  decay_steps: int | None = None
  clip_norm: float | None = 1.0
  weight_decay: float = 0.0
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  decay_rate: float = 0.8
  factors: t5x_factors.Factors | None = None

  def __post_init__(self):
    fields.check(self)
    if self.schedule != 'factors':
      object.__setattr__(self, 'factors', None)
    elif self.factors is None:
      object.__setattr__(self, 'factors', t5x_factors.Factors())
    if self.schedule != 'linear':
      object.__setattr__(self, 'decay_steps', None)
    if self.name not in OPTIMIZERS:
      raise ValueError(
        f'OptimizerConfig.name (OPTIMIZER) is one of {OPTIMIZERS}, not {self.name!r}.'
      )
    if self.name == 'adafactor' and self.weight_decay:
      raise ValueError(
        "OptimizerConfig.weight_decay (WEIGHT_DECAY) is for 'adamw' only; OPTIMIZER 'adafactor' "
        f'takes 0, not {self.weight_decay}.'
      )
    if self.schedule not in SCHEDULES:
      raise ValueError(
        f'OptimizerConfig.schedule (SCHEDULE) is one of {SCHEDULES}, not {self.schedule!r}.'
      )
    if self.factors and not self.warmup_steps and set(self.factors.names) != {'constant'}:
      raise ValueError(
        "OptimizerConfig.warmup_steps (WARMUP_STEPS) of schedule 'factors' is at least 1, not 0."
      )
    if self.clip_norm is not None and self.clip_norm <= 0:
      raise ValueError(
        f'OptimizerConfig.clip_norm (CLIP_NORM) is above 0, or None, not {self.clip_norm}.'
      )
    for name in ('learning_rate', 'warmup_steps', 'weight_decay'):
      if not 0 <= (given := getattr(self, name)) <= fields.MOST:
        raise ValueError(
          f'OptimizerConfig.{name} ({name.upper()}) is at least 0 and below 2^31, not {given}.'
        )
    if self.schedule == 'linear' and (self.decay_steps or 0) <= self.warmup_steps:
      raise ValueError(
        "OptimizerConfig.decay_steps (TRAIN_STEPS) of schedule 'linear' must exceed warmup_steps "
        f'(WARMUP_STEPS) {self.warmup_steps}, not {self.decay_steps}.'
      )


def make_schedule(config: OptimizerConfig) -> Callable[[Any], Any]:
  """The learning rate as a function of how many updates have been made.

  Returns:
    A function of a step count from 0, as optax and torch count.
  """
  peak, warmup = config.learning_rate, config.warmup_steps
  if config.factors is not None:
    return t5x_factors.rate(config.factors, peak, warmup)
  if config.schedule == 'rsqrt':
    return lambda step: peak * jax.lax.rsqrt(jnp.maximum(_float32(step), max(warmup, 1)))
  if config.schedule == 'linear':
    assert config.decay_steps is not None  # __post_init__ checks it
    after = optax.linear_schedule(peak, 0.0, config.decay_steps - warmup)
  else:
    after = optax.constant_schedule(peak)
  if not warmup:
    return after
  return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def _float32(step: Any) -> jax.Array:
  return jnp.asarray(step).astype(jnp.float32)


def make_optimizer(config: OptimizerConfig, axes: Axes) -> optax.GradientTransformation:
  """The optax transformation for parameters with these logical axes.

  Adafactor's clipping and scale depend on a complete tensor. On stacked layers it would not be the
  optimizer that T5 was trained with, so it is mapped over the layer axis.

  Args:
    config: which optimizer.
    axes: a nested dict like the parameters', of tuples of logical axes: `t5.logical_axes`. Weights
      whose first axis is `layers` are stacked.
  """
  schedule = make_schedule(config)
  if config.name == 'adamw':
    update = optax.adamw(
      schedule, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=config.weight_decay
    )
  else:
    adafactor = optax.adafactor(schedule, decay_rate=config.decay_rate)
    # One optimizer for each stack, since their numbers of layers differ, and one for the rest.
    parts = _parts(axes)
    stacks = sorted({*jax.tree.leaves(parts)} - {SINGLE}, reverse=True)  # the encoder's first
    transforms = {stack: per_layer(adafactor) for stack in stacks} | {SINGLE: adafactor}
    update = optax.partition(transforms, parts)
  clip = (
    optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm)
  )
  return optax.chain(clip, update)


def per_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
  """`transform` applied to each slice along the leading axis of every leaf, as if on its own."""

  def update(updates, state, params=None):
    return jax.vmap(transform.update)(updates, state, params)

  return optax.GradientTransformation(jax.vmap(transform.init), update)


def _parts(axes: Axes) -> dict[str, Any]:
  """A nested dict like `axes`: the stack that a weight belongs to, or SINGLE.

  The layers of a stack, `encoder_layers`, and their biases if each has its own, `encoder_bias`, are
  one part, named after the layers. Checkpoints contain that name.
  """

  def part(path, of_weight: tuple[str, ...]) -> str:
    stack = path[0].key.split('_')[0]
    return f'{stack}_layers' if 'layers' in of_weight else SINGLE

  return jax.tree.map_with_path(part, axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
