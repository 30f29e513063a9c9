"""The program's surface: verbs, exit codes, and errors as one line."""

import importlib
import os
import pathlib
import subprocess
import sys
import time
import types

import google.auth.exceptions
import pytest
import tensorflow as tf

from dss_jax import cli


@pytest.fixture
def verb(monkeypatch):
  """Gives `train` a stand-in for its module; returns the arguments that it was called with."""
  calls = []

  def install(result):
    def main(argv):
      calls.append(argv)
      if isinstance(result, Exception):
        raise result
      return result

    module = types.SimpleNamespace(main=main)
    monkeypatch.setattr(importlib, 'import_module', {'dss_jax.commands.train': module}.__getitem__)
    return calls

  monkeypatch.delenv('DSS_TRACEBACK', raising=False)
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'unused')  # which leaves the environment as it is
  return install


@pytest.mark.parametrize('argv', [[], ['--help'], ['-h']])
def test_help_lists_every_verb(argv, capsys):
  assert cli.main(argv) == 0
  text = capsys.readouterr().out
  assert all(f'\n  {name} ' in text for name in cli.VERBS)


def test_every_verb_has_a_module_with_main():
  for name in cli.VERBS:
    assert callable(importlib.import_module(cli.module_of(name)).main), name


def test_an_unknown_verb_is_refused_with_the_list(capsys):
  assert cli.main(['trian']) == 2
  error = capsys.readouterr().err
  assert "no verb 'trian'" in error and 'train' in error


def test_arguments_and_exit_code_pass_through(verb):
  calls = verb(3)
  assert cli.main(['train', '--model_dir=x']) == 3
  assert calls == [['--model_dir=x']]


@pytest.mark.parametrize(
  'error',
  [
    ValueError('BATCH_SIZE 3 is odd.'),
    FileNotFoundError('no a'),
    tf.errors.PermissionDeniedError(None, None, 'no access to gs://bucket'),
    google.auth.exceptions.DefaultCredentialsError('no credentials'),
  ],
)
def test_a_users_error_is_one_line(verb, capsys, error):
  verb(error)
  assert cli.main(['train']) == 2
  assert capsys.readouterr().err == f'dss train: {error}\n'


def test_what_may_pass_has_a_code_of_its_own_and_is_one_line(verb, capsys):
  verb(BrokenPipeError('the bucket went away'))  # while standard output is read
  assert cli.main(['train']) == 74
  assert capsys.readouterr().err == 'dss train: the bucket went away\n'


def test_a_users_error_has_a_traceback_on_request(verb, monkeypatch):
  verb(ValueError('BATCH_SIZE 3 is odd.'))
  monkeypatch.setenv('DSS_TRACEBACK', '1')
  with pytest.raises(ValueError, match='BATCH_SIZE'):
    cli.main(['train'])


def test_our_own_mistakes_keep_their_traceback(verb):
  verb(KeyError('x'))
  with pytest.raises(KeyError):
    cli.main(['train'])


def test_python_m_and_the_program_are_the_same():
  run = [sys.executable, '-m', 'dss_jax', '--help']
  text = subprocess.run(run, check=True, capture_output=True, text=True).stdout
  assert text == cli._usage() + '\n'


def test_help_needs_neither_jax_nor_tensorflow():
  code = 'import sys, dss_jax.cli as c; c.main([]); print({"jax", "tensorflow"} & set(sys.modules))'
  run = [sys.executable, '-c', code]
  assert subprocess.run(run, check=True, capture_output=True, text=True).stdout.endswith('set()\n')


@pytest.mark.parametrize('argv', [['prepare', '--help'], ['train', '--help']])
def test_help_of_a_verb_needs_neither_jax_nor_tensorflow(argv):
  code = (
    'import atexit, sys, dss_jax.cli as c\n'
    'atexit.register(lambda: print({"jax", "tensorflow"} & set(sys.modules)))\n'
    f'c.main({argv})\n'
  )
  run = [sys.executable, '-c', code]
  text = subprocess.run(run, check=True, capture_output=True, text=True).stdout
  assert '--' in text and text.endswith('set()\n')


@pytest.fixture
def cache_variables(monkeypatch):
  """The environment as of a user who has set nothing."""
  for name in ('JAX_COMPILATION_CACHE_DIR', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'):
    monkeypatch.setenv(name, '')  # so that it is put back
    monkeypatch.delenv(name)
  return monkeypatch


def test_compiled_programs_are_kept_in_the_users_cache_and_old_ones_deleted(
  cache_variables, tmp_path
):
  cache_variables.setenv('XDG_CACHE_HOME', str(tmp_path))
  folder = cli._cache_folder()
  assert folder.is_relative_to(tmp_path / 'dss_jax')
  folder.mkdir(parents=True)
  folder.chmod(0o700)
  for name, days in (('old-cache', cli.CACHE_DAYS + 1), ('new-cache', 1), ('old-note', 1000)):
    (folder / name).touch()
    used = time.time() - days * 86_400
    os.utime(folder / name, (used, used))
  cli._cache_compiled_programs()
  assert os.environ['JAX_COMPILATION_CACHE_DIR'] == str(folder)
  assert sorted(file.name for file in folder.iterdir()) == ['new-cache', 'old-note']


def test_without_a_home_that_can_be_written_nothing_is_kept(cache_variables, tmp_path):
  (tmp_path / 'file').touch()
  cache_variables.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  cli._cache_compiled_programs()
  assert 'JAX_COMPILATION_CACHE_DIR' not in os.environ


def test_another_processor_has_another_folder(monkeypatch):
  here = cli._cache_folder()
  read = pathlib.Path.read_text
  other = lambda path: 'flags : fpu sse\n' if str(path) == '/proc/cpuinfo' else read(path)  # noqa: E731
  monkeypatch.setattr(pathlib.Path, 'read_text', other)
  assert cli._cache_folder() != here
  assert cli._cache_folder().parent == here.parent


def test_a_folder_of_the_users_choice_is_left_alone(cache_variables, tmp_path):
  (tmp_path / 'old-cache').touch()
  os.utime(tmp_path / 'old-cache', (0, 0))
  cache_variables.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
  cli._cache_compiled_programs()
  assert (tmp_path / 'old-cache').exists()
  assert 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ


def run(*argv, path):
  """Runs the program as a user does, with a folder of its own at the front of sys.path."""
  environment = {**os.environ, 'PYTHONPATH': str(path)}
  environment.pop('TF_CPP_MIN_LOG_LEVEL', None)
  command = [sys.executable, '-m', 'dss_jax', *argv]
  return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_the_terminal_shows_our_lines_only(tmp_path):
  """No start-up lines of TensorFlow, and none for each tokenizer that tf.text makes."""
  model = tmp_path / 'a.model'
  done = run(
    'vocab', '--task=embedded_arithmetic_label', f'--output={model}', '--size=500', path=tmp_path
  )
  assert done.returncode == 0
  assert done.stderr == ''
  assert [line.split()[0] for line in done.stdout.splitlines()][-1] == 'Wrote'
  failed = run('vocab', '--task=nothing', f'--output={model}', path=tmp_path)
  assert failed.returncode != 0
  assert len(failed.stderr.splitlines()) == 1, failed.stderr


def test_what_a_failing_import_of_tensorflow_wrote_is_shown(tmp_path):
  broken = "import os\nos.write(2, b'no such library')\nraise ImportError('broken')\n"
  (tmp_path / 'tensorflow.py').write_text(broken)
  failed = run('vocab', '--task=embedded_arithmetic_label', '--output=a.model', path=tmp_path)
  assert failed.returncode != 0
  assert 'no such library' in failed.stderr and 'dss vocab: broken' in failed.stderr


def test_a_missing_flag_is_one_line_under_the_usage(capsys):
  with pytest.raises(SystemExit) as end:
    cli.main(['launch', 'gke', '--name=a', '--topology=v5e-8', '--image=i'])
  assert end.value.code == 2
  assert capsys.readouterr().err == (
    'usage: dss launch gke [flags] -- VERB [arguments of dss VERB]\n'
    'dss launch gke: error: the following arguments are required: --cluster\n'
  )


def test_only_a_first_import_leaves_its_objects_out_of_later_looks_for_garbage(monkeypatch, capsys):
  assert cli.main(['methods']) == 0  # imported by now
  frozen = []
  monkeypatch.setattr(cli.gc, 'freeze', lambda: frozen.append(1))
  assert cli.main(['methods']) == 0 and not frozen
  monkeypatch.delitem(sys.modules, cli.module_of('methods'))
  assert cli.main(['methods']) == 0 and frozen
