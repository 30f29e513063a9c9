"""The clock and the pending metrics of training, apart from a run."""

import dataclasses
import types

import numpy as np
import pytest
from small_runs import config_of

from dss_jax.data import pipeline
from dss_jax.runs import training_log
from dss_jax.runs.training_log import NonFiniteLossError, PendingMetrics, Stopwatch, TrainingLog


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


def _refusal(folder, step, metrics, given=None, last=None, dtype='float32'):
  """What is said of a step whose metrics are these: by default those of a good one."""
  checkpoints = types.SimpleNamespace(wait=lambda: None, latest=lambda: last)
  run = config_of(folder, initial_checkpoint_path=given)
  run = dataclasses.replace(run, model=dataclasses.replace(run.model, dtype=dtype))
  log = TrainingLog(run, checkpoints, step - 1, {})
  try:
    with pytest.raises(NonFiniteLossError) as caught:
      log.add(step, {'loss': 1.0, 'grad_norm': 1.0, 'param_norm': 1.0} | metrics, _batch())
  finally:
    log.close()
  return str(caught.value)


@pytest.mark.parametrize('metrics', [{'loss': np.nan}, {'grad_norm': np.inf}])
def test_given_weights_are_named_at_their_first_step_not_the_data(tmp_path, metrics):
  text = _refusal(tmp_path, 1, metrics, given='/weights')
  assert 'not finite at step 1' in text and 'weights of INITIAL_CHECKPOINT_PATH=/weights' in text
  assert 'examples' not in text and 'start from other weights' in text


@pytest.mark.parametrize('given', [None, '/weights'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_float32_is_advised_where_it_is_not_the_type_already(tmp_path, given, dtype):
  text = _refusal(tmp_path, 1, {'loss': np.nan}, given, dtype=dtype)
  assert ('DTYPE = "float32"' in text) == (dtype == 'bfloat16')
  assert ('start from other weights.' if given else 'a smaller CLIP_NORM') in text


def test_an_update_that_breaks_given_weights_is_not_theirs(tmp_path):
  text = _refusal(tmp_path, 1, {'param_norm': np.inf}, given='/weights')
  assert 'a smaller LEARNING_RATE' in text and '/weights' not in text


def test_a_checkpoint_that_is_not_there_is_not_advised(tmp_path):
  text = _refusal(tmp_path, 1, {'loss': np.nan})
  assert 'the batch holds the examples [0]. There is no checkpoint yet.' in text
  assert 'INITIAL_CHECKPOINT_PATH' not in text and 'None' not in text


def test_a_later_step_is_of_the_data_and_of_the_last_checkpoint(tmp_path):
  text = _refusal(tmp_path, 7, {'loss': np.nan}, given='/weights', last=6)
  assert 'the batch holds the examples [0]. The last good checkpoint is step 6.' in text
  assert f'INITIAL_CHECKPOINT_PATH={tmp_path}, which takes its best checkpoint' in text
