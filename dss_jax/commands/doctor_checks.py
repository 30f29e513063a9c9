"""The checks of `dss doctor`: each looks at one thing and says what it found and what mends it.

Owns the checks. Does not own: errors by their text (settings/troubles.py), options and printing
(doctor.py). Nothing here imports JAX or TensorFlow: what needs them runs in a process of its own,
so that a device that hangs or a library that crashes is a finding.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

OK, WARNING, BAD = 'ok', 'warning', 'bad'
DEVICE_SECONDS = 120.0
LEAST_DISK = 5 << 30
LEAST_MEMORY = 4 << 30
EXTRAS = {
  'teacher': 'dss annotate', 'report': 'dss report', 'plan': 'dss plan', 'launch': 'dss launch',
}  # fmt: skip
"""Extras of the package whose absence is no fault, and what needs them."""


class Finding(NamedTuple):
  """What a check found.

  Attributes:
    level: OK, WARNING or BAD.
    what: was looked at.
    found: in words.
    fix: a command or setting; '' where nothing is wrong.
  """

  level: str
  what: str
  found: str
  fix: str = ''


def all_findings(paths: tuple[str, ...] = (), devices: bool = True) -> Iterator[Finding]:
  """Yields the findings of all checks.

  Args:
    paths: folders, local or gs://, that should be there and be written to.
    devices: whether to start JAX, which takes seconds.
  """
  checks: list[Callable[[], Iterator[Finding]]] = [
    python, versions, combinations, memory, disk, certificates, credentials,
  ]  # fmt: skip
  for check in checks:
    yield from check()
  if devices:
    yield from _in_a_process('devices', _DEVICES, DEVICE_SECONDS, _devices)
  for path in paths:
    yield from _path(path)


def python() -> Iterator[Finding]:
  """Python's version and how it was started."""
  version = platform.python_version()
  level = OK if sys.version_info >= (3, 11) else BAD
  fix = '' if level == OK else 'python3.11 -m venv .venv'
  where = 'an environment of its own' if sys.prefix != sys.base_prefix else "the system's"
  yield Finding(level, 'Python', f'{version} in {sys.prefix} ({where})', fix)
  encoding = sys.getfilesystemencoding()
  if encoding != 'utf-8':
    yield Finding(WARNING, 'text', f'files have names in {encoding}', 'export PYTHONUTF8=1')


def versions() -> Iterator[Finding]:
  """The installed versions, against what the package asks for."""
  from packaging.requirements import Requirement

  try:
    required = importlib.metadata.requires('dss_jax') or []
  except importlib.metadata.PackageNotFoundError:
    yield Finding(WARNING, 'dss_jax', 'runs from its folder, without being installed',
                  'pip install -e .')  # fmt: skip
    return
  missing, wrong, fine = [], [], 0
  absent: dict[str, list[str]] = {}
  for requirement in map(Requirement, required):
    extra = next((one for one in EXTRAS if _is_of(requirement, one)), None)
    if extra is None and requirement.marker and not requirement.marker.evaluate({'extra': ''}):
      continue
    installed = _version(requirement.name)
    if installed is None and extra is not None:
      absent.setdefault(extra, []).append(requirement.name)
    elif installed is None:
      missing.append(requirement.name)
    elif not requirement.specifier.contains(installed, prereleases=True):
      wrong.append(f'{requirement.name} {installed}, expected {requirement.specifier}')
    else:
      fine += 1
  if missing or wrong:
    found = '; '.join([*wrong, *(f'{name} is missing' for name in missing)])
    yield Finding(BAD, 'versions', found, 'pip install -r requirements.txt')
  else:
    shown = ', '.join(f'{name} {_version(name)}' for name in ('jax', 'flax', 'tensorflow'))
    yield Finding(OK, 'versions', f'{fine} libraries are as required ({shown})')
  for extra, names in absent.items():
    yield Finding(OK, f'extra {extra}', f'not installed ({", ".join(names)}); {EXTRAS[extra]} '
                  f"needs it: pip install 'dss_jax[{extra}]'")  # fmt: skip


def _is_of(requirement, extra: str) -> bool:
  marker = requirement.marker
  return marker is not None and not marker.evaluate({'extra': ''}) and marker.evaluate(
    {'extra': extra}
  )  # fmt: skip


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def combinations(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
  """Libraries and variables that are known not to go together."""
  get = environment.get
  jax, jaxlib = _version('jax'), _version('jaxlib')
  if jax and jaxlib and jax.split('.')[:2] != jaxlib.split('.')[:2]:
    yield Finding(BAD, 'jax', f'jax {jax} with jaxlib {jaxlib}', f'pip install jaxlib=={jax}')
  for plugin in ('jax-cuda12-plugin', 'jax-cuda13-plugin'):
    version = _version(plugin)
    if version and jaxlib and version != jaxlib:
      yield Finding(BAD, 'CUDA', f'{plugin} {version} with jaxlib {jaxlib}',
                    f'pip install {plugin}=={jaxlib}')  # fmt: skip
  if _version('tensorflow') and _version('tensorflow-cpu'):
    yield Finding(BAD, 'tensorflow', 'tensorflow and tensorflow-cpu overwrite each other',
                  'pip uninstall tensorflow-cpu, then pip install -r requirements.txt')  # fmt: skip
  if get('TPU_SKIP_MDS_QUERY'):
    yield Finding(BAD, 'TPU', 'TPU_SKIP_MDS_QUERY is set, so that hosts do not find each other',
                  'unset TPU_SKIP_MDS_QUERY')  # fmt: skip
  if 'cuda' in get('LD_LIBRARY_PATH', '').lower() and any(
    _version(f'jax-cuda{n}-plugin') for n in (12, 13)
  ):
    yield Finding(WARNING, 'CUDA', "LD_LIBRARY_PATH names the system's CUDA, which comes before "
                  'the one that jax was built with', 'unset LD_LIBRARY_PATH')  # fmt: skip
  if get('JAX_ENABLE_X64', '').lower() in ('1', 'true'):
    yield Finding(WARNING, 'jax', 'JAX_ENABLE_X64 is set; nothing here was tested with it',
                  'unset JAX_ENABLE_X64')  # fmt: skip
  shadows = [name for name in ('gin', 'jax', 'flax', 'seqio', 'tensorflow', 'rich')
             if os.path.exists(f'{name}/__init__.py') or os.path.exists(f'{name}.py')]  # fmt: skip
  if shadows:
    yield Finding(WARNING, 'working directory', f'{shadows[0]} of it is named like a library',
                  f'rename {shadows[0]}')  # fmt: skip


def memory(meminfo: pathlib.Path = pathlib.Path('/proc/meminfo')) -> Iterator[Finding]:
  """What is free, of the machine and of its container."""
  try:
    known = dict(re.findall(r'^(\w+):\s+(\d+) kB', meminfo.read_text(), re.MULTILINE))
    free, total = (int(known[name]) << 10 for name in ('MemAvailable', 'MemTotal'))
  except (OSError, KeyError):
    return
  limit = _cgroup_limit()
  free, total = (min(one, limit) if limit else one for one in (free, total))
  level = OK if free >= LEAST_MEMORY else WARNING
  fix = '' if level == OK else 'end other programs; the tiny student needs 2 GB, base 16 GB'
  yield Finding(level, 'memory', f'{free / 1e9:.1f} of {total / 1e9:.1f} GB are free', fix)


def _cgroup_limit() -> int | None:
  try:
    text = pathlib.Path('/sys/fs/cgroup/memory.max').read_text().strip()
  except OSError:
    return None
  return int(text) if text.isdigit() else None


def disk() -> Iterator[Finding]:
  """What is free where files are written."""
  home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  folders = {'.': 'working directory', tempfile.gettempdir(): 'temporary files', home: 'cache'}
  for folder, what in folders.items():
    path = pathlib.Path(folder)
    while not path.exists() and path != path.parent:
      path = path.parent
    free = shutil.disk_usage(path).free
    where = f'{what} ({os.path.abspath(folder)})'
    if not os.access(path, os.W_OK):
      yield Finding(BAD, 'disk', f'{where} cannot be written', 'another folder: cd, TMPDIR, '
                    'XDG_CACHE_HOME')  # fmt: skip
    else:
      level = OK if free >= LEAST_DISK else WARNING
      fix = '' if level == OK else 'remove old runs and caches; --checkpoints_to_keep=1'
      yield Finding(level, 'disk', f'{where}: {free / 1e9:.1f} GB are free', fix)


def certificates(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
  """By what servers are trusted, the proxy, and the clock, by which certificates are judged."""
  for name in ('SSL_CERT_FILE', 'REQUESTS_CA_BUNDLE', 'CURL_CA_BUNDLE', 'SSL_CERT_DIR'):
    path = environment.get(name)
    if path and not os.path.exists(path):
      yield Finding(BAD, 'certificates', f'{name} names {path}, which does not exist',
                    f'unset {name}')  # fmt: skip
  known = ssl.get_default_verify_paths()
  if not (known.cafile or known.capath or environment.get('SSL_CERT_FILE')):
    yield Finding(WARNING, 'certificates', 'the system has none', 'apt install ca-certificates')
  else:
    yield Finding(OK, 'certificates', f'of {environment.get("SSL_CERT_FILE") or known.cafile or known.capath}')  # fmt: skip # noqa: E501
  for name in ('HTTPS_PROXY', 'https_proxy'):
    if environment.get(name):
      address = urllib.parse.urlsplit(environment[name])
      yield Finding(OK, 'proxy', f'{name} leads to {address.hostname}:{address.port}')
  if time.time() < 1_760_000_000:  # October 2025, before this package was written
    yield Finding(BAD, 'clock', f'it is {time.strftime("%Y-%m-%d")} by this machine',
                  'set the clock: certificates seem to be of the future')  # fmt: skip


def credentials(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
  """Whether keys are there; none is ever shown or sent."""
  key = environment.get('OPENAI_API_KEY', '')
  if key != key.strip() or key[:1] in ('"', "'"):
    yield Finding(BAD, 'teacher', 'OPENAI_API_KEY has white space or quotes around it',
                  'export OPENAI_API_KEY=... without them')  # fmt: skip
  else:
    state = 'is set' if key else 'is not set; dss annotate needs it for servers that ask for a key'
    yield Finding(OK, 'teacher', f'OPENAI_API_KEY {state}')
  named = environment.get('GOOGLE_APPLICATION_CREDENTIALS')
  found = pathlib.Path(
    named or '~/.config/gcloud/application_default_credentials.json'
  ).expanduser()
  if named and not found.is_file():
    yield Finding(BAD, 'Google Cloud', 'GOOGLE_APPLICATION_CREDENTIALS names a file that does not '
                  'exist', 'unset it, or give the path of a key file')  # fmt: skip
  else:
    state = 'are there' if found.is_file() else 'are not there; gs:// and dss launch need them: ' \
      'gcloud auth application-default login'  # fmt: skip
    yield Finding(OK, 'Google Cloud', f'credentials {state}')
  token = pathlib.Path('~/.cache/huggingface/token').expanduser()
  has_token = bool(environment.get('HF_TOKEN')) or token.is_file()
  state = 'is there' if has_token else 'is not there; public models need none'
  yield Finding(OK, 'Hugging Face', f'a token {state}')


# ---------------------------------------------------------------- in processes of their own

_DEVICES = """\
import json, jax
print(json.dumps([[d.platform, d.device_kind, (d.memory_stats() or {}).get('bytes_limit')]
                  for d in jax.local_devices()]))
"""
_PATH = """\
import json, sys, uuid
from etils import epath
path = epath.Path(sys.argv[1])
probe = path / f'.dss-doctor-{uuid.uuid4().hex[:8]}'
existed = path.exists()
if not existed and '://' not in sys.argv[1]:
  raise SystemExit('there is no such folder')
probe.write_text('x')
probe.unlink()
print(json.dumps(existed))
"""


def _in_a_process(
  what: str,
  program: str,
  seconds: float,
  findings: Callable[[object], Iterator[Finding]],
  *arguments: str,
) -> Iterator[Finding]:
  """The findings of a program's last line, which is JSON; or how it failed."""
  from dss_jax.settings import troubles

  environment = {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'}
  try:
    done = subprocess.run([sys.executable, '-c', program, *arguments], env=environment,
                          capture_output=True, text=True, timeout=seconds)  # fmt: skip
  except subprocess.TimeoutExpired:
    fix = 'another process may hold the device: dss doctor --no-devices looks at the rest'
    yield Finding(BAD, what, f'no answer in {seconds:.0f} s', fix)
    return
  if done.returncode == 0:
    yield from findings(json.loads(done.stdout.splitlines()[-1]))
    return
  lines = done.stderr.strip().splitlines() or [f'the process ended with {done.returncode}']
  known = troubles.find(done.stderr)
  yield Finding(BAD, what, lines[-1][:300], known[0].fix if known else '')


def _devices(found: object) -> Iterator[Finding]:
  assert isinstance(found, list)
  kinds: dict[str, int] = {}
  for kind, name, limit in found:
    room = f', {limit / 1e9:.0f} GB' if limit else ''
    kinds[f'{kind} ({name}{room})'] = kinds.get(f'{kind} ({name}{room})', 0) + 1
  shown = ', '.join(f'{count} x {name}' for name, count in kinds.items())
  is_cpu = all(kind == 'cpu' for kind, _, _ in found)
  if is_cpu and shutil.which('nvidia-smi'):
    yield Finding(WARNING, 'devices', f'{shown}, though there is an NVIDIA driver',
                  "pip install 'dss_jax[gpu]'")  # fmt: skip
  elif is_cpu and os.path.exists('/dev/accel0'):
    yield Finding(WARNING, 'devices', f'{shown}, though this is a TPU VM',
                  "pip install 'dss_jax[tpu]'")  # fmt: skip
  else:
    yield Finding(OK, 'devices', shown)


def _path(path: str) -> Iterator[Finding]:
  def findings(existed: object) -> Iterator[Finding]:
    state = 'is there and' if existed else 'is not there yet, but'
    yield Finding(OK, path, f'{state} can be written')

  yield from _in_a_process(path, _PATH, 60.0, findings, os.path.expanduser(path))
