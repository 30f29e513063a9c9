"""The clock and the pending metrics of training, apart from a run."""

import numpy as np
import pytest

from dss_jax.data import pipeline
from dss_jax.runs import training_log
from dss_jax.runs.training_log import PendingMetrics, Stopwatch


def _batch(sequences=4, tokens=100):
  return pipeline.Batch({}, np.zeros((1, 1), np.int64), sequences, tokens)


@pytest.fixture
def clock(monkeypatch):
  """A clock that is set by hand; returns the function that sets it."""
  now = [0.0]
  monkeypatch.setattr(training_log.time, 'perf_counter', lambda: now[0])

  def set_to(seconds: float) -> None:
    now[0] = seconds

  return set_to


def test_the_first_step_and_pauses_are_not_timed(clock):
  stopwatch = Stopwatch()
  clock(10.0)  # compiled until now
  stopwatch.add(_batch())
  assert stopwatch.take_rates() == {}
  clock(12.0)
  stopwatch.add(_batch())
  assert stopwatch.take_rates() == {'examples_per_second': 2.0, 'tokens_per_second': 50.0}
  stopwatch.pause()  # a validation
  clock(50.0)
  stopwatch.add(_batch())
  assert stopwatch.take_rates() == {}
  clock(51.0)
  stopwatch.add(_batch())
  assert stopwatch.take_rates()['examples_per_second'] == 4.0
  assert (stopwatch.sequences, stopwatch.seconds) == (8, 3.0)


def test_rates_are_of_the_steps_since_the_last_ones(clock):
  stopwatch = Stopwatch()
  for seconds in (0.0, 1.0, 3.0):
    clock(seconds)
    stopwatch.add(_batch())
  assert stopwatch.take_rates()['tokens_per_second'] == pytest.approx(200 / 3)
  assert stopwatch.take_rates() == {}


def test_totals_go_on_from_those_of_the_process_before(clock):
  stopwatch = Stopwatch(sequences=100, seconds=7.0)
  stopwatch.add(_batch())
  clock(1.0)
  stopwatch.add(_batch())
  assert (stopwatch.sequences, stopwatch.seconds) == (104, 8.0)


def test_metrics_are_taken_in_order_and_the_last_is_kept():
  pending = PendingMetrics()
  for step in (1, 2, 3):
    pending.add(step, {'loss': np.float32(step)}, _batch())
  taken = list(pending.take_metrics(keep=1))
  assert [(step, metrics) for step, metrics, _ in taken] == [(1, {'loss': 1.0}), (2, {'loss': 2.0})]
  assert [step for step, _, _ in pending.take_metrics()] == [3]
  assert list(pending.take_metrics()) == []
