"""What INITIAL_CHECKPOINT_PATH takes: told apart, and started from."""

import dataclasses
import shutil

import hf_checkpoints
import jax
import numpy as np
import pytest
import run_folders
from golden import make_t5x

from dss_jax import tasks
from dss_jax.checkpoints import adafactor, transfer
from dss_jax.checkpoints.hf import huggingface
from dss_jax.checkpoints.t5x import t5x
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.runs import pretrained, run_config
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import gin_files
from dss_jax.training import optimizers, train_state

ADAFACTOR = optimizers.OptimizerConfig(name='adafactor', schedule='constant')
ADAMW = optimizers.OptimizerConfig(schedule='constant')


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """One folder of each kind."""
  folder = tmp_path_factory.mktemp('weights')
  make_t5x.unpack(folder)
  hf_checkpoints.make(folder / 'hf', 'ByT5')
  run_folders.make_run(folder / 'run')
  return folder


def _start(path, model, optimizer=ADAMW, fsdp=1):
  mesh = partitioning.make_mesh(partitioning.MeshConfig(fsdp=fsdp))
  made = optimizers.make_optimizer(optimizer, t5.logical_axes(model))
  like = train_state.abstract(model, made, mesh)
  return pretrained.start(str(path), model, made, like), like


def _assert_equal(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.parametrize(
  'name, reader', [('hf', huggingface), ('legacy', t5x), ('orbax', t5x), ('legacy_scanned', t5x)]
)
def test_training_starts_from_another_programs_weights(folders, name, reader):
  opened = reader.open_pretrained(str(folders / name))
  tasks.set_vocabulary('bytes')
  state, like = _start(folders / name, opened.config, fsdp=2)
  _assert_equal(state.params, transfer.read_all(opened.recipe, opened.tensors))
  assert int(state.step) == 0
  for array, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(like), strict=True):
    assert array.sharding == wanted.sharding


def test_training_starts_from_the_best_checkpoint_of_a_run(folders):
  tasks.set_vocabulary('bytes')
  state, like = _start(folders / 'run', run_folders.MODEL)
  with RunFolder(folders / 'run').read_checkpoints() as best:
    _assert_equal(state.params, best.restore_params(1, like.params))


@pytest.mark.parametrize('name', ['legacy', 'legacy_scanned'])
def test_adafactors_state_is_continued(folders, capsys, name):
  opened = t5x.open_pretrained(str(folders / name))
  state, _ = _start(folders / name, opened.config, ADAFACTOR)
  assert 'Adafactor state is continued' in capsys.readouterr().err
  found = adafactor.moments_of(state.opt_state)
  assert int(found['step']) == make_t5x.STEP
  _assert_equal(found['rows'], transfer.read_all(opened.moments.rows, opened.tensors))
  _assert_equal(found['columns'], transfer.read_all(opened.moments.columns, opened.tensors))


def test_adafactors_state_is_left_out_of_adamw_and_said_so(folders, capsys):
  model = t5x.open_pretrained(str(folders / 'legacy')).config
  state, _ = _start(folders / 'legacy', model)
  assert 'Adafactor state is left out: OPTIMIZER is another one' in capsys.readouterr().err
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))


def test_weights_of_another_network_are_refused_with_the_difference(folders):
  model = dataclasses.replace(huggingface.open_pretrained(str(folders / 'hf')).config, mlp_dim=99)
  with pytest.raises(ValueError, match=r'mlp_dim: 20 -> 99.*models/pretrained.gin'):
    _start(folders / 'hf', model)


def test_weights_of_another_vocabulary_are_refused(folders):
  tasks.set_vocabulary('embedded_arithmetic')
  with pytest.raises(ValueError, match=r'VOCABULARY is another one.*set VOCABULARY to bytes'):
    _start(folders / 'hf', huggingface.open_pretrained(str(folders / 'hf')).config)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_with_the_tensor(tmp_path, value):
  run_folders.make_run(tmp_path / 'run', steps=(1,))
  model = run_folders.MODEL
  made = optimizers.make_optimizer(ADAMW, t5.logical_axes(model))
  state = train_state.create(model, made, partitioning.make_mesh(partitioning.MeshConfig()), 0)
  state.params['embedding'] = state.params['embedding'].at[3, 5].set(value)
  shutil.rmtree(tmp_path / 'run' / 'checkpoints')
  with RunFolder(tmp_path / 'run').open_checkpoints() as checkpoints:
    checkpoints.save(state, {}, {'accuracy': 1.0})
  with pytest.raises(ValueError) as caught:
    _start(tmp_path / 'run', model)
  assert (
    f'{tmp_path}/run: 1 of the 6,144 numbers of the tensor embedding are NaN or '
    'infinite, and so in 1 of '
  ) in str(caught.value)


def test_settings_that_are_not_of_the_weights_may_differ(folders):
  tasks.set_vocabulary('bytes')
  model = huggingface.open_pretrained(str(folders / 'hf')).config
  chosen = {'dropout_rate': 0.3, 'dtype': 'float32', 'remat_policy': 'full', 'scan_layers': False}
  assert set(chosen) == set(pretrained.NETWORK_CHOICES)
  _start(folders / 'hf', dataclasses.replace(model, **chosen))


def test_gin_takes_network_and_vocabulary_from_the_weights(folders):
  arguments = [
    '--gin_file=models/pretrained.gin', '--gin_file=datasets/svamp.gin', '--model_dir=x',
    f'--initial_checkpoint_path={folders / "hf"}', '--dropout_rate=0.2', '--dtype=float32',
  ]  # fmt: skip
  gin_files.parse(arguments, 'runs/train.gin')
  run = gin_files.configured('run_config.RunConfig')
  there = huggingface.open_pretrained(str(folders / 'hf')).config
  assert run.model == dataclasses.replace(
    there, dropout_rate=0.2, dtype='float32', remat_policy='auto', scan_layers='auto'
  )
  assert isinstance(run, run_config.RunConfig) and run.vocabulary == 'bytes'


def test_gin_without_a_path_says_what_is_expected():
  arguments = ['--gin_file=models/pretrained.gin', '--gin_file=datasets/svamp.gin']
  gin_files.parse([*arguments, '--model_dir=x'], 'runs/train.gin')
  with pytest.raises(
    ValueError, match='INITIAL_CHECKPOINT_PATH: set that to a folder that `dss train`'
  ):
    gin_files.configured('run_config.RunConfig')


def _steps_of(folders, name, *argv):
  """TRAIN_STEPS and decay_steps of a run that starts from one of the folders."""
  path = f'--initial_checkpoint_path={folders / name}'
  tiny = [
    '--gin_file=models/t5_1_1/tiny.gin',
    '--gin_file=datasets/embedded_arithmetic.gin',
    '--model_dir=x',
  ]
  gin_files.parse([*tiny, path, *argv], 'runs/train.gin')
  run = gin_files.configured('run_config.RunConfig')
  return run.train_steps, run.optimizer.decay_steps


@pytest.mark.parametrize('name', ['legacy', 'orbax', 'legacy_scanned'])
def test_steps_that_t5x_would_count_from_pretraining_are_refused_with_both_readings(folders, name):
  with pytest.raises(ValueError) as caught:
    _steps_of(folders, name, '--train_steps=1010000')
  assert (
    'As T5X counts, that is 10,000 updates: give --train_steps_relative=10000; if you do mean '
    '1,010,000 updates, give --train_steps_relative=1010000.'
  ) in str(caught.value)
  assert f'{make_t5x.STEP:,}' in str(caught.value)


COUNTED = '--gin.pretrained.train_steps.counts_pretraining=True'


@pytest.mark.parametrize('name', ['legacy', 'orbax'])
def test_steps_as_t5xs_files_count_them_are_those_after_the_checkpoints(folders, name):
  given = f'--train_steps={make_t5x.STEP + 70}'
  assert _steps_of(folders, name, given, COUNTED) == (70, 70)
  assert pretrained.first_step(str(folders / name)) == make_t5x.STEP
  assert pretrained.first_step(str(folders / 'run')) == pretrained.first_step(None) == 0
  with pytest.raises(
    ValueError, match=r'nothing would be trained\. Give --train_steps_relative=5 '
  ):
    _steps_of(folders, name, '--train_steps=5', COUNTED)


def test_steps_as_t5x_counts_them_need_a_t5x_checkpoint(folders):
  with pytest.raises(ValueError, match=r'run is none: give --train_steps_relative=N for'):
    _steps_of(folders, 'run', '--train_steps=9', COUNTED)
  assert _steps_of(folders, 'run', '--train_steps_relative=9', COUNTED) == (9, 9)
  assert pretrained.train_steps(9, counts_pretraining=True) == 9  # from random parameters


def test_relative_steps_are_taken_as_they_are_and_decay_ends_with_them(folders):
  for given in (10_000, 1_010_000):
    argv = ['--train_steps=1010000', f'--train_steps_relative={given}']
    assert _steps_of(folders, 'legacy', *argv) == (given, given)
  assert _steps_of(folders, 'run', '--train_steps_relative=7') == (7, 7)


def test_steps_that_t5x_would_have_done_before_are_ours(folders):
  assert _steps_of(folders, 'legacy', f'--train_steps={make_t5x.STEP}') == (make_t5x.STEP,) * 2
  assert _steps_of(folders, 'legacy') == (10_000, 10_000)


@pytest.mark.parametrize('name', ['run', 'hf', 'not_there'])
def test_steps_of_a_run_that_starts_from_no_t5x_checkpoint_are_ours(folders, name):
  assert _steps_of(folders, name, '--train_steps=1010000') == (1_010_000, 1_010_000)


@pytest.mark.parametrize('name', ['legacy', 'orbax'])
def test_a_checkpoint_says_its_step_by_its_name_or_else_by_its_state(folders, tmp_path, name):
  whole = folders / name / f'checkpoint_{make_t5x.STEP}'
  shutil.copytree(whole, tmp_path / 'runs' / 'checkpoint_20')
  shutil.copytree(whole, tmp_path / 'renamed')
  for path in (tmp_path / 'runs', tmp_path / 'runs' / 'checkpoint_20'):
    assert t5x.step_of(str(path)) == 20
  assert t5x.step_of(str(tmp_path / 'renamed')) == make_t5x.STEP
  assert t5x.step_of(str(tmp_path)) is None


def test_weights_without_a_vocabulary_ask_for_one(folders):
  with pytest.raises(ValueError, match='came without a vocabulary; give --vocabulary='):
    pretrained.vocabulary(str(folders / 'legacy'))


@pytest.mark.parametrize('name', ['no/such/folder', '/nowhere'])
def test_nothing_there_is_an_error_that_says_what_is_taken(name):
  with pytest.raises(ValueError, match=r'there is no folder.*T5X checkpoint'):
    pretrained.open_weights(name)


def test_a_folder_of_something_else_is_an_error(tmp_path):
  (tmp_path / 'notes.txt').write_text('x')
  with pytest.raises(ValueError, match='holds no weights that can be read'):
    pretrained.open_weights(str(tmp_path))
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match=r'config.json is not JSON'):
    pretrained.open_weights(str(tmp_path))


def test_a_run_that_has_no_checkpoint_yet_is_an_error(folders, tmp_path):
  shutil.copy(folders / 'run' / 'config.json', tmp_path)
  tasks.set_vocabulary('bytes')
  with pytest.raises(ValueError, match='holds no checkpoints'):
    _start(tmp_path, run_folders.MODEL)


def test_what_is_loaded_is_a_bound_network(folders):
  """The dict has the form that the network takes, whoever wrote it."""
  weights = pretrained.open_weights(str(folders / 'hf'))
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes, _ = t5.abstract(weights.config)
  like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), shapes)
  tokens = jax.numpy.ones((1, 4), int)
  logits = t5.bind(weights.config, weights.load(like))(tokens, tokens, tokens, tokens)
  assert logits.shape == (1, 4, 384) and np.isfinite(logits).all()
