"""A run's settings beside its checkpoints: kept, read back, and defended against others."""

import dataclasses
import json
import pathlib

import pytest

from dss_jax.data import pipeline
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.runs import run_config
from dss_jax.runs.run_config import EvalConfig, RunConfig
from dss_jax.tasks import vocabulary
from dss_jax.training import losses, optimizers


@pytest.fixture
def run(tmp_path):
  return RunConfig(
    model_dir=str(tmp_path / 'run'),
    model=t5.T5Config(64, 16, 2, 8, 32, 2, 2),
    data=pipeline.DataConfig('embedded_dss', {'inputs': 64, 'targets': 32}, batch_size=8),
    vocabulary='bytes',
    train_steps=10,
    optimizer=optimizers.OptimizerConfig(decay_steps=10),
  )


def _changed(run, name, value):
  """`run` with a nested setting changed, 'data.seed' for one."""
  first, _, rest = name.partition('.')
  if rest:
    value = _changed(getattr(run, first), rest, value)
  return dataclasses.replace(run, **{first: value})


def test_settings_survive_the_folder(run):
  run = dataclasses.replace(run, loss=losses.LossConfig(alpha=0.5), eval=EvalConfig(patience=3))
  run_config.save_run_config(run)
  assert run_config.load_run_config(run.model_dir) == run


def test_a_folder_that_was_moved_is_read_where_it_is(run, tmp_path):
  run_config.save_run_config(run)
  (tmp_path / 'run').rename(tmp_path / 'elsewhere')
  loaded = run_config.load_run_config(tmp_path / 'elsewhere')
  assert loaded == dataclasses.replace(run, model_dir=str(tmp_path / 'elsewhere'))


def test_a_folder_without_a_run_is_told(tmp_path):
  with pytest.raises(ValueError, match=r'holds no run: no config\.json; MODEL_DIR is what'):
    run_config.load_run_config(tmp_path)


@pytest.mark.parametrize(
  'name, value, line',
  [
    ('data.seed', 1, 'data.seed: 0 -> 1'),
    ('data.batch_size', 16, 'data.batch_size: 8 -> 16'),
    (
      'data.task_feature_lengths',
      {'inputs': 64, 'targets': 33},
      'data.task_feature_lengths.targets: 32 -> 33',
    ),
    ('model.num_heads', 4, 'model.num_heads: 2 -> 4'),
    ('model.dtype', 'float32', "model.dtype: 'bfloat16' -> 'float32'"),
    ('loss.alpha', 0.5, 'loss.alpha: None -> 0.5'),
    ('optimizer.learning_rate', 1.0, 'optimizer.learning_rate: 5e-05 -> 1.0'),
    ('optimizer.decay_steps', 20, 'optimizer.decay_steps: 10 -> 20'),
    ('seed', 5, 'seed: 0 -> 5'),
    ('eval.period', 7, 'eval.period: 1000 -> 7'),
    ('eval.patience', 2, 'eval.patience: None -> 2'),
  ],
)
def test_a_folder_is_not_continued_with_what_would_learn_otherwise(run, name, value, line):
  run_config.save_run_config(run)
  with pytest.raises(
    ValueError, match=f'other settings; choose another MODEL_DIR.*\n  {line}'
  ) as e:
    run_config.save_run_config(_changed(run, name, value))
  assert len(str(e.value).splitlines()) == 2, 'other settings are told too'
  assert run_config.load_run_config(run.model_dir) == run


def test_all_differences_are_told(run):
  run_config.save_run_config(run)
  other = _changed(_changed(run, 'seed', 5), 'loss.z_loss', 1e-4)
  with pytest.raises(ValueError, match=r'loss\.z_loss: 0\.0 -> 0\.0001\n  seed: 0 -> 5$'):
    run_config.save_run_config(other)


@pytest.mark.parametrize(
  'name, value',
  [
    ('checkpoints_to_keep', 3),
    ('data_dir', 'elsewhere'),
    ('eval.batch_size', 5),
    ('initial_checkpoint_path', 'elsewhere'),
    ('log_period', 7),
    ('mesh', partitioning.MeshConfig(1, 2, 4)),
    ('model.remat_policy', 'full'),
    ('model.scan_layers', False),
    ('num_microbatches', 2),
    ('save_period', 3),
    ('train_steps', 20),
  ],
)
def test_what_learns_the_same_may_change(run, name, value):
  run_config.save_run_config(run)
  changed = _changed(run, name, value)
  run_config.save_run_config(changed)
  assert run_config.load_run_config(run.model_dir) == changed


def test_every_setting_that_may_change_is_one(run):
  names = set()
  for field in dataclasses.fields(run):
    value = getattr(run, field.name)
    inner = dataclasses.fields(value) if dataclasses.is_dataclass(value) else []
    names |= {f'{field.name}.{part.name}' for part in inner} or {field.name}
  assert set(run_config.FREE) <= names


def test_a_run_without_linear_decay_can_be_made_longer(run):
  """Its learning rate does not depend on TRAIN_STEPS, to which gin binds decay_steps."""
  constant = optimizers.OptimizerConfig(schedule='constant', decay_steps=10)
  run = dataclasses.replace(run, optimizer=constant)
  run_config.save_run_config(run)
  longer = optimizers.OptimizerConfig(schedule='constant', decay_steps=20)
  run_config.save_run_config(dataclasses.replace(run, optimizer=longer, train_steps=20))
  assert run_config.load_run_config(run.model_dir).train_steps == 20


@pytest.mark.parametrize('name', ['train_steps', 'num_microbatches', 'log_period', 'save_period'])
def test_counts_are_positive(run, name):
  with pytest.raises(ValueError, match=rf'{name} \({name.upper()}\) is at least 1, not 0'):
    dataclasses.replace(run, **{name: 0})


def test_microbatches_divide_the_batch(run):
  with pytest.raises(ValueError, match='NUM_MICROBATCHES 3 does not divide BATCH_SIZE 8'):
    dataclasses.replace(run, num_microbatches=3)


# Tasks and vocabulary


def test_a_task_is_named_after_data_set_and_method():
  assert run_config.task_name('svamp', 'dss') == 'svamp_dss'
  with pytest.raises(ValueError, match=r'--gin_file=datasets/NAME\.gin'):
    run_config.task_name(None, 'dss')


def test_the_vocabulary_decides_the_embedding_where_the_model_does_not(run):
  free = dataclasses.replace(run, model=dataclasses.replace(run.model, vocab_size=None))
  known = run_config.set_up_tasks(free)
  assert known.model.vocab_size == 384  # bytes: 3 + 256 + 100 extra ids, up to a multiple of 128
  assert run_config.set_up_tasks(known) == known


def test_an_embedding_that_is_too_small_is_refused(run):
  small = dataclasses.replace(run, model=dataclasses.replace(run.model, vocab_size=64))
  with pytest.raises(ValueError, match=r'VOCAB_SIZE 64 is smaller than the vocabulary bytes'):
    run_config.set_up_tasks(small)


def test_a_users_module_registers_its_tasks(run, tmp_path, monkeypatch):
  (tmp_path / 'my_tasks_of_this_test.py').write_text('REGISTERED = True\n')
  monkeypatch.syspath_prepend(str(tmp_path))
  big = dataclasses.replace(run.model, vocab_size=384)
  run_config.set_up_tasks(dataclasses.replace(run, model=big, module='my_tasks_of_this_test'))
  import my_tasks_of_this_test

  assert my_tasks_of_this_test.REGISTERED


def test_the_folder_of_data_reaches_tfds(run, tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', 'before')
  big = dataclasses.replace(run.model, vocab_size=384)
  run_config.set_up_tasks(dataclasses.replace(run, model=big, data_dir=str(tmp_path)))
  import os

  assert os.environ['TFDS_DATA_DIR'] == str(tmp_path)


def test_the_file_is_plain_json(run):
  run_config.save_run_config(run)
  with open(f'{run.model_dir}/config.json') as file:
    values = json.load(file)
  assert values['data']['task_feature_lengths'] == {'inputs': 64, 'targets': 32}
  assert values['model']['mlp_activations'] == ['gelu', 'linear']


def test_the_vocabulary_is_kept_and_compared_by_content(run, tmp_path):
  model = tmp_path / 'moved.model'
  with vocabulary.temporary_vocabulary('embedded'):
    run_config.save_run_config(run)
    run_config.keep_vocabulary(run.model_dir, started=False)
    kept = run_config.load_run_config(run.model_dir).vocabulary
    assert pathlib.Path(kept).parent == pathlib.Path(run.model_dir)
    model.write_bytes(pathlib.Path(kept).read_bytes())
  with vocabulary.temporary_vocabulary(str(model)) as moved:
    run_config.keep_vocabulary(run.model_dir, started=True)
    assert moved.vocab_size == vocabulary.load_vocabulary('embedded').vocab_size
  with (
    vocabulary.temporary_vocabulary('bytes'),
    pytest.raises(ValueError, match=r'VOCABULARY is another one.*spiece\.model'),
  ):
    run_config.keep_vocabulary(run.model_dir, started=True)


def test_settings_of_a_folder_without_a_checkpoint_bind_nobody(run):
  run_config.save_run_config(run)
  other = dataclasses.replace(run, seed=5)
  run_config.save_run_config(other, started=False)
  assert run_config.load_run_config(run.model_dir).seed == 5


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'patience': 0}, 'patience is at least 1'),
    ({'period': -5}, 'period is at least 0'),
    ({'period': 0, 'patience': 2}, 'PATIENCE counts validations'),
    ({'batch_size': 'abc'}, "EvalConfig.batch_size is of type int, not 'abc'"),
  ],
)
def test_validation_settings_that_cannot_be_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    run_config.EvalConfig(**settings)
