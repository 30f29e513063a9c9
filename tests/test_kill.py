"""Real processes of `dss train`, killed and told to stop: what they leave is continued exactly."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dss_jax import metric_writer, partitioning, run_config, train
from dss_jax.checkpoints import manager
from dss_jax.models import t5

STEPS = 30
SMALL_DATA = """
from dss_jax.tasks import embedded
embedded.SIZES.update(train=600, validation=40, test=40)
"""
TIMES = ('examples_per_second', 'tokens_per_second', 'padding')
PATIENCE_S = 120.0  # with a process that does nothing any more


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  """A folder with the module that makes the data small, and compiled programs."""
  folder = tmp_path_factory.mktemp('shared')
  (folder / 'small_embedded_data.py').write_text(SMALL_DATA)
  return folder


def _arguments(model_dir) -> list[str]:
  settings = {
    'mixture_or_task_module': 'small_embedded_data',
    'model_dir': str(model_dir),
    'train_steps': STEPS,
    'batch_size': 8,
    'task_feature_lengths': "{'inputs': 96, 'targets': 64}",
    'learning_rate': 0.01,
    'dropout_rate': 0.1,
    'eval_period': 10,
    'evaluator_num_examples': 8,
    'max_decode_length': 4,
    'save_period': 2,
    'log_period': 1,
    'gin.t5.T5Config.emb_dim': 16,
    'gin.t5.T5Config.mlp_dim': 32,
    'gin.t5.T5Config.num_encoder_layers': 1,
    'gin.t5.T5Config.num_decoder_layers': 1,
  }
  files = ['models/t5_1_1/tiny.gin', 'datasets/embedded.gin']
  return [f'--gin_file={name}' for name in files] + [f'--{k}={v}' for k, v in settings.items()]


class _Process:
  """One life of a run, on one device."""

  def __init__(self, model_dir, shared):
    self.folder = pathlib.Path(model_dir)
    self.folder.mkdir(exist_ok=True)
    self._log = self.folder / 'log.txt'
    environment = {
      **os.environ,
      'PYTHONPATH': str(shared),
      'JAX_PLATFORMS': 'cpu',
      'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
      'JAX_COMPILATION_CACHE_DIR': str(shared / 'compiled'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.05',
    }
    with self._log.open('w') as log:
      command = [sys.executable, '-m', 'dss_jax', 'train', *_arguments(model_dir)]
      self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

  def finish(self) -> int:
    return self._process.wait(timeout=PATIENCE_S)

  @property
  def log(self) -> str:
    return self._log.read_text()

  def when(self, condition):
    """Waits until `condition()` is true, looking every millisecond."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
      assert self._process.poll() is None, f'it ended by itself:\n{self.log}'
      assert time.monotonic() < end, f'nothing happened:\n{self.log}'
      time.sleep(0.001)
    return self

  def steps(self) -> int:
    return self.log.count('\nstep ')

  def saving(self) -> bool:
    """Whether a checkpoint is being written now, under its temporary name."""
    return any((self.folder / 'checkpoints').glob('*.orbax-checkpoint-tmp'))

  def send(self, number) -> int:
    self._process.send_signal(number)
    return self.finish()


def _params(folder):
  run = run_config.set_up_tasks(run_config.load_run_config(folder))
  shapes, _ = t5.abstract(run.model)
  place = partitioning.replicated(partitioning.make_mesh(partitioning.MeshConfig()))
  like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes)
  checkpoints = manager.Checkpoints(str(folder), read_only=True)
  params = jax.device_get(checkpoints.restore_params('latest', like))
  kept = checkpoints.latest(), checkpoints.best()
  checkpoints.close()
  return params, kept


def _rows(folder):
  rows = metric_writer.read_metrics(str(folder))
  return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


@pytest.fixture(scope='module')
def whole(tmp_path_factory, shared):
  """The folder of a run that nothing interrupted."""
  folder = tmp_path_factory.mktemp('whole')
  process = _Process(folder, shared)
  assert process.finish() == 0, process.log
  return folder


@pytest.fixture(autouse=True)
def _importable(shared, monkeypatch):
  """This process reads the runs' tasks too; the data's size is put back."""
  from dss_jax.tasks import embedded

  sizes = dict(embedded.SIZES)
  monkeypatch.syspath_prepend(str(shared))
  yield
  embedded.SIZES.update(sizes)
  embedded.problems.cache_clear()
  sys.modules.pop('small_embedded_data', None)


def test_a_run_killed_again_and_again_equals_a_whole_one(whole, shared, tmp_path):
  """SIGKILL while a checkpoint is written, at a random moment, after a validation; then SIGTERM."""
  folder = tmp_path / 'run'
  moment = np.random.default_rng().uniform(0.0, 0.5)  # no seed: over many runs of the tests, all

  def killed(condition, wait=0.0):
    process = _Process(folder, shared)
    process.when(lambda: condition(process))
    time.sleep(wait)
    assert process.send(signal.SIGKILL) == -signal.SIGKILL, process.log

  killed(lambda process: process.steps() >= 4 and process.saving())
  killed(lambda process: process.steps() >= 3, wait=moment)
  killed(lambda process: 'validation at step' in process.log)
  process = _Process(folder, shared)
  process.when(lambda: process.steps() >= 3)
  assert process.send(signal.SIGTERM) == 0, process.log
  assert 'stopped; the same command continues it' in process.log
  process = _Process(folder, shared)
  assert process.finish() == 0, process.log

  (params, kept), (expected, expected_kept) = _params(folder), _params(whole)
  assert kept == expected_kept
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(a, b, err_msg=f'killed {moment} s after a step')
  assert _rows(folder) == _rows(whole)


def test_eight_devices_train_as_one_does(whole, tmp_path):
  """`whole` is the work of one device; this process has eight."""
  assert jax.device_count() == 8
  assert train.main([*_arguments(tmp_path), '--eval_period=0']) == 0
  (params, _), (expected, _) = _params(tmp_path), _params(whole)
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
  rows = [row for row in _rows(tmp_path) if row['kind'] == 'train']
  wanted = [row for row in _rows(whole) if row['kind'] == 'train']
  assert [row['loss'] for row in rows] == pytest.approx([row['loss'] for row in wanted], rel=1e-3)
