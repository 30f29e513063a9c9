"""What is typed on the command line, by the type of the setting that it is for."""

import re
from collections.abc import Mapping, Sequence

import fuzzing
import gin
import pytest
from hypothesis import strategies

from dss_jax.settings import fields, gin_files, values
from dss_jax.settings.errors import ConfigError


@pytest.mark.parametrize('text', ['10k', '1.5.2', '3 4', '1\nTRAIN_STEPS = 3', "'a' b"])
def test_what_only_starts_like_a_value_is_a_text(text):
  assert values.gin_text('X', text) == repr(text)


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
    (' 5 ', int, 5),
    ('1.0e3', int, 1000),
    ('null', str, 'null'),
    ('none', fields.Path | None, None),
    ('./none', fields.Path, './none'),
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
    ('10k', int, 'int'),
    ('1e999', int, 'int'),
    ('1e999', float, 'float'),
    ('inf', float, 'float'),
    ('nan', float | None, r'float \| None'),
    ('null', int | None, r'int \| None'),
    ('', int | None, r'int \| None'),
    ('', float, 'float'),
    ('1,000', int, 'int'),
    ('05', int, 'int'),
    ('5', Sequence[int], r'Sequence\[int\]'),
    ("{'inputs': 3.5}", Mapping[str, int], r'Mapping\[str, int\]'),
    ("{'inputs': '3'}", Mapping[str, int], r'Mapping\[str, int\]'),
    ('{3: 3}', Mapping[str, int], r'Mapping\[str, int\]'),
    ('[1, 2]', Sequence[str], r'Sequence\[str\]'),
  ],
)
def test_another_type_is_refused_with_the_name_that_was_typed(text, hint, told):
  with pytest.raises(
    ConfigError, match=rf'^NAME is of type {told}, not {re.escape(repr(text))}; give (a value|True)'
  ):
    values.gin_text('NAME', text, hint)


@pytest.mark.parametrize('text', ['yes', 'no', 'on', 'off', '1', '0', ''])
def test_only_true_and_false_are_true_and_false(text):
  with pytest.raises(ConfigError, match=f"^PACK is of type bool, not '{text}'; give True or False"):
    values.gin_text('PACK', text, bool)


@pytest.mark.parametrize(
  ('text', 'hint'),
  [('', fields.Path), ('', fields.Path | None), (' ', fields.Path), ('None', fields.Path)],
)
def test_an_empty_variable_of_a_shell_is_no_path(text, hint):
  """`--model_dir=$UNSET` would be the working directory."""
  with pytest.raises(ConfigError, match=f"^MODEL_DIR is a path, not '{text}'"):
    values.gin_text('MODEL_DIR', text, hint)


@pytest.mark.parametrize(
  ('typed', 'told'),
  [
    ('--train_steps=-5', 'TRAIN_STEPS is at least 1, not -5'),
    ('--train_steps_relative=0', 'TRAIN_STEPS_RELATIVE is at least 1, not 0'),
    ('--warmup_steps=-1', 'WARMUP_STEPS'),
    ('--learning_rate=-1', 'LEARNING_RATE'),
    ('--weight_decay=-0.1', 'WEIGHT_DECAY'),
    ('--clip_norm=0', 'CLIP_NORM'),
    ('--random_seed=-1', 'RANDOM_SEED'),
    ('--random_seed=1e30', 'RANDOM_SEED'),
    ('--eval_period=-1', 'EVAL_PERIOD'),
    ('--eval_batch_size=0', 'EVAL_BATCH_SIZE'),
    ('--max_decode_length=0', 'MAX_DECODE_LENGTH'),
    ('--evaluator_num_examples=0', 'EVALUATOR_NUM_EXAMPLES'),
    ('--patience=0', 'PATIENCE'),
    ('--log_period=0', 'LOG_PERIOD'),
    ('--batch_size=-8', 'BATCH_SIZE'),
    ('--num_microbatches=0', 'NUM_MICROBATCHES'),
    ('--dropout_rate=1', 'DROPOUT_RATE'),
    ('--remat_policy=None', 'REMAT_POLICY'),
    ('--dtype=none', 'DTYPE'),
    ('--label_smoothing=1', 'LABEL_SMOOTHING'),
  ],
)
def test_a_number_out_of_range_is_refused_with_the_macro_that_was_typed(typed, told):
  argv = ['--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/embedded_arithmetic.gin']
  gin_files.parse([*argv, '--model_dir=a', typed], 'runs/train.gin')
  with pytest.raises(ConfigError, match=told):
    gin_files.configured('run_config.RunConfig')


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


HINTS = (None, int, float | None, bool, str, fields.Path, Mapping[str, int], Sequence[str])
TYPED = strategies.text() | strategies.text('0123456789.eE+-_,[]{}()\'": naifNoe', max_size=12)


@fuzzing.fuzz(TYPED, strategies.sampled_from(HINTS))
def test_whatever_is_typed_is_a_value_of_its_type_or_refused(text, hint):
  with fuzzing.may_refuse():
    line = values.gin_text('NAME', text, hint)
    if hint is not None and line != text:
      assert fields.fits(gin.config.parse_value(line), hint)
