"""The wheel of dss_jax that a job's hosts install, with the tested versions of its dependencies.

Finds or builds it. A checkout is built in its current state; an installed dss_jax is downloaded
from the package index, at its version.
"""

import importlib.metadata
import pathlib
import shutil
import subprocess
import sys
import tempfile

import dss_jax

CONSTRAINTS = 'constraints.txt'
SOURCES = (
  'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'dss_jax', 'gin', 'launch', 'tasks',
)  # fmt: skip


def build(folder: pathlib.Path) -> list[pathlib.Path]:
  """Puts the wheel, and from a checkout the pinned versions, into `folder`; returns the files.

  Raises:
    OSError: pip failed; the message has its error.
  """
  root = pathlib.Path(dss_jax.__file__).resolve().parent.parent
  if not (root / 'setup.py').is_file():
    version = importlib.metadata.version('dss_jax')
    return [_pip(folder, 'download', '--no-deps', '--dest', str(folder), f'dss_jax=={version}')]
  with tempfile.TemporaryDirectory() as copy:  # a build leaves files next to the sources
    for name in SOURCES:
      source, target = root / name, pathlib.Path(copy) / name
      if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
      else:
        shutil.copy(source, target)
    wheel = _pip(folder, 'wheel', '--no-deps', '--wheel-dir', str(folder), copy)
  pins = folder / CONSTRAINTS
  pins.write_bytes((root / 'requirements.txt').read_bytes())
  return [wheel, pins]


def _pip(folder: pathlib.Path, *arguments: str) -> pathlib.Path:
  """Runs pip, which must leave one wheel in `folder`."""
  command = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check', *arguments]
  done = subprocess.run(command, capture_output=True, text=True)
  wheels = sorted(folder.glob('dss_jax-*.whl'))
  if done.returncode or len(wheels) != 1:
    raise OSError(f'no wheel of dss_jax from `pip {arguments[0]}`: {done.stderr.strip() or wheels}')
  return wheels[0]
