"""When a run is validated, what its history says of PATIENCE, and a signal in the middle of one."""

import dataclasses
from collections.abc import Mapping

import pytest

from dss_jax.data import pipeline
from dss_jax.models import t5
from dss_jax.runs.run_config import EvalConfig, RunConfig
from dss_jax.runs.validation import AccuracyHistory, PeriodicValidation
from dss_jax.training.optimizers import OptimizerConfig


def _history(accuracies: Mapping[int, float], last_step: int = 100) -> AccuracyHistory:
  return AccuracyHistory(
    [{'step': s, 'kind': 'validation', 'accuracy': a} for s, a in accuracies.items()], last_step
  )


@pytest.mark.parametrize(
  'accuracies, best, age',
  [
    ({}, None, 0),
    ({2: 0.5}, 2, 0),
    ({2: 0.5, 4: 0.6}, 4, 0),
    ({2: 0.5, 4: 0.4, 6: 0.3}, 2, 2),
    ({2: 0.1, 4: 0.5, 6: 0.3, 8: 0.5}, 4, 2),
    ({2: 0.0, 4: 0.0}, 2, 1),
  ],
)
def test_the_first_of_equals_is_the_best_and_ages(accuracies, best, age):
  history = _history(accuracies)
  assert (history.best_step, history.age_of_best) == (best, age)


def test_rows_of_training_and_of_later_steps_do_not_count():
  rows = [{'step': 2, 'kind': 'validation', 'accuracy': 0.1}, {'step': 4, 'kind': 'train'},
          {'step': 6, 'kind': 'validation', 'accuracy': 0.9}]  # fmt: skip
  history = AccuracyHistory(rows, last_step=4)
  assert 2 in history and 6 not in history and history.best_step == 2


class _Log:
  """Keeps what it is given."""

  def __init__(self):
    self.rows = []

  def flush(self):
    pass

  def validation(self, step, metrics, description):
    self.rows.append((step, metrics))


class _StopSignal:
  is_set = False

  def requested(self):
    return self.is_set


class _Validation:
  """Asks between two batches whether to go on."""

  examples = 'abc'

  def __call__(self, params, step, between):
    between()
    return {'accuracy': 0.25, 'loss': 1.0}


@pytest.fixture
def run():
  return RunConfig(
    model_dir='unused',
    model=t5.T5Config(64, 16, 2, 8, 32, 1, 1),
    data=pipeline.DataConfig(
      'embedded_arithmetic_dss', {'inputs': 64, 'targets': 32}, batch_size=8
    ),
    vocabulary='bytes',
    train_steps=10,
    optimizer=OptimizerConfig(schedule='constant'),
    eval=EvalConfig(period=4, patience=2),
  )


def _periodic(run, accuracies=()):
  parts = _history(dict(accuracies)), _Log(), _StopSignal()
  return PeriodicValidation(run, _Validation(), *parts), *parts


def test_a_validation_is_due_each_period_and_after_the_last_step_once(run):
  periodic, *_ = _periodic(run, {4: 0.5})
  assert [step for step in range(12) if periodic.is_due(step)] == [8, 10]
  never, *_ = _periodic(dataclasses.replace(run, eval=EvalConfig(period=0)))
  assert not any(never.is_due(step) for step in range(12))


def test_a_validation_is_logged_and_counts(run):
  periodic, history, log, _ = _periodic(run, {4: 0.5})
  metrics = periodic(8, {})
  assert log.rows == [(8, metrics)] and metrics['accuracy'] == 0.25
  assert not periodic.is_due(8) and history.age_of_best == 1
  assert not periodic.is_patience_exhausted()
  periodic(10, {})
  assert periodic.is_patience_exhausted()


def test_a_signal_leaves_the_validation_due(run):
  periodic, _, log, stop_signal = _periodic(run)
  stop_signal.is_set = True
  assert periodic(4, {}) is None
  assert log.rows == [] and periodic.is_due(4)


def test_metrics_of_a_saved_step_are_added_before_the_row_that_says_it_is_done(run):
  """A process that is killed in between validates again."""
  periodic, _, log, _ = _periodic(run)

  class Checkpoints:
    def add_metrics(self, step, metrics):
      assert log.rows == [] and periodic.is_due(step)
      self.added = step, metrics

  checkpoints = Checkpoints()
  metrics = periodic(4, {}, saved_in=checkpoints)
  assert checkpoints.added == (4, metrics) and log.rows == [(4, metrics)]
