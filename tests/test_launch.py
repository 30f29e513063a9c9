"""`dss launch`: jobs, and the texts for SkyPilot and GKE, with any characters."""

import os
import pathlib
import random
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from dss_jax import cli, launch
from dss_jax.launch import gke, job, local, skypilot
from dss_jax.launch.folder import JobFolder

WHERE = ('--name=cqa', '--project=p', '--zone=us-west4-a', '--topology=v5e-16')
WORKS = (  # a command that can work on other machines
  'train', '--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/cqa.gin',
  '--vocabulary=gs://b/spiece.model', '--data_dir=gs://b/data', '--model_dir=gs://b/a',
  '--batch_size=32',
)  # fmt: skip


def make(**values):
  return job.Job(**{'name': 'cqa', 'command': ('train',), 'topology': 'v5e-16', **values})


def refused(*argv) -> str:
  with pytest.raises(ValueError) as error:
    launch.main(argv)
  return str(error.value)


# ---------------------------------------------------------------- jobs


@pytest.mark.parametrize('name', ['', 'A', '1a', 'a-', 'a_b', 'a' * 29, 'a\n'])
def test_names_that_no_cloud_takes_are_refused(name):
  with pytest.raises(ValueError, match='--name is a lower-case letter'):
    make(name=name)


def test_verbs_are_those_of_dss():
  assert set(job.VERBS) <= set(cli.VERBS) - {'launch'}
  with pytest.raises(ValueError, match=r"a verb of dss .*, not 'trian'"):
    make(command=('trian',))


def test_numbers_are_not_negative():
  with pytest.raises(ValueError, match='--retries is 0 or more, not -1'):
    make(retries=-1)


def test_settings_are_read_in_both_forms():
  command = ('train', '--a=1', '--b', '2', '--c', '--d=x=y', '--e', '')
  assert job.settings(command) == [('a', '1'), ('b', '2'), ('d', 'x=y'), ('e', '')]


@pytest.mark.parametrize('argument', ['--model_dir=runs/a', "--gin.MODEL_DIR='runs/a'"])
def test_results_that_would_be_lost_with_the_machine_are_refused(argument):
  with pytest.raises(ValueError, match=r'give --model_dir=gs://'):
    job.check_remote(make(bucket='gs://b', command=('train', argument)))
  job.check_remote(make(bucket='gs://b', command=('train', '--model_dir=gs://b/a')))
  job.check_remote(make(bucket='gs://b', command=('train', '--gin.MODEL_DIR="gs://b/a"')))
  with pytest.raises(ValueError, match=r'needs --bucket=gs://'):
    job.check_remote(make())


def test_a_variable_that_is_not_set_is_refused():
  assert job.values_of(['A'], {'A': '1', 'B': '2'}) == {'A': '1'}
  with pytest.raises(ValueError, match='--env=C: that variable is not set here'):
    job.values_of(['C'], {})


# ---------------------------------------------------------------- the command line


def test_what_is_missing_is_said(monkeypatch):
  monkeypatch.delenv('GOOGLE_CLOUD_PROJECT', raising=False)
  command = ('--', 'train', '--model_dir=gs://b/a')
  assert '--bucket' in refused('tpu-vm', *WHERE, *command)
  bucket = ('--bucket=gs://b',)
  assert '--project' in refused('tpu-vm', *WHERE[:1], *WHERE[2:], *bucket, *command)
  assert 'v5e-8' in refused('tpu-vm', *WHERE[:3], '--topology=gpu', *bucket, *command)
  assert 'did you mean v5e-16' in refused(
    'tpu-vm', *WHERE[:3], '--topology=v5e16', *bucket, *command
  )
  assert 'name of a variable' in refused('tpu-vm', *WHERE, *bucket, '--env=A=1', *command)
  assert 'a verb of dss' in refused('tpu-vm', *WHERE, *bucket)
  assert 'command of dss' in refused('local')


def test_flags_of_the_command_are_not_read_as_ours(capsys):
  assert launch.main(['local', '--', 'train', '--submit', '--devices=3', '--', '--help']) == 0
  assert capsys.readouterr().out.endswith(' -m dss_jax train --submit --devices=3 -- --help\n')


@pytest.mark.parametrize('argv', [['--help'], ['tpu-vm', '--help']])
def test_help_is_shown(argv, capsys):
  with pytest.raises(SystemExit) as end:
    cli.main(['launch', *argv])
  assert end.value.code == 0
  assert 'dss launch' in capsys.readouterr().out


def test_without_the_extra_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'google.cloud', None)
  where = [*WHERE, '--bucket=gs://b', '--', *WORKS]
  assert launch.main(['tpu-vm', *where]) == 0  # to see what would be done needs nothing
  with pytest.raises(ImportError, match=r"pip install 'dss_jax\[launch\]'"):
    launch.main(['tpu-vm', '--submit', *where])


# ---------------------------------------------------------------- any characters

ALPHABET = list("""ab-=,.:;@%+/~#!?*&|<>()[]{}^_ \t\n\r"'`\\$""") + [
  '$(',
  '${',
  '$$',
  '\\n',
  'é',
  '中',
  '🙂',
  '\x01',
  '\x7f',
  '\u2028',
]


def odd_arguments(seed: int) -> tuple[str, ...]:
  draw = random.Random(seed)
  fixed = (
    '',
    ' ',
    "'",
    '"',
    '\\',
    '$HOME',
    '$(id)',
    '`id`',
    '$$(HOME)',
    '\n',
    '!!',
    '~',
    '*',
    '-- ',
  )
  some = (''.join(draw.choices(ALPHABET, k=draw.randint(1, 12))) for _ in range(150))
  return (*fixed, *some, *(f'--gin.A={text}' for text in fixed))


@pytest.fixture
def programs(tmp_path, monkeypatch):
  """Programs of these names that write their arguments to a file, which is returned."""

  def install(*names):
    for name in names:
      path = tmp_path / 'bin' / name
      path.parent.mkdir(exist_ok=True, parents=True)
      path.write_text(f'#!/bin/bash\nprintf "%s\\0" "$@" > {tmp_path}/{name}.arguments\n')
      path.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}/bin:{os.environ["PATH"]}')
    return lambda name: (tmp_path / f'{name}.arguments').read_bytes().decode().split('\0')[:-1]

  return install


@pytest.mark.parametrize('seed', range(5))
def test_printed_local_commands_are_exact(seed, programs, monkeypatch, tmp_path):
  arguments = programs('python3')
  monkeypatch.setattr(sys, 'executable', str(tmp_path / 'bin/python3'))
  text = local.describe(('train', *odd_arguments(seed)), 1, 2)
  subprocess.run(['bash', '-c', text], check=True)
  assert arguments('python3') == ['-m', 'dss_jax', 'train', *odd_arguments(seed)]


@pytest.mark.parametrize('seed', range(5))
def test_commands_in_a_skypilot_task_are_exact(seed, programs, tmp_path):
  arguments = programs('dss')
  home = tmp_path / 'home'
  (home / 'dss/venv/bin').mkdir(parents=True)
  (tmp_path / 'bin/dss').rename(home / 'dss/venv/bin/dss')
  text = skypilot.text_of(make(command=('train', *odd_arguments(seed)), bucket='gs://b'), True)
  script = yaml.safe_load(text)['run']
  subprocess.run(['bash', '-c', script], check=True, env={**os.environ, 'HOME': str(home)})
  assert arguments('dss') == ['train', *odd_arguments(seed)]


@pytest.mark.parametrize('seed', range(5))
def test_commands_for_gke_are_exact_after_kubernetes_has_read_them(seed, programs, monkeypatch):
  """Kubernetes replaces $(NAME) of its container's variables, and $$ by $."""
  arguments = programs('gcluster', 'dss')
  monkeypatch.setenv('SECRET', "hunter2 '$(id)\n")
  one = make(command=('train', *odd_arguments(seed)), project='p', environment=('SECRET',))
  text = gke.describe(one, 'image', 'cluster')
  assert 'hunter2' not in text
  subprocess.run(['bash', '-c', text], check=True)
  given = arguments('gcluster')
  assert given[:2] == ['job', 'submit'] and "--env=SECRET=hunter2 '$(id)\n" in given
  assert sorted(['gcluster', *given]) == sorted(
    gke.words(one, 'image', 'cluster', {'SECRET': os.environ['SECRET']})
  )
  command = next(word for word in given if word.startswith('--command=')).partition('=')[2]

  def expand(match):
    return '$' if match[0] == '$$' else 'REPLACED' if match[1] == 'HOME' else match[0]

  command = re.sub(r'\$\$|\$\(([^)]*)\)', expand, command)
  subprocess.run(['bash', '-c', command], check=True)
  assert arguments('dss') == ['train', *odd_arguments(seed)]


# ---------------------------------------------------------------- SkyPilot and GKE


def test_a_skypilot_task_recovers_and_has_no_secrets(programs, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('SECRET', 'hunter2')
  monkeypatch.chdir(tmp_path)
  pathlib.Path('a.gin').write_text('')
  flags = [*WHERE, '--bucket=gs://b', '--spot', '--env=SECRET', '--output=task.yaml']
  command = ['--', *WORKS, '--gin_file=a.gin']
  assert launch.main(['skypilot', *flags, *command]) == 0
  task = yaml.safe_load(pathlib.Path('task.yaml').read_text())
  assert task['resources'] == {
    'infra': 'gcp/us-west4/us-west4-a',
    'accelerators': 'tpu-v5litepod-16',
    'accelerator_args': {'runtime_version': 'v2-alpha-tpuv5-lite', 'tpu_vm': True},
    'use_spot': True,
    'job_recovery': {'strategy': 'FAILOVER', 'max_restarts_on_errors': 2},
  }
  assert task['secrets'] == {'SECRET': None}
  assert task['file_mounts']['~/dss/work'] == 'gs://b/cqa/files'
  subprocess.run(['bash', '-n', '-c', task['setup']], check=True)
  said = capsys.readouterr().out
  assert 'sky jobs launch --yes --name cqa --secret SECRET task.yaml' in said
  assert 'hunter2' not in said + pathlib.Path('task.yaml').read_text()


def test_a_skypilot_task_is_submitted_with_its_files(programs, tmp_path, monkeypatch):
  arguments = programs('sky')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('dss_jax.launch.package.build', lambda folder: [])
  monkeypatch.setattr('dss_jax.launch.arguments.JobFolder', lambda path: JobFolder(path[5:]))
  pathlib.Path('a.gin').write_text('RANDOM_SEED = 1')
  flags = [*WHERE, '--bucket=gs://b', '--submit']
  assert launch.main(['skypilot', *flags, '--', *WORKS, '--gin_file=a.gin']) == 0
  assert arguments('sky') == ['jobs', 'launch', '--yes', '--name', 'cqa', 'cqa.yaml']
  assert pathlib.Path('b/cqa/files/a.gin').read_text() == 'RANDOM_SEED = 1'


def test_gke_asks_for_the_slice(programs, monkeypatch, tmp_path):
  arguments = programs('gcluster')
  monkeypatch.chdir(tmp_path)
  flags = [*WHERE, '--image=i', '--cluster=c', '--spot']
  assert launch.main(['gke', *flags, '--submit', '--', *WORKS]) == 0
  expected = ['--compute-type=ct5lp-hightpu-4t', '--topology=4x4', '--gke-nap-provisioning=spot']
  assert set(expected) <= set(arguments('gcluster'))
  pathlib.Path('a.gin').write_text('')
  assert 'put a.gin into the bucket' in refused('gke', *flags, '--', *WORKS, '--gin_file=a.gin')
  flags[3] = '--topology=v3-8'
  assert 'GKE has no such slice' in refused('gke', *flags, '--', *WORKS)


def test_gke_warns_of_keys_in_clear_text(programs, monkeypatch, tmp_path, capsys):
  programs('gcluster')
  monkeypatch.setenv('SECRET', 'hunter2')
  flags = [*WHERE, '--image=i', '--cluster=c', '--env=SECRET']
  for submit in ([], ['--submit']):
    assert launch.main(['gke', *flags, *submit, '--', *WORKS]) == 0
    said = capsys.readouterr()
    assert 'warning: on GKE the values of SECRET are in clear text' in said.err
    assert 'hunter2' not in said.out + said.err


@pytest.mark.parametrize(
  ('target', 'program', 'advice'),
  [('gke', 'gcluster', 'gcluster job cancel cqa'), ('skypilot', 'sky', '--name cqa` ends it')],
)
def test_an_interrupted_submission_says_what_may_be_left(
  target, program, advice, programs, monkeypatch, tmp_path, capsys
):
  programs(program)
  (tmp_path / 'bin' / program).write_text(f'#!/bin/bash\nkill -TERM {os.getpid()}\nsleep 60\n')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('dss_jax.launch.arguments._write_folder', lambda *arguments: None)
  more = ['--image=i', '--cluster=c'] if target == 'gke' else ['--bucket=gs://b']
  with pytest.raises(KeyboardInterrupt):
    launch.main([target, *WHERE, *more, '--submit', '--', *WORKS])
  told = capsys.readouterr().err
  assert 'interrupted: the job may have been submitted' in told and advice in told


def test_a_program_that_is_not_installed_is_named(monkeypatch, tmp_path):
  (tmp_path / 'git').symlink_to(shutil.which('git'))
  monkeypatch.setenv('PATH', str(tmp_path))
  flags = [*WHERE, '--image=i', '--cluster=c', '--submit']
  assert 'gcluster is not installed' in refused('gke', *flags, '--', *WORKS)
