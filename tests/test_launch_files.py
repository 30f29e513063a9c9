"""The files of this machine that a job takes along: all that it needs, and no keys."""

import os

import pytest

from dss_jax import launch
from dss_jax.launch import job


def test_files_that_the_command_names_are_shipped(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('a.gin', 'b.model', 'mine/tasks.py', 'unused.gin', 'more/x.txt', 'more/y/z.txt'):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('x')
  command = ['train', '--gin_file=a.gin', '--gin_file=models/t5_1_1/tiny.gin', '--vocabulary']
  command += ['b.model', '--mixture_or_task_module=mine.tasks', f'--other={tmp_path}/unused.gin']
  assert job.files_to_ship(command) == ('a.gin', 'b.model', 'mine/tasks.py')
  assert job.files_to_ship(['train', '--module=mine.tasks']) == ('mine/tasks.py',)
  assert job.files_to_ship(['train'], ['more']) == ('more/x.txt', 'more/y/z.txt')
  with pytest.raises(ValueError, match='--file=nothing: there is no such'):
    job.files_to_ship([], ['nothing'])
  monkeypatch.chdir(tmp_path / 'mine')
  with pytest.raises(ValueError, match='outside the working directory'):
    job.files_to_ship([], [str(tmp_path)])
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(job, 'SHIPPED_BYTES_LIMIT', 2)
  with pytest.raises(ValueError, match='put data into the bucket'):
    job.files_to_ship(command)


@pytest.fixture
def write(tmp_path, monkeypatch):
  """Writes files below the working directory."""
  monkeypatch.chdir(tmp_path)

  def write_all(files):
    for name, text in files.items():
      path = tmp_path / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text)

  return write_all


def test_included_gin_files_are_shipped_and_those_of_search_paths(write):
  write(
    {
      'a.gin': "include 'deep/b.gin'\ninclude 'models/t5_1_1/tiny.gin'",
      'deep/b.gin': "include 'c.gin'",
      'c.gin': 'SEED = 1',
      'conf/d.gin': 'SEED = 2',
      'unused.gin': '',
    }
  )
  command = ['train', '--gin_file=a.gin', '--gin_search_paths=conf', '--gin_file=d.gin']
  assert job.files_to_ship(command) == ('a.gin', 'c.gin', 'conf/d.gin', 'deep/b.gin')
  write({'deep/b.gin': "include 'nothing.gin'"})
  with pytest.raises(ValueError, match=r"--gin_file='nothing\.gin': there is no such file"):
    job.files_to_ship(command)
  with pytest.raises(ValueError, match='only on this machine: name it relative'):
    job.files_to_ship(['train', f'--gin_file={os.getcwd()}/a.gin'])


def test_a_tilde_is_the_home_folder(write, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('HOME', str(tmp_path))
  write({'a.gin': 'SEED = 1', 'more/x.txt': 'x'})
  where = ['--name=a', '--bucket=gs://b', '--topology=v5e-8', '--output=~/task.yaml']
  line = ['import', '--from=hf', '--path=gs://b/hf', '--output=gs://b/weights']
  assert launch.main(['skypilot', *where, '--file=~/more', '--', *line]) == 0
  assert 'files/more/x.txt' in capsys.readouterr().out
  assert (tmp_path / 'task.yaml').exists() and not (tmp_path / '~').exists()
  with pytest.raises(ValueError, match=r'a\.gin is only on this machine: name it relative'):
    job.files_to_ship(['train', '--gin_file=~/a.gin'])
  with pytest.raises(ValueError, match='there is no home folder ~nobody_of_that_name'):
    job.files_to_ship(['train', '--gin_file=~nobody_of_that_name/a.gin'])


def test_a_module_brings_its_packages_and_what_it_imports_from_here(write):
  write(
    {
      'mine/__init__.py': '',
      'mine/tasks.py': 'import json, dss_jax\nfrom . import rows\nfrom lib.text import clean',
      'mine/rows.py': 'import mine.tasks\nimport deep.er.est',
      'mine/unused.py': '',
      'lib/text.py': '',
      'deep/er/est/__init__.py': '',
      'dss_jax/__init__.py': '',
      'package/__init__.py': 'from package.inner import x',
      'package/inner.py': '',
    }
  )
  assert job.files_to_ship(['train', '--module=mine.tasks']) == (
    'deep/er/est/__init__.py', 'lib/text.py', 'mine/__init__.py', 'mine/rows.py', 'mine/tasks.py',
  )  # fmt: skip
  assert job.files_to_ship(['train', '--mixture-or-task-module', 'package']) == (
    'package/__init__.py', 'package/inner.py'
  )  # fmt: skip


def test_a_link_is_shipped_by_its_own_name(write, tmp_path):
  write({'store/real.gin': 'SEED = 1'})
  (tmp_path / 'a.gin').symlink_to('store/real.gin')
  assert job.files_to_ship(['train', '--gin_file=a.gin']) == ('a.gin',)
  (tmp_path / 'b.gin').symlink_to('/etc/hostname')
  with pytest.raises(ValueError, match="/etc/hostname' is outside the working directory"):
    job.files_to_ship(['train', '--vocabulary=b.gin'])


KEYS = {
  'service.json': '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\\nMII"}',
  'id_ed25519': '-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb',
  'credentials.json': '{"client_id": "x", "client_secret": "y", "refresh_token": "z"}',
}
HIDDEN = ('.env', '.git/config', '.ssh/known_hosts', 'deep/.netrc')


def test_keys_and_hidden_files_of_a_folder_stay_here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  files = {**KEYS, **dict.fromkeys(HIDDEN, 'x'), 'rows.jsonl': '{}', 'deep/a.txt': 'private key'}
  for name, text in files.items():
    path = tmp_path / 'more' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  assert job.files_to_ship([], ['more']) == ('more/deep/a.txt', 'more/rows.jsonl')
  assert set(job.left_out(['more'])) == {f'more/{name}' for name in (*KEYS, *HIDDEN)}
  for name in KEYS:
    with pytest.raises(ValueError, match=f'--file=more/{name} has a private key or a token'):
      job.files_to_ship([], [f'more/{name}'])
  monkeypatch.chdir(tmp_path / 'more')
  assert job.files_to_ship([], ['.']) == ('deep/a.txt', 'rows.jsonl')
