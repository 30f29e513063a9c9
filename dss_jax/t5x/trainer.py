"""Our step on a trainer that T5X's gin files made: the trainer stays T5X's, with all its bindings.

Owns what is added to a batch before T5X slices it into microbatches, and which metrics are written.
"""

from collections.abc import Mapping
from typing import Any

import jax
from t5x import trainer as t5x_trainer

from dss_jax.t5x import batches
from dss_jax.t5x import model as distilled


def distilling(trainer_cls: Any, **given: Any) -> Any:
  """Makes T5X's trainer and puts our step on it; for gin, as T5X's `train.trainer_cls`.

  Args:
    trainer_cls: T5X's Trainer, or a subclass with the same step; gin binds its settings.
    **given: what T5X gives a trainer: model, train_state, partitioner, ...

  Raises:
    ValueError: the model has not our loss, or the trainer has a step of its own.
  """
  if getattr(given['model'], 'distilling', None) is None:
    raise ValueError(
      'the model has not our loss: set `train_script.train.model = @model.distilling()` '
      '(dss_jax.t5x.model), as gin/t5x/train.gin does.'
    )
  trainer = trainer_cls(**given)
  for kind, made in {'train': _partitioned_step, 'eval': _partitioned_eval_step}.items():
    step = f'_partitioned_{kind}_step'
    if getattr(type(trainer), step, None) is not getattr(t5x_trainer.Trainer, step):
      raise ValueError(
        f'trainer_cls {type(trainer).__name__} has {kind} steps of its own, which ours would '
        'replace; expected t5x.trainer.Trainer.'
      )
    setattr(trainer, step, made(trainer))  # where T5X keeps the one that it makes
  for manager in (trainer.train_metrics_manager, *trainer.eval_metrics_managers.values()):
    manager.write_metrics_summary = _without_absent_tasks(manager.write_metrics_summary)
  trainer.train = _announced(trainer.train)
  return trainer


def _partitioned_step(trainer: Any) -> Any:
  """T5X's train step on batches with their totals."""

  def step(train_state: Any, batch: Mapping[str, Any]) -> tuple[Any, Any]:
    model = trainer._model
    return t5x_trainer.train_with_lr(
      train_state,
      distilled.with_totals(batch, model.distilling, train_state.step),
      learning_rate=trainer._learning_rate_fn(train_state.step),
      dropout_rng=trainer._get_step_rng(train_state.step),
      model=model,
      num_microbatches=trainer._num_microbatches,
      weight_metrics_computer=trainer._weight_metrics_computer,
      data_partition_spec=trainer._partitioner.data_partition_spec,
    )

  axes, data = trainer._train_state_axes, trainer._partitioner.data_partition_spec
  return trainer._partitioner.partition(
    step, in_axis_resources=(axes, data), out_axis_resources=(axes, None), donate_argnums=(0,)
  )


def _partitioned_eval_step(trainer: Any) -> Any:
  """T5X's step of validation on batches with their totals: weights are those of this moment."""

  def step(train_state: Any, batch: Mapping[str, Any]) -> Any:
    model = trainer._model
    whole = distilled.with_totals(batch, model.distilling, train_state.step)
    return t5x_trainer.eval_step(model, train_state, whole)

  axes, data = trainer._train_state_axes, trainer._partitioner.data_partition_spec
  return trainer._partitioner.partition(
    step, in_axis_resources=(axes, data), out_axis_resources=None
  )


def _without_absent_tasks(write: Any) -> Any:
  """`write_metrics_summary` without the metrics of tasks that had no token.

  A validation task has often one of the method's tasks only, and a mean over nothing is no number.
  """

  def written(metrics: Mapping[str, Any], step: Any, num_steps: int) -> Any:
    ends = '/loss_weight'
    totals = jax.device_get(
      {name: metric.total for name, metric in metrics.items() if name.endswith(ends)}
    )
    absent = tuple(f'{name.removesuffix(ends)}/' for name, total in totals.items() if not total)
    kept = {name: m for name, m in metrics.items() if not absent or not name.startswith(absent)}
    return write(kept, step, num_steps)

  return written


def _announced(train: Any) -> Any:
  """`train`, before which our batches hear that the next checkpoint comes after a step."""

  def announced(*args: Any, **kwargs: Any) -> Any:
    batches.training_begins()
    return train(*args, **kwargs)

  return announced
