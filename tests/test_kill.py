"""Real processes of `dss train`, killed and told to stop: what they leave is continued exactly."""

import signal
import time

import jax
import numpy as np
import pytest
from train_processes import Processes, importable, params_of, rows_of, share, train_arguments

from dss_jax.commands import train

STEPS = 30


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  """A folder with the module that makes the data small, and room for compiled programs."""
  with importable(share(tmp_path_factory.mktemp('shared'))) as folder:
    yield folder


def _arguments(model_dir) -> list[str]:
  return train_arguments(model_dir, train_steps=STEPS, eval_period=10, save_period=2)


def _process(folder, shared, own=0) -> Processes:
  """One life of a run, on one device; `own`: with a seed of hashes of its own."""
  return Processes(folder, shared, ['train', *_arguments(folder)], own=own)


@pytest.fixture(scope='module')
def whole(tmp_path_factory, shared):
  """The folder of a run that nothing interrupted."""
  folder = tmp_path_factory.mktemp('whole')
  process = _process(folder, shared)
  assert process.finish() == [0], process.log
  return folder


def test_a_run_killed_again_and_again_equals_a_whole_one(whole, shared, tmp_path):
  """SIGKILL while a checkpoint is written, at a random moment, after a validation; then SIGTERM."""
  folder = tmp_path / 'run'
  moment = np.random.default_rng().uniform(0.0, 0.5)  # no seed: over many runs of the tests, all

  def killed(condition, wait=0.0):
    process = _process(folder, shared)
    process.when(lambda: condition(process))
    time.sleep(wait)
    assert process.send(signal.SIGKILL) == [-signal.SIGKILL], process.log

  killed(lambda process: process.steps() >= 4 and process.saving())
  killed(lambda process: process.steps() >= 3, wait=moment)
  killed(lambda process: 'validation at step' in process.log)
  process = _process(folder, shared)
  process.when(lambda: process.steps() >= 3)
  assert process.send(signal.SIGTERM) == [0], process.log
  assert 'stopped; the same command continues it' in process.log
  process = _process(folder, shared, own=1)
  assert process.finish() == [0], process.log

  (params, kept), (expected, expected_kept) = params_of(folder), params_of(whole)
  assert kept == expected_kept
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(a, b, err_msg=f'killed {moment} s after a step')
  assert rows_of(folder) == rows_of(whole)


def test_eight_devices_train_as_one_does(whole, tmp_path):
  """`whole` is the work of one device; this process has eight."""
  assert jax.device_count() == 8
  seldom = ['--eval_period=0', f'--save_period={STEPS}']
  assert train.main([*_arguments(tmp_path), *seldom]) == 0
  (params, _), (expected, _) = params_of(tmp_path), params_of(whole)
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
  rows = [row for row in rows_of(tmp_path) if row['kind'] == 'train']
  wanted = [row for row in rows_of(whole) if row['kind'] == 'train']
  assert [row['loss'] for row in rows] == pytest.approx([row['loss'] for row in wanted], rel=1e-3)
