"""T5X's learning rate: a product of factors, each a function of the step.

Owns the factors and their settings. The other schedules are optimizers.py's.

Source: T5X, t5x/utils.py, create_learning_rate_scheduler.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dss_jax.settings import fields


@dataclasses.dataclass(frozen=True)
class Factors:
  """How the learning rate of SCHEDULE 'factors' changes; with w = WARMUP_STEPS and step t:

      constant                LEARNING_RATE
      linear_warmup           min(1, t / w)
      linear_decay            LEARNING_RATE min(t / w, 1 + decay_factor (w - t))
      rsqrt_decay             1 / sqrt(max(t, w))
      rsqrt_normalized_decay  sqrt(w / max(t, w))
      decay_every             decay_factor ^ floor(t / steps_per_decay)
      cosine_decay            max(0, (1 + cos(pi (max(0, t - w) / steps_per_cycle mod 1))) / 2)

  Attributes:
    product: names of factors, joined by *.
    decay_factor: see above.
    steps_per_decay: likewise.
    steps_per_cycle: likewise.
    step_offset: subtracted from the step.
    first_step: the step that the first update counts as, that of a T5X checkpoint.
    min_learning_rate: the rate is never below.
  """

  product: str = 'constant * linear_warmup * rsqrt_decay'
  decay_factor: float = 0.5
  steps_per_decay: int = 20_000
  steps_per_cycle: int = 100_000
  step_offset: int = 0
  first_step: int = 0
  min_learning_rate: float = 1e-8

  def __post_init__(self):
    fields.check(self)
    unknown = [name for name in self.names if name not in _FACTORS]
    if unknown:
      raise ValueError(
        f'Factors.product is a product of {", ".join(_FACTORS)}; {unknown[0]!r} is none of them.'
      )
    for name in ('steps_per_decay', 'steps_per_cycle'):
      if not 1 <= (given := getattr(self, name)) <= fields.MOST:
        raise ValueError(f'Factors.{name} is at least 1 and below 2^31, not {given}.')

  @property
  def names(self) -> list[str]:
    """The factors' names."""
    return [name.strip() for name in self.product.split('*')]


def rate(factors: Factors, base: float, warmup: int) -> Callable[[Any], jax.Array]:
  """The learning rate as a function of how many updates have been made.

  Args:
    factors: which, with their settings.
    base: LEARNING_RATE.
    warmup: WARMUP_STEPS.
  """

  def at(count: Any) -> jax.Array:
    counted = jnp.asarray(count).astype(jnp.float32)
    step = jnp.maximum(0.0, counted + float(factors.first_step - factors.step_offset))
    product = jnp.float32(1.0)
    for name in factors.names:
      product = product * _FACTORS[name](factors, step, base, float(warmup))
    return jnp.maximum(product, factors.min_learning_rate)

  return at


def _cosine(factors: Factors, step: jax.Array, base: float, warmup: float) -> jax.Array:
  progress = jnp.maximum(0.0, (step - warmup) / factors.steps_per_cycle)
  return jnp.maximum(0.0, 0.5 * (1.0 + jnp.cos(jnp.pi * (progress % 1.0))))


def _linear(factors: Factors, step: jax.Array, base: float, warmup: float) -> jax.Array:
  return base * jnp.minimum(step / warmup, 1.0 + factors.decay_factor * (warmup - step))


_FACTORS: dict[str, Callable[[Factors, jax.Array, float, float], Any]] = {
  'constant': lambda factors, step, base, warmup: base,
  'linear_warmup': lambda factors, step, base, warmup: jnp.minimum(1.0, step / warmup),
  'linear_decay': _linear,
  'rsqrt_decay': lambda factors, step, base, warmup: jax.lax.rsqrt(jnp.maximum(step, warmup)),
  'rsqrt_normalized_decay': lambda factors, step, base, warmup: jnp.sqrt(
    warmup / jnp.maximum(step, warmup)
  ),
  'decay_every': lambda factors, step, base, warmup: (
    factors.decay_factor ** (step // factors.steps_per_decay)
  ),
  'cosine_decay': _cosine,
}
