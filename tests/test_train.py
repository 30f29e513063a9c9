"""The driver end to end on the embedded data: run folder, continuing, stopping, refusing.

Killing real processes is test_kill.py's.
"""

import dataclasses
import json
import os
import signal
import threading

import jax
import numpy as np
import pytest
from small_runs import STEPS, config_of, small_data  # noqa: F401  a fixture

from dss_jax.checkpoints import manager
from dss_jax.commands import train
from dss_jax.data import pipeline
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.runs import run_config, training_log, training_loop, validation
from dss_jax.runs.run_config import EvalConfig, RunConfig
from dss_jax.runs.run_folder import RunFolder
from dss_jax.training import optimizers, programs, steps
from dss_jax.training.optimizers import OptimizerConfig

TIMES = ('examples_per_second', 'tokens_per_second')


def _params(folder, step='latest'):
  run = run_config.set_up_tasks(RunFolder(folder).load_settings())
  shapes, _ = t5.abstract(run.model)
  place = partitioning.replicated(partitioning.make_mesh(partitioning.MeshConfig()))
  like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes)
  with RunFolder(folder).read_checkpoints() as checkpoints:
    return jax.device_get(checkpoints.restore_params(step, like))


def _rows(folder):
  """metrics.jsonl without what depends on the clock."""
  rows = RunFolder(folder).metric_rows()
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
  return folder, training_loop.train(config_of(folder))


# A run


def test_a_run_leaves_its_settings_metrics_events_and_checkpoints(whole):
  folder, result = whole
  assert (result.step, result.finished) == (STEPS, True)
  names = {path.name for path in folder.iterdir()}
  assert {'config.json', 'config.gin', 'metrics.jsonl', 'checkpoints'} <= names
  assert any(name.startswith('events.') for name in names)
  assert not [name for name in names if name.endswith('.tmp')]
  with RunFolder(folder).read_checkpoints() as checkpoints:
    assert checkpoints.latest() == STEPS
    assert checkpoints.best() == result.best_step and result.best_step in (4, 8, 12)
  assert RunFolder(folder).load_settings().model.vocab_size % 128 == 0


def test_metrics_tell_both_tasks_at_every_step_and_the_validations(whole):
  rows = RunFolder(whole[0]).metric_rows()
  assert [row['step'] for row in rows if row['kind'] == 'train'] == list(range(1, STEPS + 1))
  assert [row['step'] for row in rows if row['kind'] == 'validation'] == [4, 8, 12]
  first, last = rows[0], [row for row in rows if row['kind'] == 'train'][-1]
  for task in ('label', 'rationale'):
    assert last[f'{task}/loss'] < first[f'{task}/loss']
    assert first[f'{task}/rows'] > 0
  assert first['learning_rate'] == pytest.approx(0.01)
  assert last['learning_rate'] == pytest.approx(0.01 / 12)
  assert last['examples_per_second'] > 0 and 0 < last['padding'] < 1
  validated = rows[-1]
  assert {'loss', 'label/loss', 'rationale/loss', 'accuracy', 'accuracy_low'} <= set(validated)
  assert validated['label/rows'] == validated['rationale/rows'] == 40


def test_a_finished_run_does_nothing_when_it_is_started_again(whole):
  folder, result = whole
  before = (folder / 'metrics.jsonl').read_text(), sorted((folder / 'checkpoints').iterdir())
  again = training_loop.train(config_of(folder))
  assert (again.step, again.finished, again.best_step) == (STEPS, True, result.best_step)
  assert (again.sequences, again.seconds) == (result.sequences, pytest.approx(result.seconds))
  after = (folder / 'metrics.jsonl').read_text(), sorted((folder / 'checkpoints').iterdir())
  assert after == before


def _train_up_to(run: RunConfig, step: int):
  """Trains until the data of `step` + 1 is asked for, then fails as a broken disk would."""
  left = iter(range(step - max(RunFolder(run.model_dir).saved_steps(), default=0)))
  plain = pipeline.TrainBatches.__next__

  def breaking(self):
    if next(left, None) is None:
      raise RuntimeError('the disk is gone')
    return plain(self)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pipeline.TrainBatches, '__next__', breaking)
    with pytest.raises(RuntimeError, match='the disk is gone'):
      training_loop.train(run)


def test_a_run_cut_at_any_step_and_continued_equals_a_whole_one(whole, tmp_path):
  """Three times, once before the first checkpoint."""
  for step in (2, 7, 10):
    _train_up_to(config_of(tmp_path), step)
  assert training_loop.train(config_of(tmp_path)).step == STEPS
  _assert_same(_params(tmp_path), _params(whole[0]))
  assert _rows(tmp_path) == _rows(whole[0])
  kept, expected = (
    sorted(path.name for path in (folder / 'checkpoints').iterdir())
    for folder in (tmp_path, whole[0])
  )
  assert kept == expected


def test_meshes_train_alike_and_may_change_in_between(whole, tmp_path):
  """`whole` ran with all devices as data; here the mesh changes after a checkpoint at step 6.

  So do the programs of the layers, which are no part of a checkpoint.
  """
  run = config_of(tmp_path, eval=EvalConfig(period=0))
  _train_up_to(dataclasses.replace(run, mesh=partitioning.MeshConfig(1, 8, 1)), 7)
  mesh = partitioning.MeshConfig(2, 2, 2)
  model = dataclasses.replace(run.model, scan_layers=False, remat_policy='full')
  training_loop.train(dataclasses.replace(run, mesh=mesh, model=model, num_microbatches=2))
  _assert_same(_params(tmp_path), _params(whole[0]), rtol=0, atol=1e-5)
  expected = [row['loss'] for row in _rows(whole[0]) if row['kind'] == 'train']
  assert [row['loss'] for row in _rows(tmp_path)] == pytest.approx(expected, rel=1e-5)


def test_a_start_opens_its_checkpoints_once(whole, monkeypatch):
  opened = []
  plain = manager.Checkpoints.__init__

  def counting(self, *args, **settings):
    opened.append(args)
    plain(self, *args, **settings)

  monkeypatch.setattr(manager.Checkpoints, '__init__', counting)
  assert training_loop.train(config_of(whole[0])).finished
  assert len(opened) == 1


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
  result = training_loop.train(config_of(tmp_path, save_period=100, eval=EvalConfig(period=0)))
  assert not result.finished and 4 <= result.step <= 7
  assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
  assert RunFolder(tmp_path).saved_steps()[-1] == result.step
  monkeypatch.setattr(pipeline.TrainBatches, '__next__', plain)
  assert training_loop.train(
    config_of(tmp_path, save_period=100, eval=EvalConfig(period=0))
  ).finished
  _assert_same(_params(tmp_path), _params(whole[0]))


def test_a_run_outside_the_main_thread_leaves_signals_alone(tmp_path):
  found = []

  def run():
    constant = OptimizerConfig(learning_rate=1e-3, schedule='constant')
    run = config_of(tmp_path, train_steps=2, optimizer=constant, eval=EvalConfig(period=0))
    found.append(training_loop.train(run))

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert found[0].finished


def test_a_signal_during_validation_leaves_it_to_the_next_start(whole, tmp_path, monkeypatch):
  plain = validation.Validation.__call__

  def signalled(self, params, step, between):
    os.kill(os.getpid(), signal.SIGTERM)
    return plain(self, params, step, between)

  monkeypatch.setattr(validation.Validation, '__call__', signalled)
  result = training_loop.train(config_of(tmp_path))
  assert (result.step, result.ending) == (4, training_loop.Ending.SIGNAL)
  assert result.best_step is None
  monkeypatch.undo()
  assert training_loop.train(config_of(tmp_path)).best_step == whole[1].best_step
  assert _rows(tmp_path) == _rows(whole[0])


@pytest.fixture
def own_updates():
  """No update that this test makes is another's, however the test ends."""
  programs.update.cache_clear()
  yield
  programs.update.cache_clear()


@pytest.mark.parametrize('broken', ['learning rate', 'parameter'])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, own_updates, broken):
  """At step 5 or later; all that is on disk is still finite, and the message names the batch."""
  rates = lambda config: lambda step: jax.numpy.where(step < 4, 1e-3, 1e38)  # noqa: E731
  if broken == 'learning rate':
    monkeypatch.setattr(optimizers, 'make_schedule', rates)
  else:
    monkeypatch.setattr(steps, 'make_train_step', _poisoned(steps.make_train_step))
  constant = OptimizerConfig(learning_rate=1e-3, schedule='constant')
  run = config_of(
    tmp_path, optimizer=constant, train_steps=6, save_period=2, eval=EvalConfig(period=0)
  )
  with pytest.raises(training_log.NonFiniteLossError) as caught:
    training_loop.train(run)
  text = str(caught.value)
  assert 'not finite at step 5 ' in text and 'The last good checkpoint is step 4' in text
  assert f'INITIAL_CHECKPOINT_PATH={tmp_path}' in text
  batches = pipeline.TrainBatches(
    pipeline.load_mixture('embedded_arithmetic_dss', 'train'), run.data
  )
  fifth = [next(batches) for _ in range(5)][-1]
  assert str(sorted(set(fifth.example_ids[fifth.example_ids >= 0].tolist()))) in text
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(_params(tmp_path)))
  monkeypatch.undo()
  programs.update.cache_clear()
  assert training_loop.train(run).finished


def _poisoned(make_train_step):
  """A training step whose embedding is infinite from the fifth batch on."""

  def make(*args):
    step = make_train_step(*args)

    def poisoned(state, batch, seed):
      factor = jax.numpy.where(state.step == 4, jax.numpy.inf, 1.0)
      params = {**state.params, 'embedding': state.params['embedding'] * factor}
      return step(state._replace(params=params), batch, seed)

    return poisoned

  return make


def test_a_run_without_progress_stops_and_stays_stopped(tmp_path, monkeypatch):
  accuracies = {2: 0.1, 4: 0.5, 6: 0.3, 8: 0.5, 10: 0.9}

  def validate(self, params, step, between):
    return {'loss': 1.0, 'accuracy': accuracies[step]}

  monkeypatch.setattr(validation.Validation, '__call__', validate)
  run = config_of(tmp_path, eval=EvalConfig(period=2, num_examples=8, patience=2))
  result = training_loop.train(run)
  # 0.5 again is no progress: after 6 and 8 it stops, and the first 0.5 stays the best.
  assert (result.step, result.finished, result.best_step) == (8, True, 4)
  text = 'stopped by PATIENCE at step 8 of 12. best checkpoint on validation: 4'
  assert str(result) == text
  assert RunFolder(tmp_path).saved_steps() == [4, 8]
  before = (tmp_path / 'metrics.jsonl').read_text()
  again = training_loop.train(run)
  assert (again.step, str(again)) == (8, text)
  assert (tmp_path / 'metrics.jsonl').read_text() == before


# Starting


def test_a_run_starts_from_the_best_checkpoint_of_another(whole, tmp_path, capsys):
  folder, result = whole
  still = OptimizerConfig(learning_rate=0.0, schedule='constant')
  run = config_of(
    tmp_path,
    train_steps=1,
    optimizer=still,
    eval=EvalConfig(period=0),
    initial_checkpoint_path=str(folder),
    seed=5,
  )
  training_loop.train(
    dataclasses.replace(run, model=dataclasses.replace(run.model, dropout_rate=0.0))
  )
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
  run = config_of(tmp_path, initial_checkpoint_path=str(whole[0]))
  run = dataclasses.replace(run, model=dataclasses.replace(run.model, **change))
  with pytest.raises(ValueError, match=rf'INITIAL_CHECKPOINT_PATH.*another network.*{message}'):
    training_loop.train(run)


def test_a_folder_is_not_continued_with_other_settings(whole):
  folder = whole[0]
  before = (folder / 'config.json').read_text()
  with pytest.raises(ValueError, match=r'other settings(.|\n)*seed: 0 -> 1'):
    training_loop.train(config_of(folder, seed=1))
  assert (folder / 'config.json').read_text() == before


def test_the_command_says_how_it_ended(tmp_path, capsys):
  arguments = [
    '--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/embedded_arithmetic.gin',
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
