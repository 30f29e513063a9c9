"""Whole jobs of T5X's trainer: stopped and continued, with our files as they are shipped.

Needs T5X, which is on no package index: `make t5x`. All else is skipped there with that reason.
"""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util

pytest.importorskip('t5x', reason='needs T5X beside us: make t5x')

import t5x_jobs

from dss_jax import methods
from dss_jax.checkpoints.t5x import t5x
from dss_jax.data import pipeline
from dss_jax.t5x import batches

MESH = (2, 2)
TASKS = methods.get('dss').tasks


@pytest.fixture(scope='module', autouse=True)
def _lenient():
  with t5x_jobs.lenient():
    yield


def run(folder, until: int, *bindings: str) -> dict:
  """A whole job of T5X's `train` in a folder; its last state's arrays."""
  state = t5x_jobs.run(folder, until, *bindings, mesh=MESH)
  return traverse_util.flatten_dict(jax.device_get(state.state_dict()), sep='/')


def test_a_job_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
  whole = run(tmp_path / 'whole', 6)
  run(tmp_path / 'parts', 3)
  parts = run(tmp_path / 'parts', 6)
  assert whole.keys() == parts.keys()
  for name, array in whole.items():
    np.testing.assert_array_equal(array, parts[name], name)


def test_the_checkpoint_before_the_first_step_is_before_the_first_batch(tmp_path):
  """T5X has looked at the first batch by then."""
  run(tmp_path, 3)
  first = json.loads((tmp_path / 'checkpoint_0' / 'dataset' / 'train_ds-000-of-001').read_text())
  later = json.loads((tmp_path / 'checkpoint_3' / 'dataset' / 'train_ds-000-of-001').read_text())
  assert (first['window'], first['row']) == (0, 0)
  assert (later['window'], later['row']) == (0, 3 * t5x_jobs.ROWS)


@pytest.mark.parametrize(
  'text, message',
  [
    ({'fingerprint': 1}, 'is not what MODEL_DIR was trained on'),
    ({'window': -1}, 'is no place in our batches'),
    ({'seed': 1}, 'RANDOM_SEED is 0, but MODEL_DIR was trained with 1'),
    ({'pack': False}, 'PACK is True, but MODEL_DIR was trained with False'),
    ({'task_feature_lengths': {'inputs': 96, 'targets': 8}}, 'TASK_FEATURE_LENGTHS is .*96'),
    ('{"window": 0, "row": 8, "fingerprint": 2}', 'is no place in our batches'),
    ('\x0a\x05', 'is no place in our batches: continue with the get_dataset_fn'),
    ('[1]', 'is no place in our batches'),
  ],
)
def test_a_place_in_other_batches_is_refused(tmp_path, text, message):
  """What differs from a place that fits, or the text of the file."""
  fits = {
    'window': 0, 'row': 8, 'fingerprint': 2, 'seed': 0, 'pack': True,
    'task_feature_lengths': t5x_jobs.LENGTHS,
  }  # fmt: skip
  differs = text if isinstance(text, dict) else {}
  (tmp_path / 'place').write_text(text if isinstance(text, str) else json.dumps(fits | differs))
  (tmp_path / 'fits').write_text(json.dumps(fits))
  t5x_jobs.our_batches(1)
  config = pipeline.DataConfig(t5x_jobs.TASK, t5x_jobs.LENGTHS, t5x_jobs.ROWS)
  mixture = pipeline.load_mixture(t5x_jobs.TASK, 'train', TASKS)
  stream = batches.Batches(pipeline.TrainBatches(mixture, config), fingerprint=2)
  stream.restore(tmp_path / 'fits')
  with pytest.raises(ValueError, match=message):
    stream.restore(tmp_path / 'place')


@pytest.mark.parametrize(('step', 'stored'), [(0, None), (3, 'dataset'), (3, '.'), (3, None)])
def test_a_job_that_has_trained_without_a_place_is_refused(tmp_path, step, stored):
  folder = tmp_path / f'checkpoint_{step}'
  (folder / 'state').mkdir(parents=True)
  (folder / 'state' / '_METADATA').touch()
  if stored:
    (folder / stored).mkdir(exist_ok=True)
    (folder / stored / 'train_ds-000-of-001').touch()
  if step and not stored:
    with pytest.raises(ValueError, match='checkpoint_3 has no place in our batches, so that'):
      batches._latest_place(str(tmp_path))
  else:
    assert (batches._latest_place(str(tmp_path)) is None) == (stored is None)


def test_seqios_own_stream_trains_too(tmp_path):
  bindings = [
    'train_script.train.get_dataset_fn = @utils.get_dataset',
    'utils.SaveCheckpointConfig.save_dataset = False',
  ]
  state = run(tmp_path, 3, *bindings)
  assert int(state['state/step']) == 3


@pytest.mark.parametrize('axis', ['data', 'model'])
def test_two_processes_train_as_one(tmp_path, axis):
  """Each makes its half of every batch, or the same rows; both go on at the next batch."""
  whole = run(tmp_path / 'one', 6)
  for until in (3, 6):
    t5x_jobs.run_in_two_processes(tmp_path / 'two', until, axis)
  found = t5x.open_pretrained(str(tmp_path / 'two'))
  assert t5x.step_of(str(tmp_path / 'two')) == 6
  for path, leaf in found.recipe.items():
    for name in leaf.names:
      array = found.tensors[name].read((slice(None),) * len(found.tensors[name].shape))
      np.testing.assert_allclose(array, whole[name], rtol=0, atol=2e-6, err_msg='/'.join(path))
  places = [file.read_text() for file in (tmp_path / 'two').glob('checkpoint_6/dataset/*/*')]
  assert len(places) == (2 if axis == 'data' else 1) and len(set(places)) == 1


# ---------------------------------------------------------------- the files that are shipped

SETTINGS = {
  'BATCH_SIZE': 4, 'EVAL_BATCH_SIZE': 4, 'EVAL_STEPS': 1, 'EVALUATOR_NUM_EXAMPLES': 4,
  'EVAL_PERIOD': 1, 'SAVE_PERIOD': 1, 'LOG_PERIOD': 1, 'network.T5Config.vocab_size': 768,
  'network.T5Config.emb_dim': 16, 'network.T5Config.mlp_dim': 32,
}  # fmt: skip


def run_files(folder, until: int, *files: str) -> str:
  """`dss t5x` with files of gin/t5x/, up to a step; what it said."""
  names = ('t5x/models/tiny.gin', 't5x/train.gin', *files, 'datasets/embedded.gin')
  settings = {**SETTINGS, 'MODEL_DIR': str(folder), 'TRAIN_STEPS': until}
  command = [sys.executable, '-m', 'dss_jax', 't5x', *(f'--gin_file={name}' for name in names)]
  command += [f'--gin.{name}={value!r}' for name, value in settings.items()]
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
  done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stderr


@pytest.mark.parametrize('files', [(), ('t5x/seqio_batches.gin',)], ids=['ours', 'seqio'])
def test_files_as_they_are_shipped_train_validate_and_continue(tmp_path, files):
  for until in (1, 2):
    run_files(tmp_path, until, *files)
    assert t5x.step_of(str(tmp_path)) == until
  for kind in ('train', 'training_eval', 'inference_eval'):
    assert list((tmp_path / kind).rglob('events*')), kind
  found = t5x.open_pretrained(str(tmp_path))
  assert found.moments is not None and found.moments.step == 2
