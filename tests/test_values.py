"""What is typed on the command line, by the type of the setting that it is for."""

from collections.abc import Mapping, Sequence

import gin
import pytest

from dss_jax.settings import fields, gin_files, values
from dss_jax.settings.errors import ConfigError


@pytest.mark.parametrize(
  'text, hint, value',
  [
    ('False', bool, False),
    ('true', bool, True),
    ('none', str, 'none'),
    ('none', str | None, None),
    ('None', float | None, None),
    ('1e4', int, 10_000),
    ('10_000', int, 10_000),
    ('1e4', float, 10_000.0),
    ('1e-3', float | None, 1e-3),
    ('3', float, 3.0),
    ('best', int | str, 'best'),
    ('3', int | str, 3),
    ('2024', str, '2024'),
    ('2024', fields.Path, '2024'),
    ('true', str, 'true'),
    ("'quoted'", fields.Path | None, 'quoted'),
    ("it's", str, "it's"),
    ('', str, ''),
    ("{'inputs': 3}", Mapping[str, int], {'inputs': 3}),
    ("('standard', 'dss')", Sequence[str], ('standard', 'dss')),
    ('standard, dss', Sequence[str], ('standard', 'dss')),
    ('relu', tuple[str, ...], ('relu',)),
    ("['gelu', 'linear']", tuple[str, ...], ('gelu', 'linear')),
    ('1e-3', None, 1e-3),
    ('runs/a', None, 'runs/a'),
    ('false', None, False),
  ],
)
def test_text_becomes_a_value_of_the_settings_type(text, hint, value):
  found = gin.config.parse_value(values.gin_text('NAME', text, hint))
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize('text', ['@t5.T5Config()', '%OTHER', "{'inputs': %OTHER}", '[@a, @b()]'])
@pytest.mark.parametrize('hint', [None, Mapping[str, int], int])
def test_what_refers_to_something_is_left_to_gin(text, hint):
  assert values.gin_text('NAME', text, hint) == text


@pytest.mark.parametrize(
  'text, hint, told',
  [
    ('1.5', int, 'int'),
    ('abc', int | None, r'int \| None'),
    ('yes', bool, 'bool'),
    ('none', int, 'int'),
    ('3', Mapping[str, int], r'Mapping\[str, int\]'),
    ('true', float, 'float'),
  ],
)
def test_another_type_is_refused_with_the_name_that_was_typed(text, hint, told):
  with pytest.raises(ConfigError, match=rf"^NAME is of type {told}, not '{text}'; give a value"):
    values.gin_text('NAME', text, hint)


def test_a_bracket_that_is_not_closed_is_told():
  for text in ("{'inputs': 3", '(@a, '):
    with pytest.raises(ConfigError, match='opens a bracket that it does not close'):
      gin_files.parse(['--model_dir=a', f'--task={text}'], 'runs/evaluate.gin')


def test_a_macro_has_the_type_of_the_field_that_reads_it_and_a_binding_its_own():
  argv = ['--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/embedded_arithmetic.gin']
  typed = ['--model_dir=1', '--scan_layers=False', '--remat_policy=none', '--train_steps=1e3']
  typed += ['--gin.t5.T5Config.dtype=float32', '--clip_norm=none', '--data_dir=none']
  gin_files.parse([*argv, *typed], 'runs/train.gin')
  run = gin_files.configured('run_config.RunConfig')
  assert (run.model_dir, run.train_steps, run.optimizer.decay_steps) == ('1', 1000, 1000)
  assert (run.model.scan_layers, run.model.remat_policy, run.model.dtype) == (
    False, 'none', 'float32'
  )  # fmt: skip
  assert run.optimizer.clip_norm is None and run.data_dir is None


def test_a_macro_of_the_users_has_the_type_of_the_macro_that_is_made_of_it(tmp_path):
  (tmp_path / 'mine.gin').write_text('MINE = 3\nBETWEEN = %MINE\nTRAIN_STEPS = %BETWEEN\n')
  argv = ['--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/embedded_arithmetic.gin']
  mine = [f'--gin_file={tmp_path}/mine.gin', '--model_dir=a', '--mine=2e3']
  gin_files.parse([*argv, *mine], 'runs/train.gin')
  assert gin_files.configured('run_config.RunConfig').train_steps == 2000
  with pytest.raises(ConfigError, match=r"MINE is of type int, not 'many'"):
    gin_files.parse([*argv, *mine, '--mine=many'], 'runs/train.gin')


@pytest.fixture(autouse=True)
def _clean_gin():
  yield
  gin.clear_config()
  gin.config._LOCATION_PREFIXES[:] = ['']
