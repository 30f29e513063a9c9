"""Checkpoints that something damaged: refused in one sentence, never read as if they were whole."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import run_folders

from dss_jax import cli
from dss_jax.checkpoints import manager
from dss_jax.commands import evaluate, export_weights, predict
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.runs import student, training_setup
from dss_jax.runs.run_folder import RunFolder
from dss_jax.training import optimizers, train_state

# Reads that fail after the first do so in threads and tasks of orbax.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The folder of a run with the checkpoints 2, 4 (the best) and 6."""
  folder = tmp_path_factory.mktemp('damaged') / 'whole'
  return pathlib.Path(run_folders.make_run(folder, steps=(2, 4, 6), best=4))


@pytest.fixture(params=['noted', 'old'])
def run(request, whole, tmp_path):
  """A copy of `whole` to damage; `old` as a version wrote it that noted no checksums."""
  shutil.copytree(whole, tmp_path / 'run')
  if request.param == 'old':
    for file in (tmp_path / 'run').rglob('checksums.json'):
      file.unlink()
  return tmp_path / 'run'


@pytest.fixture
def noted(whole, tmp_path):
  return pathlib.Path(shutil.copytree(whole, tmp_path / 'run'))


@pytest.fixture(scope='module')
def like():
  optimizer = run_folders.run_config_of('', 'dss').optimizer
  transformation = optimizers.make_optimizer(optimizer, t5.logical_axes(run_folders.MODEL))
  mesh = partitioning.make_mesh(partitioning.MeshConfig())
  return train_state.abstract(run_folders.MODEL, transformation, mesh)


def _resume(run, like):
  with RunFolder(run).open_checkpoints(3) as checkpoints:
    return checkpoints.restore(checkpoints.latest(), like)


def _arrays(folder, item='params'):
  """The files with arrays of an item, the largest first; not every one is read."""
  return sorted((folder / item).rglob('d/*'), key=lambda file: -file.stat().st_size)


def _halve(file):
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _garble(file):
  file.write_bytes(b'\x00garbled')


DAMAGES = {
  'truncated': lambda folder: [_halve(file) for file in _arrays(folder)],
  'emptied': lambda folder: [file.write_bytes(b'') for file in _arrays(folder)],
  'deleted': lambda folder: [file.unlink() for file in _arrays(folder)],
  'no params': lambda folder: shutil.rmtree(folder / 'params'),
  'no manifest': lambda folder: (folder / 'params' / 'manifest.ocdbt').unlink(),
  'garbled manifest': lambda folder: _garble(folder / 'params' / 'manifest.ocdbt'),
  'garbled names': lambda folder: _garble(folder / 'params' / '_METADATA'),
  'no arrays': lambda folder: shutil.rmtree(folder / 'params' / 'd'),
  'no process': lambda folder: shutil.rmtree(folder / 'params' / 'ocdbt.process_0'),
  'empty': lambda folder: [shutil.rmtree(folder), folder.mkdir()],
}
OF_RESUMING = {
  'no rest': lambda folder: shutil.rmtree(folder / 'rest'),
  'garbled rest': lambda folder: _garble(folder / 'rest' / 'manifest.ocdbt'),
  'no data': lambda folder: (folder / 'data' / 'metadata').unlink(),
  'empty data': lambda folder: (folder / 'data' / 'metadata').write_text(''),
  'garbled data': lambda folder: _garble(folder / 'data' / 'metadata'),
  'a list as data': lambda folder: (folder / 'data' / 'metadata').write_text('[1]'),
}
OF_METRICS = {
  'garbled metrics': lambda folder: _garble(folder / 'metrics' / 'metrics'),
  'empty metrics': lambda folder: (folder / 'metrics' / 'metrics').write_text(''),
  'a list': lambda folder: (folder / 'metrics' / 'metrics').write_text('[1]'),
  'no accuracy': lambda folder: (folder / 'metrics' / 'metrics').write_text('{}'),
  'NaN': lambda folder: (folder / 'metrics' / 'metrics').write_text('{"accuracy": NaN}'),
  'deep': lambda folder: (folder / 'metrics' / 'metrics').write_text('[' * 100_000),
  'large': lambda folder: (folder / 'metrics' / 'metrics').write_text(
    f'{{"accuracy": 1{"0" * 400}}}'
  ),
}


@pytest.mark.parametrize('damage', [*DAMAGES, *OF_RESUMING])
def test_a_run_is_not_continued_from_a_damaged_checkpoint(run, like, damage):
  folder = run / 'checkpoints' / '6'
  (DAMAGES | OF_RESUMING)[damage](folder)
  with pytest.raises(ValueError) as caught:
    _resume(run, like)
  text = str(caught.value)
  assert text.startswith(f'the checkpoint {folder} is damaged: '), text
  way = f'Good are [2, 4]: move {folder} out of {folder.parent} to continue from step 4.'
  assert text.endswith(way) and len(text) < 1000 and '\n' not in text
  folder.rename(run / 'six')
  assert int(_resume(run, like)[0].step) == 4


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_student_is_not_read_from_a_damaged_checkpoint(run, damage):
  folder = run / 'checkpoints' / '6'
  DAMAGES[damage](folder)
  with pytest.raises(ValueError) as caught:
    student.load(student.StudentConfig(str(run), step='latest'))
  text = str(caught.value)
  assert text.startswith(f'the checkpoint {folder} is damaged: '), text
  assert f'Good are [2, 4]: give --step=4, or move {folder} out of ' in text
  assert student.load(student.StudentConfig(str(run), step=4)).step == 4


@pytest.mark.parametrize('damage', OF_METRICS)
def test_metrics_that_choose_the_best_are_not_guessed(run, like, damage):
  OF_METRICS[damage](run / 'checkpoints' / '6')
  text = r'checkpoint .*/6 is damaged: .* Move it out of .*checkpoints to go on .* others: \[2, 4\]'
  for read in (
    lambda: student.load(student.StudentConfig(str(run))),
    lambda: _resume(run, like),
  ):
    with pytest.raises(ValueError, match=text):
      read()


def test_where_there_is_no_other_checkpoint_none_is_named(noted):
  for step in (2, 4):
    shutil.rmtree(noted / 'checkpoints' / str(step))
  _garble(noted / 'checkpoints' / '6' / 'metrics' / 'metrics')
  with pytest.raises(ValueError, match=r'There is no other: put a copy of that file back, or'):
    student.load(student.StudentConfig(str(noted)))


@pytest.mark.parametrize('notes', [{}, {'window': 0, 'row': 0}, {'fingerprint': 1}])
def test_a_checkpoint_that_does_not_note_its_data_is_told(run, notes):
  for file in run.rglob('checksums.json'):
    file.unlink()
  (run / 'checkpoints' / '6' / 'data' / 'metadata').write_text(json.dumps(notes))
  config = run_folders.run_config_of(run, 'dss')
  optimizer = optimizers.make_optimizer(config.optimizer, t5.logical_axes(config.model))
  mesh = partitioning.make_mesh(partitioning.MeshConfig())
  setup = training_setup.TrainingSetup(config, RunFolder(run), mesh, None, None, 0)
  with (
    RunFolder(run).open_checkpoints(3) as checkpoints,
    pytest.raises(ValueError, match=r'step 6 in .* does not say where .*INITIAL_CHECKPOINT_PATH='),
  ):
    training_setup.initial_state(setup, optimizer, checkpoints)


def test_a_changed_byte_is_noticed(noted, like):
  """Array libraries do not: the weights would be others."""
  file = _arrays(noted / 'checkpoints' / '6')[0]
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 0x55
  file.write_bytes(content)
  name = file.relative_to(noted / 'checkpoints' / '6')
  text = f'checkpoints/6 is damaged: its file {name} has other content than was saved'
  with pytest.raises(ValueError, match=text):
    _resume(noted, like)
  with pytest.raises(ValueError, match=text):
    student.load(student.StudentConfig(str(noted), step=6))


def test_the_file_that_is_missing_or_short_is_named(noted, like):
  folder = noted / 'checkpoints' / '6'
  manifest = folder / 'params' / 'manifest.ocdbt'
  whole = manifest.read_bytes()
  manifest.write_bytes(b'x')
  with pytest.raises(ValueError, match=r'its file params/manifest\.ocdbt has 1 bytes instead of'):
    student.load(student.StudentConfig(str(noted), step=6))
  manifest.write_bytes(whole)
  (folder / 'data' / 'metadata').unlink()
  with pytest.raises(ValueError, match='its file data/metadata is missing'):
    _resume(noted, like)
  with pytest.raises(ValueError, match='its file data/metadata is missing'):
    student.load(student.StudentConfig(str(noted), step=6))


def test_metrics_that_were_removed_are_missed(noted):
  (noted / 'checkpoints' / '4' / 'metrics' / 'metrics').unlink()
  with pytest.raises(ValueError, match=r'/4 is damaged: its file metrics/metrics is missing'):
    student.load(student.StudentConfig(str(noted)))


@pytest.mark.parametrize('content', ['', '[]', '{"step": 6}', '{"step": 6, "files": {"a": 1}}',
                                     '{"step": 6, "files": {"a": [Infinity, 1]}}'])  # fmt: skip
def test_checksums_that_cannot_be_read_are_damage(noted, like, content):
  folder = noted / 'checkpoints' / '6'
  with pytest.raises(ValueError, match=r'6/checksums\.json '):
    (folder / 'checksums.json').write_text(content)
    manager.checksums.add(folder, 'metrics/metrics')
  (noted / 'checkpoints' / '6' / 'checksums.json').write_text(content)
  with pytest.raises(ValueError, match=r'/6 is damaged: checksums\.json in it cannot be read'):
    _resume(noted, like)


def test_a_copy_under_another_number_is_refused(run, like):
  """Its weights, its place in the data and the steps that are left do not belong together."""
  shutil.copytree(run / 'checkpoints' / '4', run / 'checkpoints' / '8')
  with pytest.raises(ValueError, match=r'/8 is damaged: it is a copy of the checkpoint of step 4'):
    _resume(run, like)


def test_arrays_of_another_network_are_refused(noted):
  settings = noted / 'config.json'
  values = json.loads(settings.read_text())
  values['model']['mlp_dim'] = 48
  settings.write_text(json.dumps(values))
  text = (
    r'checkpoints/4 holds another network than the settings describe: the tensor params/.*/wi_0 '
    r'is \(1, 16, 32\) there and \(1, 16, 48\) by the settings\. Set the settings back'
  )
  with pytest.raises(ValueError, match=text):
    student.load(student.StudentConfig(str(noted)))


def test_files_that_hold_no_weights_do_not_matter(run, like):
  wanted, _ = _resume(run, like)
  for name in ('_CHECKPOINT_METADATA', 'commit_success.txt'):
    (run / 'checkpoints' / '6' / name).unlink()
  (run / 'checkpoints' / '6' / '.DS_Store').write_text('x')
  state, _ = _resume(run, like)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_array_equal(a, b)


def test_where_none_is_good_another_folder_is_the_way(noted, like):
  for step in (2, 4, 6):
    _halve(_arrays(noted / 'checkpoints' / str(step), 'rest')[0])
  with pytest.raises(
    ValueError, match='No other checkpoint here is good: choose another MODEL_DIR'
  ):
    _resume(noted, like)


def test_a_checkpoint_that_training_removes_meanwhile_is_told(noted, like):
  with RunFolder(noted).read_checkpoints() as checkpoints:
    shutil.rmtree(noted / 'checkpoints' / '2')
    with pytest.raises(OSError, match=r'/2 was removed while it was read: .*reads a newer one'):
      checkpoints.restore_params(2, like.params)


def test_every_verb_refuses_with_the_sentence(noted, tmp_path):
  DAMAGES['truncated'](noted / 'checkpoints' / '4')
  for main, arguments in (
    (evaluate.main, [f'--model_dir={noted}']),
    (predict.main, [f'--model_dir={noted}', '--input=x']),
    (export_weights.main, ['--to=hf', f'--checkpoint={noted}', f'--output={tmp_path / "out"}']),
  ):
    with pytest.raises(ValueError, match=r'checkpoints/4 is damaged: .*give --step=6, or move'):
      main(arguments)
  assert not (tmp_path / 'out').exists()


def test_the_program_ends_with_2_and_one_line(run, capfd):
  """Also where an array library's threads fail after it has told of it."""
  DAMAGES['truncated'](run / 'checkpoints' / '4')
  assert cli.main(['predict', f'--model_dir={run}', '--input=x']) == 2
  lines = [line for line in capfd.readouterr().err.splitlines() if 'cudart' not in line]
  assert len(lines) == 1 and lines[0].startswith('dss predict: the checkpoint '), lines


def test_imported_weights_are_checked_too(tmp_path):
  weights = {'a': np.arange(300_000, dtype=np.float32)}
  manager.save_weights(tmp_path / 'checkpoints', weights, {'step': np.int32(3)})
  assert not manager.checksums.damage(tmp_path / 'checkpoints' / '0', 0, ['params', 'moments'])
  _halve(_arrays(tmp_path / 'checkpoints' / '0')[0])
  with (
    manager.Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints,
    pytest.raises(
      ValueError, match=r'/0 is damaged: its file params/.*Import the weights again\.$'
    ),
  ):
    checkpoints.restore_params('best', weights)
  (tmp_path / 'checkpoints' / '0' / 'moments' / '_METADATA').unlink()
  with pytest.raises(ValueError, match='its file moments/_METADATA is missing'):
    manager.load_moments(tmp_path / 'checkpoints')
