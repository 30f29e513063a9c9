"""`dss train`: trains a student, validates it, and keeps its checkpoints.

Owns the order of a run, from the command line to the last checkpoint. The update is steps.py's,
batches are data.py's, files are checkpoints/manager.py's and metric_writer.py's.
"""

import collections
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from dss_jax.checkpoints import manager
from dss_jax.data import pipeline
from dss_jax.models import t5
from dss_jax.parallel import distributed, partitioning
from dss_jax.runs import metric_writer, pretrained
from dss_jax.runs.run_config import RunConfig, keep_vocabulary, save_run_config, set_up_tasks
from dss_jax.runs.validation import Validation
from dss_jax.settings import config
from dss_jax.training import losses, optimizers, steps, train_state

BEST_METRIC = 'accuracy'


class _Interrupted(Exception):
  """A validation was given up because the run is told to stop."""


class NonFiniteLossError(ArithmeticError):
  """The loss, its gradient or a parameter is not a finite number any more."""


class Result(NamedTuple):
  """How a run ended.

  Attributes:
    step: updates made.
    finished: false where a signal ended the run early.
    best_step: the step that was best on validation, or None.
    sequences: real sequences (label and rationale rows) that were timed, earlier lives of the run
      included.
    seconds: they took; compilation, validation and saving left out.
  """

  step: int
  finished: bool
  best_step: int | None
  sequences: int
  seconds: float


def main(argv: Sequence[str]) -> int:
  """Runs `dss train`; returns the exit code."""
  config.parse(argv, 'runs/train.gin')
  result = train(config.configured('run_config.RunConfig'))
  word = 'finished' if result.finished else 'stopped; the same command continues it'
  if distributed.is_main():
    print(f'step {result.step}: {word}. best checkpoint on validation: {result.best_step}')
  return 0


def train(run: RunConfig) -> Result:
  """Trains until `train_steps`, an early stop or a signal, continuing what the folder holds."""
  # Set-up: tasks and vocabulary, run folder, data, mesh.
  run = set_up_tasks(run)
  mesh = partitioning.make_mesh(run.mesh)
  partitioning.check_batch(
    mesh, run.data.batch_size // run.num_microbatches, 'BATCH_SIZE / NUM_MICROBATCHES'
  )
  mixture = pipeline.load_mixture(run.data.mixture_or_task_name, run.data.split)
  validation = Validation.of(run, mesh)
  started = manager.has_checkpoint(run.model_dir)
  fingerprint = pipeline.fingerprint(mixture)
  distributed.check_same(
    settings=config.to_dict(dataclasses.replace(run, data_dir=None)),
    data=(fingerprint, validation and pipeline.fingerprint(validation.mixture)),
    MODEL_DIR=started,
  )
  save_run_config(run, started)
  keep_vocabulary(run.model_dir, started)
  if distributed.is_main():
    config.write_text(epath.Path(run.model_dir) / 'config.gin', config.operative())
  for split, tasks in (('', mixture), (f' of {run.eval.split}', validation and validation.mixture)):
    for truncation in pipeline.truncations(tasks or [], run.data.task_feature_lengths):
      distributed.say(f'warning{split}: {truncation}')

  # State: the folder's latest checkpoint, else INITIAL_CHECKPOINT_PATH, else random.
  optimizer = optimizers.make_optimizer(run.optimizer, t5.logical_axes(run.model))
  checkpoints = manager.Checkpoints(run.model_dir, run.checkpoints_to_keep, BEST_METRIC)
  batches = pipeline.TrainBatches(mixture, run.data, *partitioning.local_parts(mesh))
  state, data_state = initial_state(run, optimizer, mesh, checkpoints)
  data_state = data_state or {**batches.state, 'fingerprint': fingerprint}
  if data_state['fingerprint'] != fingerprint:
    raise ValueError(
      f'the data of {run.data.mixture_or_task_name} is not what {run.model_dir} was trained '
      'on until now: prepare it as it was (raw files, filter), or choose another MODEL_DIR.'
    )
  batches.restore(data_state)

  # Training.
  loop = _Loop(run, mesh, optimizer, checkpoints, validation, int(state.step), data_state)
  try:
    with jax.set_mesh(mesh):
      return loop.run_until_done(state, batches)
  finally:
    loop.close()


def initial_state(
  run: RunConfig, optimizer, mesh: Mesh, checkpoints: manager.Checkpoints
) -> tuple[train_state.TrainState, dict[str, Any] | None]:
  """Where training starts, and the data's state there (None: from the beginning).

  1. The latest checkpoint of the run folder: an interrupted run continues.
  2. The parameters of INITIAL_CHECKPOINT_PATH.
  3. Random parameters from the seed.
  """
  like = train_state.abstract(run.model, optimizer, mesh)
  step = checkpoints.latest()
  if step is not None:
    distributed.say(f'continuing {run.model_dir} from step {step}')
    return checkpoints.restore(step, like)
  if run.initial_checkpoint_path is None:
    return train_state.create(run.model, optimizer, mesh, run.seed), None
  return pretrained.start(run.initial_checkpoint_path, run.model, optimizer, like), None


class _Loop:
  """The steps of one process, and what is written between them."""

  def __init__(self, run, mesh, optimizer, checkpoints, validation, start: int, past: Mapping):
    self.run, self.mesh, self.checkpoints, self.validation = run, mesh, checkpoints, validation
    self.step = steps.make_train_step(
      run.model, run.loss, optimizer, run.seed, run.num_microbatches
    )
    self.schedule = optimizers.make_schedule(run.optimizer)
    self.writer = metric_writer.MetricWriter(run.model_dir, start)
    self.progress = metric_writer.Progress(run.train_steps, start)
    self.stop = distributed.StopSignal()
    # Metrics are looked at one step late, so that the device is never waited for.
    self.unseen: collections.deque = collections.deque()
    self.rate = _Rate()
    self.sequences, self.seconds = past.get('sequences', 0), past.get('seconds', 0.0)
    rows = metric_writer.read_metrics(run.model_dir)
    self.accuracies = {
      row['step']: row[BEST_METRIC]
      for row in rows
      if row['kind'] == 'validation' and row['step'] <= start
    }
    self.fingerprint = past['fingerprint']

  def run_until_done(self, state: train_state.TrainState, batches: pipeline.TrainBatches) -> Result:
    """Steps until the run is done, stopped early, or told to stop."""
    done = int(state.step)
    # An earlier life may have been told to stop during this step's validation.
    stop = self._due('eval', done) and self._validate(done, state, saved=True) is None
    finished, data_state = self._finished(done), batches.state
    update, begun = train_state.jit_update(self.step, state), done

    def put(batch: pipeline.Batch):
      return batch, partitioning.put_batch(self.mesh, batch.arrays)

    with pipeline.Prefetch(batches, put) as prefetched:
      while not (finished or stop):
        batch, arrays = next(prefetched)
        state, metrics = update(state, arrays)
        done, data_state = done + 1, batch.state
        self.unseen.append((done, metrics, batch))
        self._look(leave=int(done > begun + 1))  # the first, which compiled, is shown at once
        validated = self._validate(done, state) if self._due('eval', done) else None
        finished = self._finished(done)
        stop = self.stop.asked()  # once: it may be set between two looks
        if finished or stop or validated or self._due('save', done):
          self._look(leave=0)
          self.checkpoints.save(state, {**data_state, **self._totals()}, validated)
          self.rate.restart()
        self.progress.advance(done)
    self._look(leave=0)
    self.checkpoints.wait()
    return Result(done, finished, self.checkpoints.best(), self.sequences, self.seconds)

  def _totals(self) -> dict[str, Any]:
    return {
      'sequences': self.sequences,
      'seconds': self.seconds,
      'fingerprint': self.fingerprint,
    }

  def close(self) -> None:
    """Flushes and frees all, also after an error."""
    self.stop.restore()
    self.progress.close()
    self.writer.close()
    self.checkpoints.close()

  def _due(self, what: str, step: int) -> bool:
    if what == 'eval':
      period = self.run.eval.period
      here = period and (step % period == 0 or step == self.run.train_steps)
      return bool(here) and step > 0 and step not in self.accuracies
    return step % self.run.save_period == 0

  def _look(self, leave: int) -> None:
    """Checks and logs the metrics of all steps but the last `leave`."""
    while len(self.unseen) > leave:
      step, metrics, batch = self.unseen.popleft()
      metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
      if not all(math.isfinite(metrics[name]) for name in ('loss', 'grad_norm', 'param_norm')):
        raise _not_finite(self.run.model_dir, step, metrics, batch, self.checkpoints)
      seconds = self.rate.add(batch)
      self.sequences += batch.sequences if seconds else 0
      self.seconds += seconds
      if step % self.run.log_period == 0 or step == 1:
        self._log(step, metrics, batch)

  def _log(self, step: int, metrics: Mapping[str, float], batch: pipeline.Batch) -> None:
    rate = self.rate.take()
    places = self.run.data.batch_size * sum(self.run.data.task_feature_lengths.values())
    padding = 1.0 - batch.tokens / places
    learning_rate = float(self.schedule(step - 1))
    self.writer.write(
      step, 'train', {**metrics, 'learning_rate': learning_rate, 'padding': padding, **rate}
    )
    parts = [f'loss {metrics["loss"]:.4f}']
    for task in losses.TASKS:
      if metrics[f'{task}/rows']:
        parts.append(f'{task} {metrics[f"{task}/loss"]:.4f}')
    if rate:
      parts.append(f'{rate["examples_per_second"]:.0f} ex/s')
      parts.append(f'{rate["tokens_per_second"]:.0f} tok/s')
    parts.append(f'pad {padding:.0%}')
    self.progress.line(step, '  '.join(parts))

  def _validate(
    self, step: int, state: train_state.TrainState, saved: bool = False
  ) -> dict[str, float] | None:
    """The metrics; None where a signal came: then the step's validation is still due.

    Args:
      step: updates made.
      state: then.
      saved: there is a checkpoint of this step, which lacks the metrics.
    """
    assert self.validation is not None
    self._look(leave=0)
    began = time.perf_counter()
    try:
      metrics = self.validation(state.params, self._give_up_if_asked)
    except _Interrupted:
      return None
    if saved:
      self.checkpoints.add_metrics(step, metrics)
    self.accuracies[step] = metrics[BEST_METRIC]
    self.writer.write(step, 'validation', metrics)
    seconds = time.perf_counter() - began
    self.progress.say(
      f'validation at step {step}: loss {metrics["loss"]:.4f}  '
      f'accuracy {metrics["accuracy"]:.4f}  ({len(self.validation.examples)} examples, '
      f'{seconds:.1f} s)'
    )
    return metrics

  def _give_up_if_asked(self) -> None:
    if self.stop.asked():
      raise _Interrupted

  def _finished(self, step: int) -> bool:
    """Whether all steps are done and validated, or the best accuracy is `patience` validations old.

    Earlier lives of the run count.
    """
    if self._due('eval', step):
      return False
    history = list(self.accuracies.values())
    stale = len(history) - 1 - history.index(max(history)) if history else 0
    patience = self.run.eval.patience
    return step >= self.run.train_steps or (patience is not None and stale >= patience)


class _Rate:
  """Examples, tokens and seconds since the last line; the time of saving and validation left out.

  The first step after a start is not counted: it compiles.
  """

  def __init__(self):
    self.since: float | None = None
    self.sequences = self.tokens = 0
    self.seconds = 0.0

  def restart(self) -> None:
    """The next step starts a new interval: other work has come between."""
    self.since = None

  def add(self, batch: pipeline.Batch) -> float:
    """Counts a batch that was seen to be done; returns the seconds that it took."""
    now = time.perf_counter()
    taken = 0.0 if self.since is None else now - self.since
    if self.since is not None:
      self.sequences += batch.sequences
      self.tokens += batch.tokens
      self.seconds += taken
    self.since = now
    return taken

  def take(self) -> dict[str, float]:
    """Rates since the last call, empty where nothing was counted."""
    if not self.seconds:
      return {}
    rates = {
      'examples_per_second': self.sequences / self.seconds,
      'tokens_per_second': self.tokens / self.seconds,
    }
    self.sequences = self.tokens = 0
    self.seconds = 0.0
    return rates


def _not_finite(model_dir, step, metrics, batch, checkpoints: manager.Checkpoints):
  checkpoints.wait()
  ids = sorted(set(batch.example_ids[batch.example_ids >= 0].tolist()))
  return NonFiniteLossError(
    f'the loss is not finite at step {step} (loss {metrics["loss"]}, gradient norm '
    f'{metrics["grad_norm"]}, parameter norm after the update {metrics["param_norm"]}); the batch '
    f'holds the examples {ids}. The last good checkpoint is step {checkpoints.latest()}. If those '
    'examples are as they should be, start a new MODEL_DIR from it with a smaller LEARNING_RATE, a '
    f'CLIP_NORM or DTYPE = "float32", and INITIAL_CHECKPOINT_PATH={model_dir}, which takes '
    'its best checkpoint.'
  )
