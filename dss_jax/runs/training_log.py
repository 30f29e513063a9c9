"""What a run reports of its training steps: rows, lines, rates, and an error if the loss diverges.

Owns when the metrics of a step are fetched from the device, which of them are logged, and the clock
of training. Files and screen are metric_writer.py's.
"""

import collections
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from dss_jax.checkpoints import manager
from dss_jax.data import pipeline
from dss_jax.runs import metric_writer
from dss_jax.runs.run_config import RunConfig
from dss_jax.runs.run_folder import RunFolder
from dss_jax.training import optimizers


class NonFiniteLossError(ArithmeticError):
  """The loss, its gradient or a parameter is not a finite number any more."""


class StepMetrics(NamedTuple):
  """The metrics of one step, on the host, and the batch it learned from."""

  step: int
  metrics: dict[str, float]
  batch: pipeline.Batch


class PendingMetrics:
  """Metrics that the device may still be computing, in the order of their steps."""

  def __init__(self) -> None:
    self._steps: collections.deque[tuple[int, Any, pipeline.Batch]] = collections.deque()

  def add(self, step: int, metrics: Mapping[str, jax.Array], batch: pipeline.Batch) -> None:
    """Adds the metrics of a step; does not wait for them."""
    self._steps.append((step, metrics, batch))

  def take_metrics(self, keep: int = 0) -> Iterator[StepMetrics]:
    """Waits for the metrics of all steps but the last `keep`, and removes them."""
    while len(self._steps) > keep:
      step, metrics, batch = self._steps.popleft()
      on_host = {name: float(value) for name, value in jax.device_get(metrics).items()}
      yield StepMetrics(step, on_host, batch)


class Stopwatch:
  """How long training steps take; compilation, saving and validation are left out.

  Attributes:
    sequences: real sequences that were timed, in this process and those before it.
    seconds: how long they took.
  """

  def __init__(self, sequences: int = 0, seconds: float = 0.0):
    self.sequences, self.seconds = sequences, seconds
    self._last: float | None = None  # None: the next step is not timed
    self._lap_sequences = self._lap_tokens = 0
    self._lap_seconds = 0.0

  def pause(self) -> None:
    """Leaves out the time until the end of the next step."""
    self._last = None

  def add(self, batch: pipeline.Batch) -> None:
    """Counts a step that has just ended. The first after a start or a pause only sets the clock."""
    now = time.perf_counter()
    if self._last is not None:
      taken = now - self._last
      self.sequences += batch.sequences
      self.seconds += taken
      self._lap_sequences += batch.sequences
      self._lap_tokens += batch.tokens
      self._lap_seconds += taken
    self._last = now

  def take_rates(self) -> dict[str, float]:
    """Rates since the last call; empty where no step was timed."""
    if not self._lap_seconds:
      return {}
    rates = {
      'examples_per_second': self._lap_sequences / self._lap_seconds,
      'tokens_per_second': self._lap_tokens / self._lap_seconds,
    }
    self._lap_sequences = self._lap_tokens = 0
    self._lap_seconds = 0.0
    return rates


class TrainingLog:
  """The log of a run in this process.

  Metrics are fetched one step late, so that the host does not wait for the device. Those of the
  first step, which compiles, are fetched at once.

  Args:
    run: the settings.
    checkpoints: for the error that names the last good one.
    step: the step that training continues from.
    totals: `totals` of the process before this one, or empty.
  """

  def __init__(
    self, run: RunConfig, checkpoints: manager.Checkpoints, step: int, totals: Mapping[str, Any]
  ):
    self._run, self._checkpoints, self._first_step = run, checkpoints, step + 1
    self._writer = metric_writer.MetricWriter(RunFolder(run.model_dir), step)
    self._progress = metric_writer.Progress(run.train_steps, step)
    self._schedule = optimizers.make_schedule(run.optimizer)
    self._pending = PendingMetrics()
    self._stopwatch = Stopwatch(totals.get('sequences', 0), totals.get('seconds', 0.0))

  def add(self, step: int, metrics: Mapping[str, jax.Array], batch: pipeline.Batch) -> None:
    """Adds a step that was started; logs the step before it.

    Raises:
      NonFiniteLossError: that step's loss or parameters are not finite.
    """
    self._pending.add(step, metrics, batch)
    self._log_pending(keep=0 if step == self._first_step else 1)

  def flush(self) -> None:
    """Waits for all steps that were added and logs them.

    Raises:
      NonFiniteLossError: the loss or the parameters of one are not finite.
    """
    self._log_pending(keep=0)

  def validation(self, step: int, metrics: Mapping[str, float], description: str) -> None:
    """Logs the metrics of a validation."""
    self._writer.write(step, 'validation', metrics)
    self._progress.log(
      f'validation at step {step}: loss {metrics["loss"]:.4f}  '
      f'accuracy {metrics["accuracy"]:.4f}  ({description})'
    )

  def pause_stopwatch(self) -> None:
    """Leaves the time until the end of the next step out of all rates."""
    self._stopwatch.pause()

  def advance(self, step: int) -> None:
    """Moves the progress bar."""
    self._progress.advance(step)

  @property
  def totals(self) -> dict[str, Any]:
    """Sequences and seconds of all timed steps, kept in checkpoints for the next process."""
    return {'sequences': self._stopwatch.sequences, 'seconds': self._stopwatch.seconds}

  def close(self) -> None:
    """Flushes the files and removes the bar."""
    self._progress.close()
    self._writer.close()

  def _log_pending(self, keep: int) -> None:
    for step, metrics, batch in self._pending.take_metrics(keep):
      if not all(math.isfinite(metrics[name]) for name in ('loss', 'grad_norm', 'param_norm')):
        raise self._not_finite(step, metrics, batch)
      self._stopwatch.add(batch)
      if step % self._run.log_period == 0 or step == 1:
        self._write(step, metrics, batch)

  def _write(self, step: int, metrics: Mapping[str, float], batch: pipeline.Batch) -> None:
    rates = self._stopwatch.take_rates()
    capacity = self._run.data.batch_size * sum(self._run.data.task_feature_lengths.values())
    padding = 1.0 - batch.tokens / capacity
    learning_rate = float(self._schedule(step - 1))
    self._writer.write(
      step, 'train', {**metrics, 'learning_rate': learning_rate, 'padding': padding, **rates}
    )
    parts = [f'loss {metrics["loss"]:.4f}']
    for task in self._run.objective.tasks:
      if metrics.get(f'{task}/rows'):
        parts.append(f'{task} {metrics[f"{task}/loss"]:.4f}')
    if rates:
      parts.append(f'{rates["examples_per_second"]:.0f} ex/s')
      parts.append(f'{rates["tokens_per_second"]:.0f} tok/s')
    parts.append(f'pad {padding:.0%}')
    self._progress.line(step, '  '.join(parts))

  def _not_finite(
    self, step: int, metrics: Mapping[str, float], batch: pipeline.Batch
  ) -> NonFiniteLossError:
    self._checkpoints.wait()
    values = (
      f'loss {metrics["loss"]}, gradient norm {metrics["grad_norm"]}, parameter norm after the '
      f'update {metrics["param_norm"]}'
    )
    return NonFiniteLossError(
      f'the loss is not finite at step {step} ({values}); {self._advice(step, metrics, batch)}'
    )

  def _advice(self, step: int, metrics: Mapping[str, float], batch: pipeline.Batch) -> str:
    """What may be wrong where a step is not finite, and what to do."""
    given, last = self._run.initial_checkpoint_path, self._checkpoints.latest()
    is_before_update = not all(math.isfinite(metrics[name]) for name in ('loss', 'grad_norm'))
    dtype = self._run.model.dtype
    calmer = 'a smaller LEARNING_RATE or a smaller CLIP_NORM'
    ways = 'start from other weights'
    if dtype != 'float32':
      calmer = 'a smaller LEARNING_RATE, a smaller CLIP_NORM or DTYPE = "float32"'
      ways = f'give DTYPE = "float32" if they overflow in {dtype}, or {ways}'
    if step == 1 and given is not None and is_before_update:
      return (
        f'the weights of INITIAL_CHECKPOINT_PATH={given} have not been trained here yet, so they '
        f'are to be looked at, not the data: {ways}.'
      )
    ids = sorted(set(batch.example_ids[batch.example_ids >= 0].tolist()))
    known = f'the batch holds the examples {ids}.'
    if last is None:
      return (
        f'{known} There is no checkpoint yet. If nothing is wrong with those examples, start again '
        f'in a new MODEL_DIR with {calmer}.'
      )
    return (
      f'{known} The last good checkpoint is step {last}. If nothing is wrong with those examples, '
      f'start a new MODEL_DIR from it with {calmer}, and '
      f'INITIAL_CHECKPOINT_PATH={self._run.model_dir}, which takes its best checkpoint.'
    )
