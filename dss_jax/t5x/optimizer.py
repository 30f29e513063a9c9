"""Our AdamW as an optimizer of T5X's.

Owns its form there. T5X's Adafactor is T5X's own; see gin/t5x/adafactor.gin.
"""

from collections.abc import Callable
from typing import Any

from t5x import optimizers as t5x_optimizers

from dss_jax.training import optimizers


def adamw(
  learning_rate: float = 5e-5,
  schedule: str = 'linear',
  warmup_steps: int = 0,
  decay_steps: int | None = None,
  clip_norm: float | None = 1.0,
  weight_decay: float = 0.0,
) -> Any:
  """The AdamW of `dss train`, for T5X's OPTIMIZER; T5X's own learning_rate_fn is only logged.

  Args: see `optimizers.OptimizerConfig`. The schedule counts the updates of this optimizer.
  """
  config = optimizers.OptimizerConfig(
    name='adamw',
    learning_rate=learning_rate,
    schedule=schedule,
    warmup_steps=warmup_steps,
    decay_steps=decay_steps,
    clip_norm=clip_norm,
    weight_decay=weight_decay,
  )
  return t5x_optimizers.OptaxWrapper(optimizers.make_optimizer(config, {}))


def learning_rate(
  learning_rate: float = 5e-5,
  schedule: str = 'linear',
  warmup_steps: int = 0,
  decay_steps: int | None = None,
) -> Callable[[Any], Any]:
  """The rate of `adamw` by step, which T5X's trainer is to log; see there."""
  return optimizers.make_schedule(
    optimizers.OptimizerConfig(
      learning_rate=learning_rate,
      schedule=schedule,
      warmup_steps=warmup_steps,
      decay_steps=decay_steps,
    )
  )
