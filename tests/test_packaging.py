"""What is installed elsewhere: the wheel outside of the tree, the hashed pins, the image."""

import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging import requirements, utils

import dss_jax
from dss_jax.launch import package

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def pins(name):
  text = (REPOSITORY / name).read_text()
  return dict(re.findall(r'^([\w.-]+)==([\w.+!-]+)', text.lower(), re.MULTILINE))


def plain(names):
  return {re.sub(r'[-_.]+', '-', name): version for name, version in names.items()}


def hashed(name):
  """The pins of a file of `make lock`, each of which has its hashes."""
  text = (REPOSITORY / name).read_text()
  for block in re.split(r'\n(?=\S)', text)[1:]:
    assert re.fullmatch(r'\S+==\S+ \\(\n    --hash=sha256:[0-9a-f]{64}( \\)?)+\n?', block), block
  return plain(pins(name))


def test_the_hashed_pins_are_those_of_requirements():
  """After a change of requirements.txt: make lock."""
  assert hashed('requirements-hashed.txt') == plain(pins('requirements.txt'))


def test_the_image_installs_nothing_that_is_not_pinned():
  """After a change of an extra: make lock."""
  base, extras = hashed('requirements-hashed.txt'), hashed('requirements-image.txt')
  tested = plain(pins('requirements-test.txt'))
  assert not set(base) & set(extras) and 'setuptools' in extras
  assert not [name for name in set(extras) & set(tested) if extras[name] != tested[name]]
  installed = {
    'cpu': {**base, **extras},
    'gpu': {**base, **extras, **hashed('requirements-gpu.txt')},
    'tpu': {**base, **extras, **hashed('requirements-tpu.txt')},
  }
  project = tomllib.loads((REPOSITORY / 'pyproject.toml').read_text())
  for device, found in installed.items():
    wanted = [*project['project']['dependencies'], *project['build-system']['requires']]
    for extra in {'teacher', 'report', device} - {'cpu'}:
      wanted += project['project']['optional-dependencies'][extra]
    for one in map(requirements.Requirement, wanted):
      assert one.specifier.contains(found[utils.canonicalize_name(one.name)]), one
  jax = base['jax']
  assert installed['gpu']['jax-cuda13-plugin'] == jax and 'libtpu' in installed['tpu']
  for command in re.findall(
    r'python -m pip install(?:[^&]|\\\n)*', (REPOSITORY / 'Dockerfile').read_text()
  ):
    assert '--no-deps' in command and ('--require-hashes' in command or '--no-index' in command)


@pytest.mark.parametrize('fails', [True, False])
def test_a_lock_that_fails_leaves_the_file(tmp_path, fails):
  programs = tmp_path / 'venv' / 'bin'
  programs.mkdir(parents=True)
  for name, text in {'python': 'exit 0', 'uv': f'echo a==1; exit {int(fails)}'}.items():
    (programs / name).write_text(f'#!/bin/sh\n{text}\n')
    (programs / name).chmod(0o755)
  for name in ('requirements.txt', 'requirements-hashed.txt', 'setup.py', 'pyproject.toml'):
    (tmp_path / name).write_text('old')
  (programs.parent / '.installed').write_text('')
  makefile = str(REPOSITORY / 'Makefile')
  done = subprocess.run(
    ['make', '-f', makefile, 'lock', 'VENV=venv'], cwd=tmp_path, capture_output=True, text=True
  )
  assert (done.returncode != 0) == fails, done.stderr
  written = (tmp_path / 'requirements-hashed.txt').read_text()
  assert written == 'old' if fails else written.endswith('`make lock`.\na==1\n')


def test_the_version_is_the_same_everywhere():
  text = (REPOSITORY / 'pyproject.toml').read_text()
  assert f'version = "{dss_jax.__version__}"' in text
  assert dss_jax.__version__ in (REPOSITORY / 'CITATION.cff').read_text()


def test_the_image_copies_what_its_ignore_file_lets_through():
  copied = re.findall(r'^COPY (.*) \S+$', (REPOSITORY / 'Dockerfile').read_text(), re.MULTILINE)
  names = {name for line in copied for name in line.split()}
  let_through = re.findall(r'^!(.*)$', (REPOSITORY / '.dockerignore').read_text(), re.MULTILINE)
  assert names == set(let_through)
  assert names >= set(package.SOURCES) and all((REPOSITORY / name).exists() for name in names)


@pytest.mark.skipif(not shutil.which('hadolint'), reason='hadolint is not installed')
def test_the_image_is_linted():
  done = subprocess.run(
    ['hadolint', str(REPOSITORY / 'Dockerfile')], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


_PROGRAM = """
import pathlib, sys
from dss_jax import cli, datasets, settings
from dss_jax.commands import completion
from dss_jax.settings import help_text, troubles
from dss_jax.teacher import prompts
assert pathlib.Path(settings.__file__).is_relative_to(sys.argv[1]), settings.__file__
assert len(troubles.all_troubles()) > 20 and len(prompts.names()) > 5
assert 'datasets/cqa.gin' in completion.gin_names()
assert 'learning_rate' in help_text.flags('runs/train.gin')
rows = ''.join(f'T {n},{"ab"[n % 2]}\\n' for n in range(40))
pathlib.Path('a.csv').write_text('text,label\\n' + rows)
assert cli.main(['new-task', 'my_wheel', '--from=a.csv']) == 0
assert cli.main(['doctor', '--error=No space left on device']) == 0
assert cli.main(['methods', 'dss']) == 0
"""


def test_the_wheel_works_outside_of_the_tree(tmp_path):
  """Its data files are found: prompts, gin files, the table of troubles."""
  (tmp_path / 'wheel').mkdir()
  (tmp_path / 'here').mkdir()
  wheel = package.build(tmp_path / 'wheel')[0]
  zipfile.ZipFile(wheel).extractall(tmp_path / 'site')
  done = subprocess.run(
    [sys.executable, '-c', _PROGRAM, str(tmp_path / 'site')], cwd=tmp_path / 'here',
    env={'PYTHONPATH': str(tmp_path / 'site'), 'PATH': '/usr/bin:/bin', 'PYTHONSAFEPATH': '1'},
    capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
