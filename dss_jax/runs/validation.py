"""Validation while training: loss over the mixture, and accuracy of decoded labels, on one split.

Owns the data of validation, which is loaded once, when a validation is due, and the history that
PATIENCE is judged by. The numbers are steps.py's and evaluator.py's.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dss_jax.checkpoints import manager
from dss_jax.data import pipeline
from dss_jax.inference import decoding, evaluator
from dss_jax.models import t5
from dss_jax.parallel import distributed, partitioning
from dss_jax.runs.run_config import RunConfig, evaluation_task
from dss_jax.runs.training_log import TrainingLog
from dss_jax.tasks import plain_tasks, registration
from dss_jax.training import programs, steps


@dataclasses.dataclass(frozen=True)
class Validation:
  """A function of the parameters that gives all validation metrics.

  Attributes:
    run: the run's settings.
    mesh: where its arrays live.
    task: the task with gold labels whose inputs look as they do in training.
    mixture: what the loss is computed on.
    examples: of `task`, decoded and compared.
    decoder: how they are decoded.
  """

  run: RunConfig
  mesh: Mesh
  task: str
  mixture: Sequence[pipeline.TaskExamples]
  examples: pipeline.Examples
  decoder: evaluator.Decoder

  @classmethod
  def of(cls, run: RunConfig, mesh: Mesh) -> 'Validation | None':
    """Loads the data of validation; None where the run does not validate.

    Raises:
      ValueError: unknown split, no labels in it, or settings that decoding refuses; found here
        rather than at the first validation.
    """
    if not run.eval.period:
      return None
    name = run.data.mixture_or_task_name
    task = evaluation_task(run)
    row = None if plain_tasks.is_plain(task) else registration.row_of(task)
    length = run.output_length(row)
    decoder = evaluator.Decoder(
      config=run.model,
      decoding=decoding.Decoding(max_length=length),
      batch_size=run.eval.batch_size,
      max_input_length=run.data.task_feature_lengths['inputs'],
      mesh=mesh,
    )
    try:
      mixture = pipeline.load_mixture(name, run.eval.split, run.objective.tasks, skip_empty=True)
      examples = evaluator.load_examples(task, run.eval.split, run.eval.num_examples)
    except ValueError as error:
      raise ValueError(
        f'validation: {error}. EVAL_PERIOD = 0 trains without validation.'
      ) from error
    return cls(run, mesh, task, mixture, examples, decoder)

  def __call__(self, params: t5.Params, step: int, between: Callable[[], None]) -> dict[str, float]:
    """The metrics of `steps.metrics_of_sums` and of `evaluator.evaluate`.

    Args:
      params: of the network.
      step: updates made, at which the loss weights are taken.
      between: called after every batch; an exception from it ends the validation.
    """
    sums: Any = None
    parts = partitioning.local_parts(self.mesh)
    for batch in pipeline.epoch_batches(self.mixture, self.run.data, *parts):
      part = jax.device_get(self._step(params, partitioning.put_batch(self.mesh, batch.arrays)))
      sums = part if sums is None else jax.tree.map(np.add, sums, part)
      between()
    metrics: dict[str, Any] = dict(steps.metrics_of_sums(sums, self.run.objective, step))
    metrics |= evaluator.evaluate(
      self.task, self.examples, self.decoder, params, lambda done, total: between()
    ).metrics
    return {name: float(value) for name, value in metrics.items()}

  @property
  def _step(self):
    return programs.eval_step(self.run.model, self.run.objective)


class AccuracyHistory:
  """The accuracies of a run's validations, those of earlier processes included.

  The best step is the one of the checkpoint that is kept as best: the earliest of equals.

  Args:
    rows: of metrics.jsonl.
    last_step: rows of later steps do not count.
  """

  def __init__(self, rows: Iterable[Mapping[str, Any]] = (), last_step: int = 0):
    self._accuracies: dict[int, float] = {
      row['step']: row[manager.BEST_METRIC]
      for row in rows
      if row['kind'] == 'validation' and row['step'] <= last_step
    }

  def __contains__(self, step: int) -> bool:
    return step in self._accuracies

  def add(self, step: int, accuracy: float) -> None:
    """Adds the accuracy of a step; it is later than all before."""
    self._accuracies[step] = accuracy

  @property
  def best_step(self) -> int | None:
    """The step with the highest accuracy, the earliest of equals; None before any validation."""
    return manager.best_step(self._accuracies)

  @property
  def age_of_best(self) -> int:
    """How many validations came after the best."""
    best = self.best_step
    return 0 if best is None else sum(step > best for step in self._accuracies)


class _Interrupted(Exception):
  """A validation was given up because a stop signal came."""


class PeriodicValidation:
  """The validations of a run, each done once over all its processes.

  Args:
    run: the settings.
    validation: what is validated; None where EVAL_PERIOD is 0.
    history: of the steps before.
    log: gets the metrics.
    stop_signal: a validation is given up when it comes.
  """

  def __init__(
    self,
    run: RunConfig,
    validation: Validation | None,
    history: AccuracyHistory,
    log: TrainingLog,
    stop_signal: distributed.StopSignal,
  ):
    self._run, self._validation, self._history = run, validation, history
    self._log, self._stop_signal = log, stop_signal

  def is_due(self, step: int) -> bool:
    """Whether the parameters after this step are still to be validated."""
    period = self._run.eval.period
    if not period or step == 0 or step in self._history:
      return False
    return step % period == 0 or step == self._run.train_steps

  def is_patience_exhausted(self) -> bool:
    """Whether PATIENCE validations have come after the best."""
    patience = self._run.eval.patience
    return patience is not None and self._history.age_of_best >= patience

  def __call__(
    self, step: int, params: t5.Params, saved_in: manager.Checkpoints | None = None
  ) -> dict[str, float] | None:
    """Validates the parameters after a step, and logs the metrics.

    Args:
      step: updates made.
      params: after them.
      saved_in: where they were saved before they were validated; the metrics are added there.

    Returns:
      The metrics; None where a stop signal came: the validation of the step is then still due.
    """
    assert self._validation is not None
    self._log.flush()
    started = time.perf_counter()
    try:
      metrics = self._validation(params, step, self._stop_if_requested)
    except _Interrupted:
      return None
    if saved_in is not None:  # before the row, which marks this validation as done
      saved_in.add_metrics(step, metrics)
    self._history.add(step, metrics[manager.BEST_METRIC])
    seconds = time.perf_counter() - started
    examples = len(self._validation.examples)
    self._log.validation(step, metrics, f'{examples} examples, {seconds:.1f} s')
    return metrics

  def _stop_if_requested(self) -> None:
    if self._stop_signal.requested():
      raise _Interrupted
