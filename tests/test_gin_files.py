"""Command lines and gin files as a user writes them, right and wrong."""

import dataclasses
import itertools

import gin
import pytest

from dss_jax.planning import programs
from dss_jax.runs import run_config
from dss_jax.settings import gin_files
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.topologies import TOPOLOGIES

RUN_FILE = 'runs/train.gin'
TINY = '--gin_file=models/t5_1_1/tiny.gin'
EMBEDDED = '--gin_file=datasets/embedded_arithmetic.gin'
COMPLETE = (TINY, EMBEDDED, '--model_dir=runs/a')


@pytest.fixture(autouse=True)
def _clean_gin():
  yield
  gin.clear_config()
  gin.config._LOCATION_PREFIXES[:] = ['']


def _run(*argv, base=COMPLETE) -> run_config.RunConfig:
  gin_files.parse([*base, *argv], RUN_FILE)
  return gin_files.configured('run_config.RunConfig')


def _write(folder, name, text):
  file = folder / name
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(text)
  return str(file)


# What a command line may say


@pytest.mark.parametrize('argument', ['--gin.BATCH_SIZE=32', '--batch_size=32', '--batch-size=32'])
def test_a_macro_is_overridden_in_long_and_short_form(argument):
  assert _run(argument).data.batch_size == 32


def test_a_value_may_follow_as_its_own_argument():
  assert _run('--train_steps', '7', '--learning_rate', '1e-3').train_steps == 7


def test_a_binding_is_overridden_by_its_name():
  assert _run('--gin.t5.T5Config.num_heads=7').model.num_heads == 7


@pytest.mark.parametrize(
  'given, value',
  [
    ('gs://bucket/spiece.model', 'gs://bucket/spiece.model'),
    ('spiece.model', 'spiece.model'),
    ("'quoted'", 'quoted'),
    ('two words', 'two words'),
    ("it's", "it's"),
    ('C:\\dir', 'C:\\dir'),
    ('a=b', 'a=b'),
  ],
)
def test_what_is_no_gin_value_is_a_string(given, value):
  assert _run(f'--vocabulary={given}').vocabulary == value


@pytest.mark.parametrize(
  'given, value', [('0.25', 0.25), ('None', None), ('1e-3', 1e-3), ('%Z_LOSS', 0.0)]
)
def test_gin_values_keep_their_type(given, value):
  assert _run(f'--alpha={given}').loss.alpha == value


def test_dictionaries_are_values_too():
  run = _run("--task_feature_lengths={'inputs': 33, 'targets': 9}")
  assert run.data.task_feature_lengths == {'inputs': 33, 'targets': 9}


def test_the_last_override_wins():
  assert _run('--batch_size=2', '--gin.BATCH_SIZE=4').data.batch_size == 4


def test_overrides_win_over_files_wherever_they_stand(tmp_path):
  file = _write(tmp_path, 'mine.gin', 'BATCH_SIZE = 5')
  assert _run('--batch_size=6', f'--gin_file={file}').data.batch_size == 6


def test_later_files_win(tmp_path):
  first = _write(tmp_path, 'first.gin', 'BATCH_SIZE = 5\nLEARNING_RATE = 0.5')
  second = _write(tmp_path, 'second.gin', 'BATCH_SIZE = 7')
  run = _run(f'--gin_file={first}', f'--gin_file={second}')
  assert (run.data.batch_size, run.optimizer.learning_rate) == (7, 0.5)


def test_search_paths_are_looked_in_before_the_files_shipped_here(tmp_path):
  _write(tmp_path / 'b', 'mine.gin', 'BATCH_SIZE = 5')
  _write(tmp_path / 'b', 'datasets/embedded_arithmetic.gin',
         "VOCABULARY = 'bytes'\nDATASET = 'other'\n"
         "TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 4}")  # fmt: skip
  run = _run(f'--gin_search_paths={tmp_path}/a,{tmp_path}/b', '--gin_file=mine.gin')
  assert (run.data.batch_size, run.data.mixture_or_task_name) == (5, 'other_dss')


def test_a_file_of_ones_own_may_include_ours(tmp_path):
  file = _write(
    tmp_path,
    'mine.gin',
    'from __gin__ import dynamic_registration\n'
    'from dss_jax.models import t5\n'
    "include 'models/t5_1_1/tiny.gin'\n"
    "include 'datasets/embedded_arithmetic.gin'\n"
    't5.T5Config.num_heads = 3\nTRAIN_STEPS = 11\nMODEL_DIR = "runs/mine"\n',
  )
  run = _run(base=[f'--gin_file={file}'])
  assert (run.model.num_heads, run.model.emb_dim, run.train_steps) == (3, 96, 11)
  assert run.model_dir == 'runs/mine' and run.data.mixture_or_task_name == 'embedded_arithmetic_dss'


def test_a_file_is_found_in_the_working_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  _write(tmp_path, 'runs/mine.gin', 'BATCH_SIZE = 5')
  assert _run('--gin_file=runs/mine.gin').data.batch_size == 5


def test_a_process_may_parse_again_and_nothing_is_left_of_the_first(tmp_path):
  _write(tmp_path, 'mine.gin', 'BATCH_SIZE = 5')
  first = _run(f'--gin_search_paths={tmp_path}', '--gin_file=mine.gin', '--alpha=0.3')
  second = _run()
  assert (first.data.batch_size, first.loss.alpha) == (5, 0.3)
  assert (second.data.batch_size, second.loss.alpha) == (16, None)
  with pytest.raises(ConfigError, match=r'mine\.gin'):
    _run('--gin_file=mine.gin')


def test_the_operative_config_repeats_the_run(tmp_path):
  run = _run('--batch_size=48', '--gin.t5.T5Config.num_heads=3', '--alpha=0.25')
  file = _write(tmp_path, 'operative.gin', gin_files.operative())
  assert _run(base=[f'--gin_file={file}']) == run


# What it may not


@pytest.mark.parametrize(
  'argument, message',
  [
    ('--batchsize=3', r'does not read the macro BATCHSIZE: did you mean .*BATCH_SIZE'),
    ('--gin.TRAIN_STEP=3', r'TRAIN_STEP: did you mean .*TRAIN_STEPS'),
    ('--xyzzy=3', r'macro XYZZY: there are ALPHA, BATCH_SIZE, .*VOCABULARY'),
    ('--gin.t5.T5Config.heads=3', r"gin: .*T5Config.*'heads'"),
    ('--gin.t5.T6Config.num_heads=3', r'gin: .*T6Config'),
    ('--gin_file=models/tiny.gin', r'gin: .*models/tiny\.gin'),
    ('batch_size=3', r"expected --name=value, not 'batch_size=3'"),
    ('--batch_size', r'--batch_size needs a value'),
    ('--mixture_or_task_name=%NOWHERE', r'no gin file defines the macro %NOWHERE; there are ALPHA'),
  ],
)
def test_mistakes_are_told_in_one_sentence(argument, message):
  with pytest.raises(ConfigError, match=message) as caught:
    _run(argument)
  assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
  'text',
  ['BATCH_SIZE = (3', 'BATCH_SIZE 3', "include 'nowhere.gin'", 'import no_such_module_here'],
)
def test_a_malformed_file_is_told_with_its_name(tmp_path, text):
  file = _write(tmp_path, 'broken.gin', f'from __gin__ import dynamic_registration\n{text}\n')
  with pytest.raises(ConfigError, match=r'^gin: ') as caught:
    _run(f'--gin_file={file}')
  assert any(part in str(caught.value) for part in ('broken.gin', 'nowhere.gin', 'no_such_module'))


@pytest.mark.parametrize(
  'left_out, message',
  [
    (TINY, r'MODEL has no value; give --gin_file=models/t5_1_1/SIZE\.gin'),
    (EMBEDDED, r'TASK_FEATURE_LENGTHS has no value; give --gin_file=datasets/NAME\.gin'),
    ('--model_dir=runs/a', r'MODEL_DIR has no value; give --model_dir=FOLDER'),
  ],
)
def test_a_required_macro_without_value_says_what_to_give(left_out, message):
  with pytest.raises(ConfigError, match=message):
    _run(base=[argument for argument in COMPLETE if argument != left_out])


def test_an_override_may_not_take_a_required_value_away():
  with pytest.raises(ConfigError, match='MODEL_DIR has no value'):
    _run('--gin.MODEL_DIR=%gin.REQUIRED')


@pytest.mark.parametrize(
  'argument, message',
  [
    ('--optimizer=sgd', r"OPTIMIZER.*'sgd'"),
    ('--alpha=3.5', r'ALPHA.*3\.5'),
    ('--num_microbatches=3', r'NUM_MICROBATCHES 3 does not divide BATCH_SIZE 16'),
    ('--train_steps=0', r'TRAIN_STEPS'),
    ("--task_feature_lengths={'inputs': 3", r'opens a bracket that it does not close'),
    ('--dataset=None', r'--gin_file=datasets/NAME\.gin'),
  ],
)
def test_what_a_dataclass_refuses_is_told_without_gins_trail(argument, message):
  with pytest.raises(ConfigError, match=message) as caught:
    _run(argument)
  assert 'configurable' not in str(caught.value)


def test_all_settings_that_are_missing_are_told_at_once():
  with pytest.raises(ConfigError) as caught:
    _run(base=[])
  told = [line.partition(' has no value; give --')[0] for line in str(caught.value).splitlines()]
  assert told == ['MODEL_DIR', 'MODEL', 'VOCABULARY', 'TASK_FEATURE_LENGTHS']


def test_a_value_of_another_type_in_a_file_is_told_with_its_macro_and_place(tmp_path):
  file = _write(tmp_path, 'mine.gin', 'PACK = True\nEVAL_PERIOD = 2.5\n')
  with pytest.raises(ConfigError, match=r'mine\.gin:2: EVAL_PERIOD is of type int, not 2\.5\.'):
    _run(f'--gin_file={file}')


@pytest.mark.parametrize('argument', ['--module=my.tasks', '--mixture_or_task_module=my.tasks'])
def test_a_module_of_the_users_has_a_long_and_a_short_form(argument):
  assert _run(argument).module == 'my.tasks'
  gin_files.parse(['--model_dir=a', argument], 'runs/predict.gin')
  assert gin_files.configured('predict.PredictConfig').module == 'my.tasks'


def test_the_home_is_put_for_the_tilde_in_every_path(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  file = _write(tmp_path, 'mine.gin', "DATA_DIR = '~/data'\n")
  run = _run(
    f'--gin_file={file}', '--model_dir=~/a', '--vocabulary=~/v', '--initial_checkpoint_path=~/c'
  )
  paths = (run.model_dir, run.vocabulary, run.initial_checkpoint_path, run.data_dir)
  assert paths == tuple(f'{tmp_path}/{name}' for name in ('a', 'v', 'c', 'data'))
  gin_files.parse(['--model_dir=~/a', '--output=~/o', '--data_dir=~/d'], 'runs/evaluate.gin')
  settings = gin_files.configured('evaluation.EvaluateConfig')
  assert (settings.model_dir, settings.output) == (f'{tmp_path}/a', f'{tmp_path}/o')
  assert settings.data_dir == f'{tmp_path}/d'


# All files that are shipped


def _names(kind):
  folder = gin_files.gin_root() / kind
  return sorted(str(f.relative_to(folder).with_suffix('')) for f in folder.rglob('*.gin'))


@pytest.mark.parametrize('model', sorted({*_names('models')} - {'pretrained'}))
def test_every_model_goes_with_every_data_set_and_method(model):
  from dss_jax.tasks import dataset_of

  combinations = list(itertools.product(_names('datasets'), _names('methods')))
  assert combinations
  for dataset, method in combinations:
    run = _run(
      f'--gin_file=models/{model}.gin',
      f'--gin_file=datasets/{dataset}.gin',
      f'--gin_file=methods/{method}.gin',
      '--vocabulary=bytes',
      '--model_dir=runs/a',
      base=(),
    )
    named, steps = ('standard', 1) if method == 'untrained' else (method, 10_000)
    assert run.data.mixture_or_task_name == f'{dataset}_{named}'
    assert dataset_of(run.data.mixture_or_task_name).name == dataset
    assert run.model.dropout_rate == 0.1 and run.train_steps == steps
    assert run.optimizer.decay_steps == (steps if run.optimizer.schedule == 'linear' else None)


def test_every_file_of_runs_parses_with_what_it_requires():
  needed = {
    'smoke': ('train', ['--gin_file=runs/smoke.gin', '--model_dir=a'], 'run_config.RunConfig'),
    'train': ('train', COMPLETE, 'run_config.RunConfig'),
    'compare': ('compare', COMPLETE, 'comparison.SweepConfig'),
    'sweep': ('sweep', COMPLETE, 'comparison.SweepConfig'),
    'evaluate': ('evaluate', ['--model_dir=a'], 'evaluation.EvaluateConfig'),
    'predict': ('predict', ['--model_dir=a'], 'predict.PredictConfig'),
    'serve': ('serve', ['--model_dir=a'], 'serve.ServeConfig'),
    'plan': ('plan', [TINY, '--topology=v5e-8'], 'plan.PlanConfig'),
  }
  assert set(needed) == set(_names('runs')) - {'student'}  # which evaluate and predict include
  for verb, argv, selector in needed.values():
    gin_files.parse(argv, f'runs/{verb}.gin')
    assert dataclasses.is_dataclass(gin_files.configured(selector))


def test_gin_is_a_folder_of_data(repository):
  """An __init__.py would shadow the library of that name."""
  assert not list((repository / 'gin').rglob('*.py'))


def test_the_entry_point_holds_no_configurable(repository):
  """`python -m` would register it twice, and ignore its bindings."""
  text = (repository / 'dss_jax' / '__main__.py').read_text()
  assert not any(line.startswith(('class ', 'def ', '@')) for line in text.splitlines())


# Topologies, and what T5X's users have in their files


@pytest.mark.parametrize('name', TOPOLOGIES)
def test_every_topology_has_a_mesh_of_all_its_devices(name):
  run = _run(f'--topology={name}')
  assert programs.mesh_sizes(run.mesh, TOPOLOGIES[name])
  assert gin_files.macros()['TOPOLOGY'] == name


def test_topologies_that_a_job_can_be_planned_for():
  assert set(TOPOLOGIES) >= {
    'cpu', 'gpu', 'v3-8', 'v4-8', 'v4-64', 'v5e-8', 'v5e-64', 'v5p-8', 'v5p-64', 'v6e-8', 'v6e-64'
  }  # fmt: skip


def test_what_the_command_line_says_wins_over_a_topology(tmp_path):
  file = _write(tmp_path, 'mine.gin', 'MESH_TENSOR = 2')
  for arguments in (
    ('--topology=v5e-8', f'--gin_file={file}', '--mesh_fsdp=4'),
    (f'--gin_file={file}', '--mesh_fsdp=4', '--topology=v5e-8'),
  ):
    mesh = _run(*arguments).mesh
    assert (mesh.data, mesh.fsdp, mesh.tensor) == (1, 4, 2)


def test_an_unknown_topology_is_answered_with_a_near_one():
  with pytest.raises(ValueError, match=r"no topology 'v5litepod-8': did you mean v5e-8\?"):
    _run('--topology=v5litepod-8')


def test_a_tilde_is_the_home_folder_in_files_and_search_paths(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'steps.gin').write_text("include '~/mine/batch.gin'\nTRAIN_STEPS = 77\n")
  (tmp_path / 'mine' / 'batch.gin').write_text('BATCH_SIZE = 33\n')
  run = _run('--gin_file=~/mine/steps.gin', '--data_dir=~/data')
  assert (run.train_steps, run.data.batch_size) == (77, 33)
  assert run.data_dir == f'{tmp_path}/data'
  assert _run('--gin_file=steps.gin', '--gin_search_paths=/nowhere,~/mine').train_steps == 77
  assert _run('--vocabulary=~/x.model').vocabulary == f'{tmp_path}/x.model'
  with pytest.raises(ConfigError, match=r'~/nothing\.gin'):
    _run('--gin_file=~/nothing.gin')
