"""Settings that nobody reads: refused with file, line and near names, or noted for other verbs."""

import sys

import gin
import pytest

from dss_jax.settings import gin_files, unread
from dss_jax.settings.errors import ConfigError

TRAIN = (
  '--gin_file=models/t5_1_1/tiny.gin',
  '--gin_file=datasets/embedded_arithmetic.gin',
  '--model_dir=a',
)
VERBS = {
  'train': TRAIN,
  'compare': TRAIN,
  'sweep': TRAIN,
  'plan': (*TRAIN, '--topology=v5e-8'),
  'evaluate': ('--model_dir=a',),
  'predict': ('--model_dir=a',),
}


@pytest.fixture(autouse=True)
def _clean():
  gin_files._print_once.cache_clear()
  yield
  gin.clear_config()
  gin.config._LOCATION_PREFIXES[:] = ['']


@pytest.fixture
def parse(tmp_path):
  """Parses a file of the user's with a verb's other arguments; returns the file's name."""

  def run(text, verb='train', arguments=None):
    file = tmp_path / 'mine.gin'
    first = 'from __gin__ import dynamic_registration\n'
    file.write_text(text if first in text else first + text)
    given = VERBS[verb] if arguments is None else arguments
    gin_files.parse([*given, f'--gin_file={file}'], f'runs/{verb}.gin')

  return run


@pytest.mark.parametrize(
  'text, line, told',
  [
    ('LEARNING_RAT = 1e-3', 2, r'LEARNING_RAT: did you mean .*LEARNING_RATE'),
    ('TRAIN_STEPS = 5\n\nTRAIN_STEP = 7', 4, r'TRAIN_STEP: did you mean .*TRAIN_STEPS'),
    ('XYZZY = 3', 2, r'XYZZY: there are ALPHA, BATCH_SIZE, .*Z_LOSS\.'),
    ('MINE = 1\nXYZZY = %MINE', 3, r'XYZZY: there are'),
    ('train/BATCH_SIZE = 3', 2, r'train/BATCH_SIZE: did you mean .*BATCH_SIZE'),
  ],
)
def test_a_macro_of_a_file_that_nobody_reads_is_refused(parse, text, line, told):
  with pytest.raises(
    ConfigError, match=rf'mine\.gin:{line}: `dss train` does not read the macro {told}'
  ):
    parse(text)


@pytest.mark.parametrize('name', ['CHECKPOINT_PERIOD', 'ACTIVATION_DTYPE', 'BASE_LEARNING_RATE'])
def test_a_macro_of_t5x_is_answered_in_a_file_and_on_the_command_line(parse, name):
  answer = rf'{name} is a macro of T5X; here [A-Z_]+ is'
  with pytest.raises(ConfigError, match=rf'mine\.gin:2: {answer}'):
    parse(f'{name} = None')
  with pytest.raises(ConfigError, match=rf'the command line: {answer}'):
    gin_files.parse([*TRAIN, f'--{name.lower()}=None'], 'runs/train.gin')


def test_a_macro_of_t5x_that_a_file_itself_reads_is_left_alone(parse):
  parse('LEARNING_RATE = %BASE_LEARNING_RATE\nBASE_LEARNING_RATE = 0.25')
  assert gin_files.configured('run_config.RunConfig').optimizer.learning_rate == 0.25


@pytest.mark.parametrize(
  'text, told',
  [
    ('from dss_jax.models import t5\nt5.T5Config.num_head = 3', r'(?s)num_head.*mine\.gin.*line 3'),
    ('from dss_jax.models import t5\nt5.T6Config.x = 3', r'(?s)T6Config.*mine\.gin.*line 3'),
    (
      'import fractions\nfractions.Fraction.numerator = 3',
      r'mine\.gin:3: `dss train` does not build fractions\.Fraction, so nothing reads numerator',
    ),
    (
      'from dss_jax.models import t5\nteacher/t5.T5Config.num_heads = 3',
      r'mine\.gin:3: `dss train` does not build teacher/dss_jax\.models\.t5\.T5Config',
    ),
  ],
)
def test_a_binding_without_effect_is_refused(parse, text, told):
  with pytest.raises(ConfigError, match=told):
    parse(text)


def test_what_a_users_value_refers_to_is_built_and_its_macros_are_read(parse):
  parse(
    'from dss_jax.models import t5\n'
    'MODEL = @big/t5.T5Config()\n'
    'big/t5.T5Config.num_heads = %HEADS\nHEADS = %FEW\nFEW = 3'
  )
  assert gin_files.configured('run_config.RunConfig').model.num_heads == 3


def test_functions_that_register_themselves_may_be_called_by_any_code(parse, tmp_path, monkeypatch):
  module = 'import gin\n@gin.configurable\ndef cut(length=3):\n  return length\n'
  (tmp_path / 'my_cutting.py').write_text(module)
  monkeypatch.syspath_prepend(tmp_path)
  parse('import my_cutting\nmy_cutting.cut.length = %CUT\nCUT = 7')
  assert sys.modules['my_cutting'].cut() == 7


@pytest.mark.parametrize('verb', VERBS)
def test_every_shipped_file_goes_with_every_verb_without_a_word(verb, capsys):
  root = gin_files.gin_root()
  files = [file.relative_to(root) for file in root.rglob('*.gin') if file.parent.name != 'runs']
  files = [file for file in files if file.parts[0] != 't5x']  # of another program
  assert len(files) > 20
  for file in files:
    argv = [*VERBS[verb], f'--gin_file={file}', '--initial_checkpoint_path=x']
    if verb in ('evaluate', 'predict'):
      argv.pop()
    gin_files.parse(argv, f'runs/{verb}.gin')
  assert capsys.readouterr().err == ''


def test_one_file_serves_several_verbs_with_a_note_on_what_a_verb_does_not_read(parse, capsys):
  text = (
    'from dss_jax.inference import decoding\n'
    "BATCH_SIZE = 8\nDECODING = 'beam'\nBEAMS = 2\ndecoding.Decoding.max_length = 9\n"
    'LEARNING_RATE = 1e-3\nPACK = False\nRANDOM_SEED = 3\nTRAIN_STEPS = 5\n'
  )
  parse(text)
  told = capsys.readouterr().err
  assert told.count('\n') == 1 and 'LEARNING_RATE' not in told
  assert '`dss train` does not read DECODING, BEAMS, dss_jax.inference.decoding' in told
  assert gin_files.configured('run_config.RunConfig').data.batch_size == 8
  parse(text, 'evaluate')
  told = capsys.readouterr().err
  assert '`dss evaluate` does not read LEARNING_RATE, PACK, TRAIN_STEPS; other' in told
  assert gin_files.configured('evaluation.EvaluateConfig').decoding.method == 'beam'


def test_the_note_on_a_runs_own_configuration_is_one_line(parse, capsys):
  gin_files.parse(TRAIN, 'runs/train.gin')
  gin_files.configured('run_config.RunConfig')
  parse(gin_files.operative(), 'evaluate')
  told = capsys.readouterr().err
  assert (
    told.count('\n') == 1 and f' {unread.MOST_NAMED} more' not in told and 'more; other' in told
  )


@pytest.mark.parametrize('argument', ['--learning_rate=1', '--gin.losses.LossConfig.z_loss=1'])
def test_the_command_line_takes_only_what_its_verb_reads(argument):
  told = 'does not read the macro LEARNING_RATE, which other verbs read: |does not build losses'
  with pytest.raises(ConfigError, match=f'the command line: `dss evaluate` ({told})'):
    gin_files.parse(['--model_dir=a', argument], 'runs/evaluate.gin')


def test_a_macro_that_a_later_file_overrides_is_still_read(parse):
  text = (
    'from dss_jax.models import t5\nMODEL = @other/t5.T5Config()\nother/t5.T5Config.mlp_dim = 8'
  )
  parse(text, arguments=TRAIN)
  gin_files.parse([*TRAIN, '--model=@t5.T5Config()'], 'runs/train.gin')
  assert gin_files.configured('run_config.RunConfig').model.mlp_dim == 192  # tiny's own
