"""The part of T5X's table that says how weights are updated: optimizer, learning rate, steps.

Owns these entries alone; see t5x_names.py.
"""

from collections.abc import Mapping
from typing import Any

from dss_jax.settings.t5x_verdicts import (
  TRANSLATED,
  Becomes,
  Rule,
  Verdict,
  is_of_t5x,
  nothing,
  only,
  refused,
)

CONFIG = 'dss_jax.training.optimizers.OptimizerConfig'
FACTORS = 'dss_jax.training.factors.Factors'
STEPS = 'dss_jax.runs.pretrained'
ADAMW = (
  "OPTIMIZER = 'adamw', with LEARNING_RATE, SCHEDULE, WARMUP_STEPS, WEIGHT_DECAY and CLIP_NORM"
)
_ADAFACTOR = "Adafactor is T5X's: factored, relative to the parameter's size, without momentum"
# T5X counts the steps of the checkpoint that a run starts from.
TOTAL_STEPS = Becomes(
  'TRAIN_STEPS',
  more={f'{STEPS}.train_steps.counts_pretraining': 'True'},
  why='with the steps of a T5X checkpoint that the run starts from',
)
_SCHEDULER = {
  'SCHEDULE': "'factors'",
  f'{CONFIG}.factors': f'@{FACTORS}()',
  f'{FACTORS}.first_step': f'@{STEPS}.first_step()',
  f'{STEPS}.first_step.initial_checkpoint_path': '%INITIAL_CHECKPOINT_PATH',
}


def optimizer(value: Any) -> Verdict:
  """OPTIMIZER: only Adafactor is T5X's own; others have their learning rate elsewhere."""
  if is_of_t5x(value, 'Adafactor'):
    return Verdict(
      TRANSLATED,
      settings={'OPTIMIZER': "'adafactor'"},
      defaults={'CLIP_NORM': 'None', 'WEIGHT_DECAY': '0.0'},
    )
  return refused(ADAMW)


def _learning_rate_fn(value: Any) -> Verdict:
  if is_of_t5x(value, 'create_learning_rate_scheduler'):
    # The other parameters have the same defaults there as `Factors` here.
    return Verdict(TRANSLATED, '', _SCHEDULER, {'LEARNING_RATE': '0.5', 'WARMUP_STEPS': '1000'})
  return refused('SCHEDULE, LEARNING_RATE and WARMUP_STEPS say how the rate changes')


RULES: Mapping[str, Rule] = {
  'Trainer.learning_rate_fn': _learning_rate_fn,
  'create_learning_rate_scheduler.base_learning_rate': Becomes('LEARNING_RATE'),
  'create_learning_rate_scheduler.warmup_steps': Becomes('WARMUP_STEPS'),
  'create_learning_rate_scheduler.factors': Becomes(f'{FACTORS}.product'),
  **{
    f'create_learning_rate_scheduler.{name}': Becomes(f'{FACTORS}.{name}')
    for name in (
      'decay_factor',
      'steps_per_decay',
      'steps_per_cycle',
      'step_offset',
      'min_learning_rate',
    )
  },
  'Adafactor.decay_rate': Becomes(f'{CONFIG}.decay_rate'),
  'Adafactor.step_offset': only((0,), "Adafactor's count of steps starts at the checkpoint's"),
  'Adafactor.logical_factor_rules': nothing('rows and columns are factored as T5X does'),
  'Adafactor.factored': only((True,), _ADAFACTOR),
  'Adafactor.multiply_by_parameter_scale': only((True,), _ADAFACTOR),
  'Adafactor.beta1': only((None,), _ADAFACTOR),
  'Adafactor.clipping_threshold': only((1.0,), _ADAFACTOR),
  'Adafactor.weight_decay_rate': only((None,), _ADAFACTOR),
  'Adafactor.min_dim_size_to_factor': only((128,), _ADAFACTOR),
  'Adafactor.epsilon1': only((1e-30,), _ADAFACTOR),
  'Adafactor.epsilon2': only((1e-3,), _ADAFACTOR),
  'Adafactor.global_norm_clip_threshold': only(
    (None, 0, 0.0),
    "CLIP_NORM is the largest norm of the gradient of a mean loss; T5X's is of a summed loss",
  ),
  'chain.transformations': refused(ADAMW),
  'clip.max_delta': refused('CLIP_NORM is the largest global norm of a gradient'),
  'clip_by_global_norm.max_norm': refused(ADAMW),
  'adamw.*': refused(ADAMW),
  'lion.*': refused('OPTIMIZER is adamw or adafactor'),
  'warmup_cosine_decay_schedule.*': refused(
    "SCHEDULE is 'constant', 'linear' or 'rsqrt', with WARMUP_STEPS; T5X's own factors have "
    'cosine_decay'
  ),
}
