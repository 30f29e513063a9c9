"""A run's settings: what is refused, and how a process is set up by them."""

import dataclasses

import pytest
from small_runs import untrained_run

from dss_jax import methods
from dss_jax.runs import run_config


@pytest.fixture
def run(tmp_path):
  return untrained_run(tmp_path / 'run')


def test_every_setting_that_may_change_is_one(run):
  run = dataclasses.replace(run, method=methods.get('dss'))
  names = set()
  for field in dataclasses.fields(run):
    value = getattr(run, field.name)
    inner = dataclasses.fields(value) if dataclasses.is_dataclass(value) else []
    names |= {f'{field.name}.{part.name}' for part in inner} or {field.name}
  assert set(run_config.MAY_CHANGE_ON_RESUME) <= names


@pytest.mark.parametrize('given', [0, 10**30])
@pytest.mark.parametrize('name', ['train_steps', 'num_microbatches', 'log_period', 'save_period'])
def test_counts_are_positive_and_have_31_bits(run, name, given):
  with pytest.raises(
    ValueError, match=rf'{name} \({name.upper()}\) is at least 1 and below 2\^31, not '
  ):
    dataclasses.replace(run, **{name: given})


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


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'max_decode_length': 10**30}, r'\(MAX_DECODE_LENGTH\) is at least 1 and below 2\^31, not 1'),
    ({'patience': 0}, r'patience \(PATIENCE\) is at least 1'),
    ({'period': -5}, r'period \(EVAL_PERIOD\) is at least 0'),
    ({'period': 0, 'patience': 2}, 'PATIENCE counts validations'),
    ({'batch_size': 'abc'}, "EvalConfig.batch_size is of type int, not 'abc'"),
  ],
)
def test_validation_settings_that_cannot_be_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    run_config.EvalConfig(**settings)


def _method_of(run, name, method=None):
  """The method of a run on a mixture, once its tasks are set up."""
  run = dataclasses.replace(
    run,
    method=method,
    model=dataclasses.replace(run.model, vocab_size=None),
    data=dataclasses.replace(run.data, mixture_or_task_name=name),
  )
  return run_config.set_up_tasks(run).method


def test_the_method_is_the_mixtures_unless_it_is_given(run):
  assert _method_of(run, 'embedded_arithmetic_teacher_standard').name == 'teacher_standard'
  assert _method_of(run, 'nobodys_task').name == 'dss'
  assert _method_of(run, 'nobodys_task', methods.get('standard')).name == 'standard'
  with pytest.raises(ValueError, match=r'METHOD is dss, but .* is of standard'):
    _method_of(run, 'embedded_arithmetic_standard', methods.get('dss'))
