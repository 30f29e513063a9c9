"""Our loss on a model that T5X's gin files made: the model stays T5X's, with all its bindings.

Owns which objective a model has, its loss and metrics by task. The batch's totals, which the loss
divides by, are put in the batch by trainer.py's step; a trainer without that step is refused.

A model is decorated, not subclassed: gin's bindings of `models.EncoderDecoderModel` do not reach a
subclass.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from clu import metrics as clu_metrics
from jaxtyping import Array
from t5x import metrics as t5x_metrics

from dss_jax import methods
from dss_jax.methods import Method
from dss_jax.methods.base import Weight
from dss_jax.settings import arguments
from dss_jax.t5x import converter
from dss_jax.tasks import registration, sources
from dss_jax.training import losses

TOTALS, STEP = 'task_loss_weights', 'step_of_run'
"""What the step adds to a batch: float32 [rows, tasks] and int32 [rows], the same in each row, so
that a microbatch's slice has them too."""

Batch = Mapping[str, Array]


class Distilling(NamedTuple):
  """What a decorated model knows besides: `model.distilling`.

  Attributes:
    objective: what is minimised.
    first_step: T5X's step at which the run starts.
  """

  objective: losses.Objective
  first_step: int


def distilling(
  model: Any,
  mixture_or_task_name: str,
  method: str | Method | None = None,
  rationale_weight: Weight | None = None,
  alpha: float | None = None,
  train_steps: int | None = None,
  train_steps_relative: int | None = None,
  first_step: int = 0,
  module: str | None = None,
) -> Any:
  """Puts our loss and our feature converter on T5X's model, and returns it; for gin.

  Z_LOSS and LABEL_SMOOTHING are the model's own.

  Args:
    model: a `models.EncoderDecoderModel`.
    mixture_or_task_name: what is trained on.
    method: METHOD; None: that of the mixture, and one token loss for what we did not register.
    rationale_weight: see `losses.LossConfig`.
    alpha: likewise.
    train_steps: the last step, as T5X counts; only needed by weights that change over training.
    train_steps_relative: None; T5X would train on where rates and weights have come to their end.
    first_step: T5X's step at which the run starts.
    module: a module of yours that registers tasks or methods.

  Raises:
    ValueError: the method looks at several rows of an example together, or a setting does not fit;
      the message says which.
  """
  if model._loss_normalizing_factor is not None:
    raise ValueError(
      'LOSS_NORMALIZING_FACTOR is None here, not '
      f'{model._loss_normalizing_factor!r}: each task is divided by its own loss weights.'
    )
  if train_steps_relative is not None:
    raise ValueError(
      f'TRAIN_STEPS_RELATIVE is None here, not {train_steps_relative!r}: the learning rate and the '
      "loss weights end with TRAIN_STEPS, which counts updates (not a checkpoint's steps); give "
      f'--gin.TRAIN_STEPS={train_steps_relative}.'
    )
  chosen = method_of(mixture_or_task_name, method, module)
  config = losses.LossConfig(rationale_weight, alpha, model._z_loss, model._label_smoothing)
  objective = losses.objective(chosen.loss, config, _steps(chosen, config, train_steps, first_step))
  model.distilling = Distilling(objective, first_step)
  model.FEATURE_CONVERTER_CLS = converter.for_tasks(objective.tasks)
  model.loss_fn = functools.partial(_loss, model)
  model.eval_fn = functools.partial(_loss, model, dropout_rng=None)
  return model


def evaluation_task(
  mixture_or_task_name: str, method: str | Method | None = None, module: str | None = None
) -> str:
  """The task with gold labels that decoding is scored on, for gin.

  Returns:
    The data set's evaluation task; what we did not register is its own.
  """
  chosen = method_of(mixture_or_task_name, method, module)
  try:
    dataset = registration.dataset_of(mixture_or_task_name)
  except ValueError:  # somebody else's
    return mixture_or_task_name
  return registration.evaluation_task(dataset.name, chosen)


def method_of(name: str, method: str | Method | None, module: str | None) -> Method:
  """The method that is trained; registers its tasks.

  Raises:
    ValueError: there is no such method, it is not that of the mixture, or it looks at several rows
      of an example together.
  """
  if module:
    arguments.import_modules([module])
  sources.add_prepared_datasets()
  given = methods.get(method) if isinstance(method, str) else method
  if given is not None:
    methods.register(given)
  registration.add_methods()
  own = registration.own_method(name)
  if given is not None and own not in (None, given):
    raise ValueError(
      f'METHOD is {given.name}, but MIXTURE_OR_TASK_NAME {name} is of {own.name}; give only one of '
      'the two.'
    )
  chosen = given or own or _made_of_rows(name)
  if chosen.is_grouped:
    kinds = ', '.join(term.task for term in chosen.loss if term.kind != 'tokens')
    raise ValueError(
      f'METHOD {chosen.name} has a loss ({kinds}) that compares the rows of an example, which T5X '
      'would split over microbatches: train it with `dss train`.'
    )
  return chosen


def _made_of_rows(name: str) -> Method:
  """The method whose rows a mixture has; for what is not ours, one loss over all its tokens."""
  try:
    return registration.method_of(name)
  except ValueError:
    return methods.get('standard')


def _steps(
  method: Method, config: losses.LossConfig, train_steps: int | None, first_step: int
) -> int:
  """How long the run is in updates, where weights change over it; else 1."""
  weights = [term.weight for term in method.loss] + [config.rationale_weight]
  if not any(isinstance(weight, tuple) for weight in weights):
    return 1
  if train_steps is None or train_steps <= first_step:
    raise ValueError(
      f'METHOD {method.name} has loss weights that change over training: set '
      f'distilling.train_steps to the last step (above first_step {first_step}), not {train_steps}.'
    )
  return train_steps - first_step


# ---------------------------------------------------------------- the loss


def with_totals(batch: Batch, distilled: Distilling, step: Any) -> dict[str, Array]:
  """The batch with each task's loss weight over all of it, and the step.

  Args:
    batch: the whole batch, over all devices.
    distilled: of the model.
    step: T5X's.
  """
  objective, rows = distilled.objective, batch['decoder_target_tokens'].shape[0]
  weights = batch['decoder_loss_weights'].astype(jnp.float32)
  totals = losses.sum_by_task(weights, batch['decoder_task_ids'], len(objective.tasks))
  updates = jnp.asarray(step, jnp.int32) - distilled.first_step
  return {
    **batch,
    TOTALS: jnp.broadcast_to(totals, (rows, len(totals))),
    STEP: jnp.broadcast_to(updates, (rows,)),
  }


def _loss(model: Any, params: Any, batch: Batch, dropout_rng: Any) -> tuple[Array, dict[str, Any]]:
  """Takes the place of the model's `loss_fn`, and of its `eval_fn`, which has no dropout.

  The sum over microbatches of what it returns is the loss of the whole batch, as T5X's trainer adds
  their gradients up.

  Source: Hsieh et al. 2023, Eq. 3; see `losses.combine`.
  """
  if TOTALS not in batch:
    raise ValueError(
      "the batch has no loss weights of the tasks, without which a microbatch's loss would be of "
      'another size: set `train_script.train.trainer_cls = @trainer.distilling` '
      '(dss_jax.t5x.trainer), as gin/t5x/train.gin does.'
    )
  objective = model.distilling.objective
  logits = model._compute_logits(params, batch, dropout_rng)
  targets, ids = batch['decoder_target_tokens'], batch['decoder_task_ids']
  weights = batch['decoder_loss_weights'].astype(jnp.float32)
  token_losses = losses.token_losses(logits, targets, objective.z_loss, objective.label_smoothing)
  sums = {
    name: losses.sum_by_task(values * weights, ids, len(objective.tasks))
    for name, values in {
      'loss': token_losses,
      'accuracy': losses.correct(logits, targets),
      'loss_weight': jnp.ones_like(weights),
    }.items()
  }
  loss = losses.combine(sums['loss'], batch[TOTALS][0], objective, batch[STEP][0])
  return loss, _metrics(model, logits, batch, weights, loss, sums)


def _metrics(
  model: Any, logits: Array, batch: Batch, weights: Array, loss: Array, sums: Mapping[str, Array]
) -> dict[str, Any]:
  """T5X's own metrics, and for each task <task>/{loss, accuracy, loss_weight}."""
  ends = '_segment_ids'
  segments = {name.removesuffix(ends): ids for name, ids in batch.items() if name.endswith(ends)}
  if not segments:
    segments = {
      name: batch[name] != 0 for name in ('encoder_input_tokens', 'decoder_target_tokens')
    }
  found = model._compute_metrics(
    logits=logits,
    targets=batch['decoder_target_tokens'],
    mask=weights > 0,
    loss=loss,
    segment_ids=segments,
  )
  found = {name: metric for name, metric in found.items() if not name.startswith('loss_per_')}
  for number, task in enumerate(model.distilling.objective.tasks):
    count = sums['loss_weight'][number]
    for name in ('loss', 'accuracy'):
      found[f'{task}/{name}'] = clu_metrics.Average(total=sums[name][number], count=count)
    found[f'{task}/loss_weight'] = t5x_metrics.AveragePerStep(total=count)
  return found
