"""The driver end to end on the embedded data: run folder, continuing, stopping, refusing.

Killing real processes is test_kill.py's.
"""

import dataclasses
import functools
import json
import os
import signal
import threading

import jax
import numpy as np
import pytest

from dss_jax.checkpoints import manager
from dss_jax.commands import train
from dss_jax.data import pipeline
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.runs import metric_writer, run_config
from dss_jax.runs.run_config import EvalConfig, RunConfig
from dss_jax.training import optimizers
from dss_jax.training.optimizers import OptimizerConfig

STEPS = 12
TIMES = ('examples_per_second', 'tokens_per_second')


@pytest.fixture(scope='module', autouse=True)
def _small_data():
  """A part of the embedded data, which the runs of this file read once."""
  from dss_jax.datasets import embedded

  sizes = dict(embedded.SIZES)
  embedded.SIZES.update(train=600, validation=40, test=40)
  embedded.problems.cache_clear()  # another file's tests may have read the whole of it
  with pytest.MonkeyPatch.context() as patch:
    for name in ('load_mixture', 'load_examples'):
      patch.setattr(pipeline, name, functools.cache(getattr(pipeline, name)))
    yield
  embedded.SIZES.update(sizes)
  embedded.problems.cache_clear()


@pytest.fixture(scope='module', autouse=True)
def _compiled_once(tmp_path_factory):
  """The runs of this file compile the same few programs."""
  from jax.experimental.compilation_cache import compilation_cache

  settings = {
    'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('compiled')),
    'jax_persistent_cache_min_compile_time_secs': 0.05,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def _config(folder, **changes) -> RunConfig:
  """A run of 12 steps, validated each fourth, with dropout and packed rows."""
  return dataclasses.replace(
    RunConfig(
      model_dir=str(folder),
      model=t5.T5Config(None, 16, 2, 8, 32, 1, 1, dtype='float32'),
      data=pipeline.DataConfig('embedded_dss', {'inputs': 96, 'targets': 64}, batch_size=8),
      vocabulary='embedded',
      train_steps=STEPS,
      optimizer=OptimizerConfig(learning_rate=0.01, decay_steps=STEPS),
      eval=EvalConfig(period=4, num_examples=8, batch_size=8, max_decode_length=4),
      log_period=1,
      save_period=3,
    ),
    **changes,
  )


def _params(folder, step='latest'):
  run = run_config.set_up_tasks(run_config.load_run_config(folder))
  shapes, _ = t5.abstract(run.model)
  checkpoints = manager.Checkpoints(str(folder), read_only=True)
  place = partitioning.replicated(partitioning.make_mesh(partitioning.MeshConfig()))
  like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes)
  params = jax.device_get(checkpoints.restore_params(step, like))
  checkpoints.close()
  return params


def _rows(folder):
  """metrics.jsonl without what depends on the clock."""
  rows = metric_writer.read_metrics(str(folder))
  return [{k: v for k, v in row.items() if k not in TIMES + ('padding',)} for row in rows]


def _assert_same(a, b, **tolerance):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    if tolerance:
      np.testing.assert_allclose(x, y, **tolerance)
    else:
      np.testing.assert_array_equal(x, y)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The folder and result of a run that nothing interrupted."""
  folder = tmp_path_factory.mktemp('whole')
  return folder, train.train(_config(folder))


# A run


def test_a_run_leaves_its_settings_metrics_events_and_checkpoints(whole):
  folder, result = whole
  assert (result.step, result.finished) == (STEPS, True)
  names = {path.name for path in folder.iterdir()}
  assert {'config.json', 'config.gin', 'metrics.jsonl', 'checkpoints'} <= names
  assert any(name.startswith('events.') for name in names)
  assert not [name for name in names if name.endswith('.tmp')]
  checkpoints = manager.Checkpoints(str(folder), read_only=True)
  assert checkpoints.latest() == STEPS
  assert checkpoints.best() == result.best_step and result.best_step in (4, 8, 12)
  assert run_config.load_run_config(folder).model.vocab_size % 128 == 0


def test_metrics_tell_both_tasks_at_every_step_and_the_validations(whole):
  rows = metric_writer.read_metrics(str(whole[0]))
  assert [row['step'] for row in rows if row['kind'] == 'train'] == list(range(1, STEPS + 1))
  assert [row['step'] for row in rows if row['kind'] == 'validation'] == [4, 8, 12]
  first, last = rows[0], [row for row in rows if row['kind'] == 'train'][-1]
  for task in ('label', 'rationale'):
    assert last[f'{task}/loss'] < first[f'{task}/loss']
    assert first[f'{task}/rows'] > 0
  assert first['learning_rate'] == pytest.approx(0.01)
  assert last['learning_rate'] == pytest.approx(0.01 / 12)
  assert last['examples_per_second'] > 0 and 0 < last['padding'] < 1
  validation = rows[-1]
  assert {'loss', 'label/loss', 'rationale/loss', 'accuracy', 'accuracy_low'} <= set(validation)
  assert validation['label/rows'] == validation['rationale/rows'] == 40


def test_a_finished_run_does_nothing_when_it_is_started_again(whole):
  folder, result = whole
  before = (folder / 'metrics.jsonl').read_text(), sorted((folder / 'checkpoints').iterdir())
  again = train.train(_config(folder))
  assert (again.step, again.finished, again.best_step) == (STEPS, True, result.best_step)
  assert (again.sequences, again.seconds) == (result.sequences, pytest.approx(result.seconds))
  after = (folder / 'metrics.jsonl').read_text(), sorted((folder / 'checkpoints').iterdir())
  assert after == before


def _train_up_to(run: RunConfig, step: int):
  """Trains until the data of `step` + 1 is asked for, then fails as a broken disk would."""
  checkpoints = manager.Checkpoints(run.model_dir)
  left = iter(range(step - (checkpoints.latest() or 0)))
  checkpoints.close()
  plain = pipeline.TrainBatches.__next__

  def breaking(self):
    if next(left, None) is None:
      raise RuntimeError('the disk is gone')
    return plain(self)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pipeline.TrainBatches, '__next__', breaking)
    with pytest.raises(RuntimeError, match='the disk is gone'):
      train.train(run)


def test_a_run_cut_at_any_step_and_continued_equals_a_whole_one(whole, tmp_path):
  """Three times, once before the first checkpoint."""
  for step in (2, 7, 10):
    _train_up_to(_config(tmp_path), step)
  assert train.train(_config(tmp_path)).step == STEPS
  _assert_same(_params(tmp_path), _params(whole[0]))
  assert _rows(tmp_path) == _rows(whole[0])
  kept, expected = (
    sorted(path.name for path in (folder / 'checkpoints').iterdir())
    for folder in (tmp_path, whole[0])
  )
  assert kept == expected


def test_meshes_train_alike_and_may_change_in_between(whole, tmp_path):
  """`whole` ran with all devices as data; here the mesh changes after a checkpoint at step 6."""
  run = _config(tmp_path, eval=EvalConfig(period=0))
  _train_up_to(dataclasses.replace(run, mesh=partitioning.MeshConfig(1, 8, 1)), 7)
  mesh = partitioning.MeshConfig(2, 2, 2)
  train.train(dataclasses.replace(run, mesh=mesh, num_microbatches=2))
  _assert_same(_params(tmp_path), _params(whole[0]), rtol=0, atol=1e-5)
  expected = [row['loss'] for row in _rows(whole[0]) if row['kind'] == 'train']
  assert [row['loss'] for row in _rows(tmp_path)] == pytest.approx(expected, rel=1e-5)


# Stopping


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_off_interval_and_the_run_continues(whole, tmp_path, monkeypatch, number):
  plain, seen = pipeline.TrainBatches.__next__, []

  def signalling(self):
    seen.append(1)
    if len(seen) == 7:
      os.kill(os.getpid(), number)
    return plain(self)

  monkeypatch.setattr(pipeline.TrainBatches, '__next__', signalling)
  handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  result = train.train(_config(tmp_path, save_period=100, eval=EvalConfig(period=0)))
  assert not result.finished and 4 <= result.step <= 7
  assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
  assert manager.Checkpoints(str(tmp_path), read_only=True).latest() == result.step
  monkeypatch.setattr(pipeline.TrainBatches, '__next__', plain)
  assert train.train(_config(tmp_path, save_period=100, eval=EvalConfig(period=0))).finished
  _assert_same(_params(tmp_path), _params(whole[0]))


def test_a_run_outside_the_main_thread_leaves_signals_alone(tmp_path):
  found = []

  def run():
    found.append(train.train(_config(tmp_path, train_steps=2, optimizer=OptimizerConfig(
      schedule='constant'), eval=EvalConfig(period=0))))  # fmt: skip

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert found[0].finished


@pytest.mark.parametrize('broken', ['learning rate', 'parameter'])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, broken):
  """At step 5 or later; all that is on disk is still finite, and the message names the batch."""
  rates = lambda config: lambda step: jax.numpy.where(step < 4, 1e-3, 1e38)  # noqa: E731
  if broken == 'learning rate':
    monkeypatch.setattr(optimizers, 'make_schedule', rates)
  else:
    monkeypatch.setattr(train.steps, 'make_train_step', _poisoned(train.steps.make_train_step))
  constant = OptimizerConfig(learning_rate=1e-3, schedule='constant')
  run = _config(
    tmp_path, optimizer=constant, train_steps=6, save_period=2, eval=EvalConfig(period=0)
  )
  with pytest.raises(train.NonFiniteLossError) as caught:
    train.train(run)
  text = str(caught.value)
  assert 'not finite at step 5 ' in text and 'The last good checkpoint is step 4' in text
  assert f'INITIAL_CHECKPOINT_PATH={tmp_path}' in text
  batches = pipeline.TrainBatches(pipeline.load_mixture('embedded_dss', 'train'), run.data)
  fifth = [next(batches) for _ in range(5)][-1]
  assert str(sorted(set(fifth.example_ids[fifth.example_ids >= 0].tolist()))) in text
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(_params(tmp_path)))
  monkeypatch.undo()
  assert train.train(run).finished


def _poisoned(make_train_step):
  """A training step whose embedding is infinite from the fifth batch on."""

  def make(*args):
    step = make_train_step(*args)

    def poisoned(state, batch):
      factor = jax.numpy.where(state.step == 4, jax.numpy.inf, 1.0)
      params = {**state.params, 'embedding': state.params['embedding'] * factor}
      return step(state._replace(params=params), batch)

    return poisoned

  return make


def test_a_run_without_progress_stops_and_stays_stopped(tmp_path, monkeypatch):
  accuracies = {2: 0.1, 4: 0.5, 6: 0.3, 8: 0.5, 10: 0.9}

  def validate(self, params, between):
    step = len([r for r in _rows(tmp_path) if r['kind'] == 'validation']) * 2 + 2
    return {'loss': 1.0, 'accuracy': accuracies[step]}

  monkeypatch.setattr(train.Validation, '__call__', validate)
  run = _config(tmp_path, eval=EvalConfig(period=2, num_examples=8, patience=2))
  result = train.train(run)
  # 0.5 again is no progress: after 6 and 8 it stops.
  assert (result.step, result.finished) == (8, True)
  assert manager.Checkpoints(str(tmp_path), read_only=True).latest() == 8
  before = (tmp_path / 'metrics.jsonl').read_text()
  again = train.train(run)
  assert (again.step, again.finished) == (8, True)
  assert (tmp_path / 'metrics.jsonl').read_text() == before


# Starting


def test_a_run_starts_from_the_best_checkpoint_of_another(whole, tmp_path, capsys):
  folder, result = whole
  still = OptimizerConfig(learning_rate=0.0, schedule='constant')
  run = _config(
    tmp_path,
    train_steps=1,
    optimizer=still,
    eval=EvalConfig(period=0),
    initial_checkpoint_path=str(folder),
    seed=5,
  )
  train.train(dataclasses.replace(run, model=dataclasses.replace(run.model, dropout_rate=0.0)))
  _assert_same(_params(tmp_path), _params(folder, result.best_step))


@pytest.mark.parametrize(
  'change, message',
  [
    ({'num_heads': 4}, r'num_heads: 2 -> 4'),
    ({'mlp_activations': ('relu',)}, r'mlp_activations.*relu'),
    ({'num_decoder_layers': 2}, r'num_decoder_layers: 1 -> 2'),
  ],
)
def test_weights_of_another_network_are_refused(whole, tmp_path, change, message):
  run = _config(tmp_path, initial_checkpoint_path=str(whole[0]))
  run = dataclasses.replace(run, model=dataclasses.replace(run.model, **change))
  with pytest.raises(ValueError, match=rf'INITIAL_CHECKPOINT_PATH.*another network.*{message}'):
    train.train(run)


def test_a_start_that_holds_no_run_is_refused(tmp_path):
  with pytest.raises(ValueError, match='there is no folder'):
    train.train(_config(tmp_path / 'a', initial_checkpoint_path=str(tmp_path / 'nowhere')))


def test_a_folder_is_not_continued_with_other_settings(whole):
  folder = whole[0]
  before = (folder / 'config.json').read_text()
  with pytest.raises(ValueError, match=r'other settings(.|\n)*seed: 0 -> 1'):
    train.train(_config(folder, seed=1))
  assert (folder / 'config.json').read_text() == before


def test_a_batch_that_the_mesh_does_not_divide_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'BATCH_SIZE / NUM_MICROBATCHES 4 is not a multiple'):
    train.train(_config(tmp_path, num_microbatches=2))
  assert not (tmp_path / 'config.json').exists()


def test_an_unknown_task_is_refused_with_near_names(tmp_path):
  config = pipeline.DataConfig('embeded_dss', {'inputs': 96, 'targets': 64}, batch_size=8)
  with pytest.raises(ValueError, match=r'embeded_dss.*embedded_dss'):
    train.train(_config(tmp_path, data=config))


def test_truncation_is_told(tmp_path, capsys):
  config = pipeline.DataConfig('embedded_dss', {'inputs': 96, 'targets': 9}, batch_size=8)
  train.train(_config(tmp_path, data=config, train_steps=1, eval=EvalConfig(period=0),
                      optimizer=OptimizerConfig(schedule='constant')))  # fmt: skip
  assert 'are cut at 9 tokens' in capsys.readouterr().err


def test_the_command_says_how_it_ended(tmp_path, capsys):
  arguments = [
    '--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/embedded.gin',
    f'--model_dir={tmp_path}', '--train_steps=1', '--eval_period=0', '--batch_size=8',
    '--gin.t5.T5Config.num_heads=1', '--gin.t5.T5Config.num_encoder_layers=1',
    '--gin.t5.T5Config.num_decoder_layers=1',
  ]  # fmt: skip
  assert train.main(arguments) == 0
  out = capsys.readouterr()
  assert out.out == 'step 1: finished. best checkpoint on validation: None\n'
  assert 'step 1/1  loss' in out.err
  kept = json.loads((tmp_path / 'config.json').read_text())
  assert kept['model']['num_heads'] == 1 and kept['model_dir'] == str(tmp_path)
  assert 'num_heads = 1' in (tmp_path / 'config.gin').read_text()
