"""Training: the loop over steps, from the first state to the last checkpoint.

Owns the order of a run: state, batch, update, log, validate, save, stop. What comes before the
first step is training_setup.py's, the update steps.py's, what is logged training_log.py's, and when
to validate validation.py's.
"""

import contextlib
import enum
from typing import NamedTuple

import jax
import numpy as np

from dss_jax.data import pipeline
from dss_jax.parallel import distributed, partitioning
from dss_jax.runs import training_setup
from dss_jax.runs.run_config import RunConfig
from dss_jax.runs.training_log import TrainingLog
from dss_jax.runs.validation import AccuracyHistory, PeriodicValidation
from dss_jax.training import programs


class Ending(enum.Enum):
  """Why a run ended."""

  FINISHED = 'all steps are done'
  PATIENCE = 'no validation improved for PATIENCE validations'
  SIGNAL = 'SIGTERM, a closed terminal or Ctrl-C'


class Result(NamedTuple):
  """How a run ended.

  Attributes:
    step: updates made.
    train_steps: updates that were asked for.
    ending: why it ended.
    best_step: the step that was best on validation, or None.
    sequences: real sequences (label and rationale rows) that were timed, earlier processes of the
      run included.
    seconds: how long they took, without compilation, validation and saving.
    is_stop_requested: whether a signal came, even if it was too late to end the run early.
  """

  step: int
  train_steps: int
  ending: Ending
  best_step: int | None
  sequences: int
  seconds: float
  is_stop_requested: bool = False

  @property
  def finished(self) -> bool:
    """False where a signal ended the run early."""
    return self.ending is not Ending.SIGNAL

  def __str__(self) -> str:
    how = {
      Ending.FINISHED: f'step {self.step}: finished',
      Ending.PATIENCE: f'stopped by PATIENCE at step {self.step} of {self.train_steps}',
      Ending.SIGNAL: f'step {self.step}: stopped; the same command continues it',
    }
    return f'{how[self.ending]}. best checkpoint on validation: {self.best_step}'


def train(run: RunConfig) -> Result:
  """Trains until TRAIN_STEPS, PATIENCE or a signal ends it; continues what the run folder holds.

  Raises:
    ValueError: settings, data or checkpoint do not fit together; the message says which.
    NonFiniteLossError: training diverged.
  """
  with contextlib.ExitStack() as last, contextlib.ExitStack() as stack:
    setup = training_setup.set_up(run, last)
    run = setup.run

    # State: the latest checkpoint, else INITIAL_CHECKPOINT_PATH, else random parameters.
    checkpoints = stack.enter_context(setup.folder.open_checkpoints(run.checkpoints_to_keep))
    optimizer, update = programs.update(
      run.model, run.objective, run.optimizer, run.num_microbatches, setup.mesh
    )
    state, saved = training_setup.initial_state(setup, optimizer, checkpoints)
    step = int(state.step)

    # Log, validation and signals.
    log = TrainingLog(run, checkpoints, step, saved)
    stack.callback(log.close)
    stop_signal = distributed.StopSignal()
    last.callback(stop_signal.restore)
    history = AccuracyHistory(setup.folder.metric_rows(), step)
    validate = PeriodicValidation(run, setup.validation, history, log, stop_signal)

    stack.enter_context(jax.set_mesh(setup.mesh))
    # A signal may have ended the last process during the validation of this step.
    missed = validate.is_due(step)
    interrupted = missed and validate(step, state.params, saved_in=checkpoints) is None
    ending = _ending(run, step, validate, interrupted)

    prefetched = stack.enter_context(_prefetch(setup))
    while ending is None:
      # Batch and update.
      batch, arrays = next(prefetched)
      state, metrics = update(state, arrays, np.uint32(run.seed))
      step += 1

      # Log.
      log.add(step, metrics, batch)

      # Validate.
      validated = validate(step, state.params) if validate.is_due(step) else None

      # Stop and save.
      ending = _ending(run, step, validate, stop_signal.requested())
      if ending or validated or step % run.save_period == 0:
        log.flush()
        notes = {**batch.state, **log.totals, 'fingerprint': setup.fingerprint}
        checkpoints.save(state, notes, validated)
        log.pause_stopwatch()
      log.advance(step)
    checkpoints.wait()
    best, stops = checkpoints.best(), stop_signal.requested()
    return Result(step, run.train_steps, ending, best, **log.totals, is_stop_requested=stops)


def _ending(
  run: RunConfig, step: int, validate: PeriodicValidation, is_stop_requested: bool
) -> Ending | None:
  """How the run ends after this step; None where it goes on. A due validation comes first."""
  if not validate.is_due(step):
    if step >= run.train_steps:
      return Ending.FINISHED
    if validate.is_patience_exhausted():
      return Ending.PATIENCE
  return Ending.SIGNAL if is_stop_requested else None


def _prefetch(setup: training_setup.TrainingSetup) -> pipeline.Prefetch:
  """Training batches with their arrays on the devices, made ahead in another thread."""

  def put(batch: pipeline.Batch):
    return batch, partitioning.put_batch(setup.mesh, batch.arrays)

  return pipeline.Prefetch(setup.batches, put)
