"""The wheel of dss_jax that a job's hosts install, with the tested versions of its dependencies.

Finds or builds it. A checkout's is built of the files that git tracks, in their current state, so
that no key or note that lies among them is taken along. An installed dss_jax is packed again from
what its own wheel had: an index may have another package of that name.
"""

import base64
import hashlib
import importlib.metadata
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import dss_jax
from dss_jax.settings.errors import ConfigError

CONSTRAINTS = 'constraints.txt'
SOURCES = (
  'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'dss_jax', 'gin', 'launch', 'tasks',
)  # fmt: skip
KINDS = (
  '.py', '.gin', '.sh', '.model', '.toml', '.css', '.js', '.j2', '.html', 'table.json',
  'py.typed', 'llms.txt',
)  # fmt: skip
_OF_AN_INSTALLATION = ('INSTALLER', 'REQUESTED', 'RECORD', 'direct_url.json')


def build(folder: pathlib.Path) -> list[pathlib.Path]:
  """Puts the wheel, and from a checkout the pinned versions, into `folder`; returns the files.

  Raises:
    OSError: pip failed; the message has its error.
  """
  root = _root()
  if not (root / 'setup.py').is_file():
    return [_packed_again(folder)]
  with tempfile.TemporaryDirectory() as copy:  # a build leaves files next to the sources
    for name in _sources(root)[0]:
      target = pathlib.Path(copy) / name
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(root / name, target)
    wheel = _pip(folder, 'wheel', '--no-deps', '--wheel-dir', str(folder), copy)
  pins = folder / CONSTRAINTS
  pins.write_bytes((root / 'requirements.txt').read_bytes())
  return [wheel, pins]


def left_out() -> list[str]:
  """Files among a checkout's sources that are not in the wheel, by their path in the checkout."""
  root = _root()
  return _sources(root)[1] if (root / 'setup.py').is_file() else []


def notes() -> list[str]:
  """What a user should know of the wheel, in lines."""
  lines = [f'left out of the wheel: {name}' for name in left_out()]
  if (_root() / 'setup.py').is_file() and not _tracked(_root()):
    lines.append(f'git does not track {_root()}: every Python and gin file there is in the wheel')
  return lines


def _root() -> pathlib.Path:
  return pathlib.Path(dss_jax.__file__).resolve().parent.parent


def _sources(root: pathlib.Path) -> tuple[list[str], list[str]]:
  """The files of a wheel, and those among them that are left out.

  They are those that git tracks; in an unpacked archive, those of known kinds.
  """
  tops = [root / name for name in SOURCES]
  files = [file for top in tops for file in ([top] if top.is_file() else top.rglob('*'))]
  names = sorted(
    str(file.relative_to(root))
    for file in files
    if file.is_file() and '__pycache__' not in file.parts
  )
  tracked = _tracked(root)
  kinds = [name for name in names if name in SOURCES or name.endswith(KINDS)]
  taken = [name for name in names if name in tracked] if tracked else kinds
  return taken, [name for name in names if name not in set(taken)]


def _tracked(root: pathlib.Path) -> set[str]:
  """The sources that git tracks; none where this is no checkout.

  Raises:
    ConfigError: it is a checkout, and git does not say.
  """
  command = ['git', '-C', str(root), 'ls-files', '-z', '--', *SOURCES]
  try:
    done = subprocess.run(command, capture_output=True)
    names, problem = set(done.stdout.decode().split('\0')), done.stderr.decode(errors='replace')
    failed = done.returncode != 0
  except FileNotFoundError:
    names, problem, failed = set(), 'there is no program git', True
  if failed and (root / '.git').exists():
    raise ConfigError(
      f'{root} is a checkout, and git does not say which of its files belong to dss_jax, so keys '
      f'or notes could get into the wheel: {" ".join(problem.split())[:500]}. Mend that, or remove '
      f'{root / ".git"} if all of its files may be taken.'
    )
  return names if 'setup.py' in names else set()  # a folder within another checkout


def _packed_again(folder: pathlib.Path) -> pathlib.Path:
  """A wheel of the files that the installed one brought, as their record lists them."""
  installed = importlib.metadata.distribution('dss_jax')
  info = f'dss_jax-{installed.version}.dist-info'
  wheel = folder / f'dss_jax-{installed.version}-py3-none-any.whl'
  lines = []
  with zipfile.ZipFile(wheel, 'w', zipfile.ZIP_DEFLATED) as file:
    for entry in installed.files or ():
      name = entry.as_posix()
      ours = name.startswith(('dss_jax/', f'{info}/'))
      if not ours or '__pycache__' in name or entry.name in _OF_AN_INSTALLATION:
        continue
      content = pathlib.Path(str(installed.locate_file(entry))).read_bytes()
      digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()
      file.writestr(name, content)
      lines.append(f'{name},sha256={digest},{len(content)}\n')
    file.writestr(f'{info}/RECORD', ''.join(lines) + f'{info}/RECORD,,\n')
  return wheel


def _pip(folder: pathlib.Path, *arguments: str) -> pathlib.Path:
  """Runs pip, which must leave one wheel in `folder`."""
  command = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check', *arguments]
  done = subprocess.run(command, capture_output=True, text=True)
  wheels = sorted(folder.glob('dss_jax-*.whl'))
  if done.returncode or len(wheels) != 1:
    raise OSError(f'no wheel of dss_jax from `pip {arguments[0]}`: {done.stderr.strip() or wheels}')
  return wheels[0]
