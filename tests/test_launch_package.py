"""The wheel that hosts install: of the files that belong to dss_jax, and of no others."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from dss_jax.launch import checks, package
from dss_jax.launch.job import Job

STRAY = (
  'dss_jax/my_keys.py', 'dss_jax/planning/service-account.json', 'launch/.env', 'tasks/notes.sh',
  'dss_jax/datasets/secret.model', 'gin/datasets/mine.gin',
)  # fmt: skip


@pytest.fixture
def checkout(tmp_path, repository, monkeypatch):
  """A copy of the sources with stray files, under git unless it is told otherwise."""
  root = tmp_path / 'checkout'
  root.mkdir()
  for name in (*package.SOURCES, 'requirements.txt'):
    source = repository / name
    copy = shutil.copytree if source.is_dir() else shutil.copy
    copy(source, root / name)
  git = ['git', '-C', str(root), '-c', 'user.name=a', '-c', 'user.email=a@b']
  for arguments in (['init', '-q'], ['add', '-A'], ['commit', '-q', '-m', 'all']):
    subprocess.run([*git, *arguments], check=True)
  for name in STRAY:
    (root / name).write_text('')
  (root / '.gitignore').write_text('*.json\n')  # an ignored file is as stray as others
  monkeypatch.setattr(package.dss_jax, '__file__', str(root / 'dss_jax/__init__.py'))
  return root


def names_of(wheel: pathlib.Path) -> set[str]:
  return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_has_what_git_tracks_and_the_rest_is_listed(checkout, tmp_path):
  (checkout / 'dss_jax/cli.py').write_text('changed = True')
  (checkout / 'dss_jax/commands/vocab.py').unlink()
  wheel = package.build(tmp_path)[0]
  names = names_of(wheel)
  assert not [name for name in names if pathlib.Path(name).name in map(os.path.basename, STRAY)]
  assert {'dss_jax/launch/startup.sh', 'dss_jax/gin/runs/train.gin', 'dss_jax/py.typed'} <= names
  assert 'dss_jax/llms.txt' in names
  prompts = checkout / 'dss_jax/teacher/prompts'
  assert {f'dss_jax/teacher/prompts/{path.name}' for path in prompts.iterdir()} <= names
  assert 'dss_jax/commands/vocab.py' not in names
  assert zipfile.ZipFile(wheel).read('dss_jax/cli.py') == b'changed = True'
  assert package.left_out() == sorted(STRAY)
  assert set(package.notes()) == {f'left out of the wheel: {name}' for name in STRAY}


def test_a_gin_file_that_git_does_not_track_is_refused_for_a_job(checkout, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  command = ('train', '--gin_file=datasets/mine.gin', '--model_dir=gs://b/a')
  with pytest.raises(ValueError, match=r'datasets/mine\.gin is not tracked by git'):
    checks.check(Job('a', command, 'v5e-8', 'gs://b'))


@pytest.mark.parametrize('trouble', ['somebody else', 'broken', 'empty', 'no git'])
def test_a_checkout_of_which_git_says_nothing_is_refused(trouble, checkout, tmp_path, monkeypatch):
  if trouble == 'somebody else':
    monkeypatch.setenv('GIT_TEST_ASSUME_DIFFERENT_OWNER', '1')
    said = 'dubious ownership'
  elif trouble == 'broken':
    (checkout / '.git/index').write_text('x')
    said = 'index'
  elif trouble == 'empty':
    shutil.rmtree(checkout / '.git')
    (checkout / '.git').mkdir()
    said = 'not a git repository'
  else:
    monkeypatch.setenv('PATH', str(tmp_path))
    said = 'there is no program git'
  for call in (lambda: package.build(tmp_path), package.notes, package.left_out):
    with pytest.raises(ValueError, match=rf'is a checkout, and git does not say .*{said}.* Mend'):
      call()
  assert not list(tmp_path.glob('*.whl'))


def test_an_unpacked_archive_has_files_of_known_kinds_and_says_so(checkout, tmp_path):
  shutil.rmtree(checkout / '.git')
  names = names_of(package.build(tmp_path)[0])
  assert not [name for name in names if name.endswith(('service-account.json', '.env'))]
  assert {'dss_jax/launch/startup.sh', 'dss_jax/planning/table.json'} <= names
  *left, note = package.notes()
  assert left == [
    'left out of the wheel: dss_jax/planning/service-account.json',
    'left out of the wheel: launch/.env',
  ]
  assert f'git does not track {checkout}: every Python and gin file' in note


def test_an_installed_package_is_packed_again_without_an_index(checkout, tmp_path):
  wheel = package.build(tmp_path)[0]
  site, again = tmp_path / 'site', tmp_path / 'again'
  again.mkdir()
  pip = [sys.executable, '-m', 'pip', '--quiet', 'install', '--no-index', '--no-deps']
  subprocess.run([*pip, '--target', str(site), str(wheel)], check=True)
  (site / 'dss_jax/my_keys.py').write_text('')  # not of the wheel
  code = 'import sys, pathlib; sys.path.insert(0, sys.argv[1]); from dss_jax.launch import package'
  code += '; assert package.notes() == []; print(package.build(pathlib.Path(sys.argv[2]))[0])'
  line = [sys.executable, '-S', '-c', code, str(site), str(again)]
  environment = {**os.environ, 'PYTHONPATH': ''}
  printed = subprocess.check_output(line, env=environment, text=True).strip()
  assert names_of(pathlib.Path(printed)) == names_of(wheel)
  subprocess.run([*pip, '--target', str(tmp_path / 'third'), printed], check=True)
  assert (tmp_path / 'third/dss_jax/cli.py').read_bytes() == (site / 'dss_jax/cli.py').read_bytes()
