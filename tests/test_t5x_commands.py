"""`dss sweep --commands=t5x`: each student's settings reach the macros of T5X's trainer."""

import dataclasses
import shlex

import gin
import pytest
from golden import make_t5x_adamw

from dss_jax import methods
from dss_jax.commands import sweep
from dss_jax.experiments import sweeping, t5x_commands
from dss_jax.launch import t5x_checks
from dss_jax.models.config import T5Config
from dss_jax.runs.run_config import RunConfig
from dss_jax.settings import statements
from dss_jax.training.optimizers import OptimizerConfig

RUN_FILE = 'runs/sweep.gin'


def arguments(tmp_path, *more):
  return [
    '--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/embedded.gin',
    f'--model_dir={tmp_path}/sweep', '--methods=standard,dss', '--equal_compute=False', *more,
  ]  # fmt: skip


def macros(line):
  return t5x_checks.macros_of(shlex.split(line)[1:])


def test_a_command_has_every_setting_of_its_student(tmp_path, capsys):
  changed = {
    'batch_size': 6, 'train_steps': 77, 'learning_rate': 0.002, 'warmup_steps': 3,
    'schedule': 'constant', 'clip_norm': None, 'weight_decay': 0.1, 'rationale_weight': 0.5,
    'z_loss': 1e-4, 'label_smoothing': 0.1, 'dropout_rate': 0.0, 'eval_period': 11,
    'eval_batch_size': 5, 'evaluator_num_examples': 9, 'num_microbatches': 3, 'log_period': 2,
    'checkpoints_to_keep': 4, 'train_split': 'train', 'eval_split': 'test', 'pack': True,
  }  # fmt: skip
  flags = [f'--{name}={value}' for name, value in changed.items()]
  grid = "--grid={'TRAIN_FRACTION': (0.5, 1.0), 'RANDOM_SEED': (3,)}"
  assert sweep.main([*arguments(tmp_path, *flags, grid), '--commands=t5x']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 4 and all(
    line.startswith('dss t5x --gin_file=t5x/models/tiny.gin ') for line in lines
  )
  found = [macros(line) for line in lines]
  for one in found:
    for name, value in changed.items():
      if name != 'batch_size':
        assert one[name.upper()] == value, name
    assert one['RANDOM_SEED'] == 3 and one['VOCABULARY'] == 'embedded'
    assert one['TASK_FEATURE_LENGTHS'] == {'inputs': 96, 'targets': 64}
    assert one['INITIAL_CHECKPOINT_PATH'] is None and one['SAVE_PERIOD'] == 11
  assert [one['TRAIN_FRACTION'] for one in found] == [0.5, 0.5, 1.0, 1.0]
  assert [one['MIXTURE_OR_TASK_NAME'] for one in found[:2]] == ['embedded_standard', 'embedded_dss']
  assert [one['METHOD'] for one in found[:2]] == ['standard', 'dss']
  assert [one['BATCH_SIZE'] for one in found[:2]] == [6, 12]
  folders = {one['MODEL_DIR'] for one in found}
  assert len(folders) == 4
  assert all(folder.startswith(f'{tmp_path}/sweep/t5x/') for folder in folders)
  assert all('--gin.network.T5Config.vocab_size=768' in line for line in lines)


@pytest.fixture(scope='module')
def command_of(tmp_path_factory):
  """The command of one student, some of whose settings are changed, by their dotted names."""
  folder = tmp_path_factory.mktemp('sweep')
  read = sweeping.read(arguments(folder, '--methods=dss'), RUN_FILE)

  def make(**changes):
    run = read.runs[0]
    for name, value in changes.items():
      *parents, last = name.split('__')
      for parent in parents:
        value = dataclasses.replace(getattr(run, parent), **{last: value})
        last = parent
      run = dataclasses.replace(run, **{last: value})
    return t5x_commands.command(read.cells[0], run)

  yield make
  gin.clear_config()


def test_only_what_differs_is_given(command_of):
  given = [word.split('=')[0] for word in command_of()]
  assert given == [
    't5x', '--gin_file', '--gin_file', '--gin.MODEL_DIR', '--gin.MIXTURE_OR_TASK_NAME',
    '--gin.TASK_FEATURE_LENGTHS', '--gin.VOCABULARY', '--gin.BATCH_SIZE',
    '--gin.INITIAL_CHECKPOINT_PATH', '--gin.network.T5Config.vocab_size',
  ]  # fmt: skip


def test_sizes_are_those_of_our_files():
  sizes = {file.stem for file in (statements.gin_root() / 't5x/models').glob('*.gin')}
  assert set(t5x_commands.SIZES) == sizes
  for size in t5x_commands.SIZES:
    values = {
      one.parameter: one.value for one in statements.of_shipped(f'models/t5_1_1/{size}.gin')
    }
    names = ('emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_decoder_layers')
    assert tuple(values[name] for name in names) == t5x_commands.SIZES[size]


def _network(size):
  emb_dim, num_heads, head_dim, mlp_dim, layers = t5x_commands.SIZES[size]
  return T5Config(32128, emb_dim, num_heads, head_dim, mlp_dim, layers, layers, dtype='bfloat16')


def test_the_released_checkpoint_is_t5xs_own(command_of):
  start = {'model': _network('base'), 'initial_checkpoint_path': 'google/t5-v1_1-base'}
  found = command_of(**start, data_dir='gs://b/data')
  assert found[1] == '--gin_file=t5x/models/base.gin' and '--tfds_data_dir=gs://b/data' in found
  assert not [word for word in found if 'T5Config' in word]
  path = 'gs://t5-data/pretrained_models/t5x/t5_1_1_base/checkpoint_1000000'
  assert t5x_checks.macros_of(found)['INITIAL_CHECKPOINT_PATH'] == path


def test_a_checkpoint_is_started_from_unless_its_state_would_be_lost(command_of, tmp_path):
  make_t5x_adamw.unpack(tmp_path)
  path = str(tmp_path / 'plain' / f'checkpoint_{make_t5x_adamw.STEP}')
  adafactor = OptimizerConfig('adafactor', 1e-3, 'constant', clip_norm=None)
  found = t5x_checks.macros_of(command_of(initial_checkpoint_path=path, optimizer=adafactor))
  assert found['INITIAL_CHECKPOINT_PATH'] == path
  with pytest.raises(ValueError, match='has the state of AdamW, with which our own trainer goes'):
    command_of(initial_checkpoint_path=path)


def test_devices_that_share_rows_and_the_type_of_activations_are_given(command_of):
  found = command_of(mesh__tensor=2, model__dtype='bfloat16')
  assert '--gin.NUM_PARTITIONS=2' in found
  assert '--gin.network.T5Config.dtype="bfloat16"' in found
  assert not [word for word in command_of(model=_network('base')) if 'dtype' in word]


def test_every_setting_is_known_to_be_given_or_refused():
  """A new part of a run's settings has to be looked at."""
  parts = {
    name
    for name, field in RunConfig.__dataclass_fields__.items()
    if dataclasses.is_dataclass(field.type)
  }
  assert parts == set(t5x_commands._HAS)


def test_adafactor_is_a_file(command_of):
  found = command_of(optimizer=OptimizerConfig('adafactor', 1e-3, 'constant', clip_norm=None))
  assert '--gin_file=t5x/adafactor.gin' in found
  assert t5x_checks.macros_of(found)['LEARNING_RATE'] == 0.001


@pytest.mark.parametrize(
  ('setting', 'value', 'said'),
  [
    ('model__emb_dim', 97, 'MODEL is none of the networks'),
    ('model__num_decoder_layers', 3, 'MODEL is none of the networks'),
    ('model__mlp_activations', ('relu',), 'MODEL is none of the networks'),
    ('eval__patience', 3, 'EvalConfig.patience is 3'),
    ('optimizer__name', 'adafactor', "OptimizerConfig.schedule is 'linear'"),
    (
      'optimizer',
      OptimizerConfig('adafactor', schedule='constant'),
      'OptimizerConfig.clip_norm is 1.0',
    ),
    (
      'optimizer',
      OptimizerConfig('adafactor', schedule='constant', clip_norm=None, warmup_steps=9),
      'OptimizerConfig.warmup_steps is 9',
    ),
    (
      'optimizer',
      OptimizerConfig('adafactor', schedule='constant', clip_norm=None, decay_rate=0.9),
      'OptimizerConfig.decay_rate is 0.9',
    ),
    ('optimizer__b1', 0.8, 'OptimizerConfig.b1 is 0.8'),
    ('optimizer__b2', 0.8, 'OptimizerConfig.b2'),
    ('optimizer__eps', 0.8, 'OptimizerConfig.eps'),
    ('optimizer__decay_steps', 9, 'the rate falls until TRAIN_STEPS there'),
    ('data__seed', 9, 'the seed of the data, 9, is RANDOM_SEED there'),
    ('mesh__fsdp', 2, 'MeshConfig.fsdp'),
    ('mesh__data', 2, 'MeshConfig.data'),
    ('model__relative_attention_max_distance', 64, 'T5Config.relative_attention_max_distance'),
    ('initial_checkpoint_path', 'runs/mine', 'no checkpoint of T5X'),
    ('initial_checkpoint_path', 'google/t5-v1_1-xl', 'no checkpoint of T5X'),
    ('data__rationale_scores', 'scores.jsonl', 'DataConfig.rationale_scores'),
    ('method', methods.get('mutual_information'), 'compares the rows of an example'),
  ],
)
def test_what_t5x_cannot_train_is_refused(command_of, setting, value, said):
  with pytest.raises(ValueError, match=r'--commands=t5x: dss: ') as error:
    command_of(**{setting: value})
  assert said in str(error.value)


def test_flags_after_the_dashes_are_for_launches(tmp_path):
  with pytest.raises(ValueError, match='takes no flags after --'):
    sweep.main([*arguments(tmp_path), '--commands=t5x', '--', '--bucket=gs://b'])
