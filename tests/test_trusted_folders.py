"""Folders of others: none of their code runs, whatever they name; what is damaged is told."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import run_folders

from dss_jax import cli
from dss_jax.commands import evaluate, export_weights, predict
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import arguments, gin_files
from dss_jax.settings.errors import ConfigError

EVIL = "import pathlib\npathlib.Path('ran').touch()\n"


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A run of a tiny student."""
  return pathlib.Path(run_folders.make_run(tmp_path_factory.mktemp('trust') / 'run', steps=(1,)))


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
  """The run as a stranger gives it away: it names a module, which lies beside it, and gin code."""
  folder = tmp_path / 'run'
  shutil.copytree(made, folder)
  values = RunFolder(folder).load_values()
  RunFolder(folder).save_values({**values, 'module': 'evil_module_of_a_stranger'})
  (folder / 'config.gin').write_text('import evil_module_of_a_stranger\n')
  (tmp_path / 'evil_module_of_a_stranger.py').write_text(EVIL)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.delitem(sys.modules, 'evil_module_of_a_stranger', raising=False)
  return folder


def ran(folder: pathlib.Path) -> bool:
  return (folder.parent / 'ran').exists()


def evaluation(folder, *more):
  return evaluate.main([f'--model_dir={folder}', '--batch_size=8', '--num_examples=2', *more])


def test_evaluate_says_which_module_a_run_wants_and_stops(folder, capsys):
  with pytest.raises(ValueError, match=r'if you trust it, give --module=evil_module_of_a_stranger'):
    evaluation(folder)
  assert not ran(folder)
  assert evaluation(folder, '--module=evil_module_of_a_stranger') == 0
  assert ran(folder)


def test_predict_needs_no_module(folder, capsys):
  assert predict.main([f'--model_dir={folder}', '--input=x', '--batch_size=8']) == 0
  assert not ran(folder) and '"input": "x"' in capsys.readouterr().out


def test_predict_of_a_run_without_a_method_asks_for_the_module(folder):
  RunFolder(folder).save_values({**RunFolder(folder).load_values(), 'method': None})
  with pytest.raises(ValueError, match=r'if you trust it, give --module='):
    predict.main([f'--model_dir={folder}', '--input=x'])
  assert not ran(folder)


def test_export_writes_the_card_without_the_module(folder, tmp_path, capsys):
  def export(output, *more):
    return export_weights.main(
      ['--to=hf', f'--checkpoint={folder}', f'--output={tmp_path / output}', *more]
    )

  assert export('without') == 0
  assert 'give --module=evil_module_of_a_stranger' in capsys.readouterr().err
  assert 'import evil_module' in (tmp_path / 'without' / 'README.md').read_text()  # shown, not run
  assert not ran(folder)
  assert export('with', '--module=evil_module_of_a_stranger') == 0
  assert ran(folder)


def test_a_run_is_continued_with_the_module_that_it_had(folder, made):
  """The module is compared as a setting; only reading a run to use it leaves it out."""
  run = RunFolder(folder).load_settings()
  assert run.module is None
  with pytest.raises(ValueError, match="module: 'evil_module_of_a_stranger' -> None"):
    RunFolder(folder).check_same_run(run)


# ---------------------------------------------------------------- the working directory


def test_a_module_is_named_as_import_takes_it():
  for name in ('', '.x', '../x', 'x.py/y', 'x y', '-'):
    with pytest.raises(ConfigError, match=r'is the name of a module'):
      arguments.import_modules([name])
  with pytest.raises(ImportError, match='no_such_module_here'):
    arguments.import_modules(['no_such_module_here'])


def test_the_working_directory_is_searched_last(tmp_path, monkeypatch):
  """A module of one's own is found there, and a file named like a library replaces nothing."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  (tmp_path / 'my_module_of_this_test.py').write_text('HERE = True\n')
  (tmp_path / 'tabnanny.py').write_text(EVIL)  # of the standard library, imported by nobody here
  assert 'tabnanny' not in sys.modules
  arguments.import_modules(['my_module_of_this_test', 'tabnanny'])
  assert sys.modules['my_module_of_this_test'].HERE
  assert sys.path[-1] == str(tmp_path)
  assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
  'command', ['-m dss_jax', '-c "import sys; from dss_jax import cli; sys.exit(cli.main())"']
)
def test_files_named_like_libraries_do_not_replace_them(tmp_path, repository, command):
  for name in ('seqio', 'yaml', 'gin', 'tensorflow', 'numpy', 'absl', 'etils'):
    (tmp_path / f'{name}.py').write_text(EVIL)
  environment = {**os.environ, 'PYTHONPATH': str(repository)}
  if command.startswith('-c'):
    environment['PYTHONSAFEPATH'] = '1'  # as the program `dss`, which is not in this folder
  line = f'"{sys.executable}" {command} evaluate --model_dir=nowhere'
  done = subprocess.run(
    ['sh', '-c', line], cwd=tmp_path, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 2 and 'nowhere holds no run' in done.stderr
  assert not (tmp_path / 'ran').exists()


def test_the_gin_file_of_a_verb_is_ours_whatever_lies_in_the_working_directory(
  tmp_path, monkeypatch
):
  for name in ('evaluate', 'student'):
    (tmp_path / 'runs').mkdir(exist_ok=True)
    (tmp_path / 'runs' / f'{name}.gin').write_text('import evil_module_of_gin\n')
  (tmp_path / 'evil_module_of_gin.py').write_text(EVIL)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  gin_files.parse(['--model_dir=x'], 'runs/evaluate.gin')
  assert gin_files.configured('evaluation.EvaluateConfig').model_dir == 'x'
  assert not (tmp_path / 'ran').exists()
  # A gin file that the command line names is a program of the user's.
  gin_files.parse(['--model_dir=x', '--gin_file=runs/student.gin'], 'runs/evaluate.gin')
  assert (tmp_path / 'ran').exists()


# ---------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    ('train_steps', '5', "RunConfig.train_steps is of type int, not '5'"),
    ('train_steps', 2.5, 'RunConfig.train_steps is of type int, not 2.5'),
    ('train_steps', True, 'RunConfig.train_steps is of type int, not True'),
    ('module', ['os'], 'RunConfig.module is of type str | None, not a list'),
    ('model', 3, 'expected the fields of T5Config, not 3'),
    ('model', None, 'expected the fields of T5Config, not None'),
    ('model.num_heads', '2', "T5Config.num_heads is of type int, not '2'"),
    ('model.num_heads', 0, 'T5Config.num_heads is at least 1 and below 2^31, not 0'),
    ('model.num_heads', 10**30, 'T5Config.num_heads is at least 1 and below 2^31'),
    ('model.dropout_rate', float('nan'), 'T5Config.dropout_rate is a finite number, not nan'),
    ('model.mlp_activations', 'gelu', 'T5Config.mlp_activations is of type tuple[str, ...], not'),
    ('model.mlp_activations', [1], 'T5Config.mlp_activations is of type str, not 1'),
    ('model.no_such', 1, "T5Config has no field 'no_such'; another version wrote it"),
    ('data.task_feature_lengths', [], 'DataConfig.task_feature_lengths is of type Mapping'),
    ('data.task_feature_lengths.inputs', 'x', "['inputs'] is of type int, not 'x'"),
    ('method.rows', [{}], "the field 'input' of Row is missing"),
    ('optimizer.name', 'x' * 500, "'adafactor'), not 'xxx"),
  ],
)
def test_a_setting_of_another_type_is_named_with_its_file(made, tmp_path, path, value, message):
  values = RunFolder(made).load_values()
  inner, *names = values, *path.split('.')
  for name in names[:-1]:
    inner = inner[name]
  inner[names[-1]] = value
  RunFolder(tmp_path).save_values(values)
  with pytest.raises(ConfigError) as caught:
    RunFolder(tmp_path).load_settings()
  assert str(caught.value).startswith(f'{tmp_path}/config.json: ')
  assert message in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (b'[' * 100_000, 'it is nested too deeply'),
    (b'{"seed": ' + b'9' * 5000 + b'}', 'is not JSON: Exceeds the limit'),
    (b'[]', 'is a list; expected a JSON object, {"name": value, ..}.'),
    (b'{"seed": 1', 'is not JSON'),
    ('{"seed": "é"}'.encode('cp1252'), 'is not UTF-8 text: byte 10 is wrong'),
    ('{}'.encode('utf-16'), 'is not UTF-8 text'),
  ],
)
def test_a_file_that_is_no_json_of_ours_is_named(tmp_path, text, message):
  RunFolder(tmp_path).settings_file.write_bytes(text)
  with pytest.raises(ConfigError) as caught:
    RunFolder(tmp_path).load_settings()
  assert 'config.json' in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize('line', ['{', '[]', '{"kind": "train"}', '{"step": "1", "kind": "train"}'])
def test_a_row_of_metrics_that_is_none_is_named_by_its_line(tmp_path, line):
  good = '{"step": 1, "kind": "train"}'
  RunFolder(tmp_path).metrics_file.write_text(f'{good}\n{line}\n')
  with pytest.raises(ValueError, match=r'metrics\.jsonl, line 2'):
    RunFolder(tmp_path).metric_rows()


def test_a_json_file_that_is_no_summary_is_no_evaluation(tmp_path):
  good = {
    'task': 'a', 'split': 'test', 'step': 1, 'examples': 2, 'metrics': {'accuracy': 0.5},
    'decoding': {'method': 'greedy'},
  }  # fmt: skip
  (tmp_path / 'good_1.json').write_text(json.dumps(good))
  for name, change in (
    ('a', {'metrics': []}), ('b', {'metrics': {'x': 'y'}}), ('c', {'decoding': None}),
    ('d', {'step': '1'}), ('e', {'task': 3}), ('f', {'decoding': {'method': 1}}),
  ):  # fmt: skip
    (tmp_path / f'{name}_1.json').write_text(json.dumps({**good, **change}))
  assert [found.summary for found in RunFolder(tmp_path).evaluations(1)] == [good]


# ---------------------------------------------------------------- compiled programs


def test_compiled_programs_of_others_are_not_loaded(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '')
  monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  folder = cli._cache_folder()
  folder.mkdir(parents=True)
  (folder / 'x-cache').touch()
  folder.chmod(0o777)
  cli._cache_compiled_programs()
  assert folder.stat().st_mode & 0o777 == 0o700 and not list(folder.iterdir())
  assert os.environ['JAX_COMPILATION_CACHE_DIR'] == str(folder)
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '')
  monkeypatch.setattr(os, 'getuid', lambda: 12345)
  cli._cache_compiled_programs()
  assert os.environ['JAX_COMPILATION_CACHE_DIR'] == ''
  assert 'belongs to somebody else' in capsys.readouterr().err
