"""The checks of `dss doctor`: each looks at one thing and says what it found and what mends it.

Owns the checks of this machine and the order of all. Does not own: those of certificates and keys
(doctor_access.py), errors by their text (settings/troubles.py), options and printing (doctor.py).
Nothing here imports JAX or TensorFlow: what needs them runs in a process of its own, so that a
device that hangs or a library that crashes is a finding.
"""

import functools
import glob
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping

from dss_jax.commands import doctor_access
from dss_jax.commands.findings import BAD, OK, WARNING, Finding
from dss_jax.settings import free_memory

DEVICE_SECONDS = 120.0
GOOGLE = '0x1ae0'
"""The vendor of a TPU on the bus."""
LEAST_DISK = 5 << 30
LEAST_MEMORY = 4 << 30
EXTRAS = {
  'teacher': 'dss annotate', 'report': 'dss report', 'plan': 'dss plan', 'launch': 'dss launch',
  'serve': 'dss serve',
}  # fmt: skip
"""Extras of the package whose absence is no fault, and what needs them."""


def all_findings(paths: tuple[str, ...] = (), devices: bool = True) -> Iterator[Finding]:
  """Yields the findings of all checks.

  Args:
    paths: folders, local or gs://, that should be there and be written to.
    devices: whether to start JAX, which takes seconds.
  """
  checks: list[Callable[[], Iterator[Finding]]] = [
    python, versions, combinations, memory, disk, doctor_access.certificates, doctor_access.proxy,
    doctor_access.clock, doctor_access.teacher, doctor_access.google_cloud,
    doctor_access.hugging_face,
  ]  # fmt: skip
  if devices:
    checks.append(_all_devices)
  checks += [functools.partial(_path, path) for path in paths]
  for check in checks:
    try:
      yield from check()
    except Exception as error:  # its text may have a part of a key
      name = getattr(check, '__name__', '') or 'path'
      yield Finding(BAD, name.strip('_'), f'this check failed itself: {type(error).__name__} in '
                    f'line {_line(error)}', 'please report this')  # fmt: skip


def _line(error: BaseException) -> str:
  place = traceback.extract_tb(error.__traceback__)[-1]
  return f'{place.lineno} of {os.path.basename(place.filename)}'


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
  missing: list[Requirement] = []
  wrong: list[Requirement] = []
  fine = 0
  absent: dict[str, list[str]] = {}
  for requirement in map(Requirement, required):
    extra = next((one for one in EXTRAS if _is_of(requirement, one)), None)
    if extra is None and requirement.marker and not requirement.marker.evaluate({'extra': ''}):
      continue
    installed = _version(requirement.name)
    if installed is None and extra is not None:
      absent.setdefault(extra, []).append(requirement.name)
    elif installed is None:
      missing.append(requirement)
    elif not requirement.specifier.contains(installed, prereleases=True):
      wrong.append(requirement)
    else:
      fine += 1
  if missing or wrong:
    parts = [f'{one.name} {_version(one.name)}, expected {one.specifier}' for one in wrong]
    parts += [f'{one.name} is missing' for one in missing]
    wanted = [shlex.quote(str(one).partition(';')[0]) for one in wrong + missing]
    yield Finding(BAD, 'versions', '; '.join(parts), f'pip install {" ".join(wanted)}')
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
                  'pip uninstall tensorflow-cpu, then pip install --force-reinstall --no-deps '
                  f'tensorflow=={_version("tensorflow")}')  # fmt: skip
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


def memory(root: pathlib.Path = pathlib.Path('/')) -> Iterator[Finding]:
  """What is free, of the machine and of its container."""
  found = free_memory.read(root)
  if found is None:
    return
  level = OK if found.available >= LEAST_MEMORY else WARNING
  fix = '' if level == OK else 'end other programs; the tiny student needs 2 GB, base 16 GB'
  free, total = found.available / 1e9, found.total / 1e9
  yield Finding(level, 'memory', f'{free:.1f} of {total:.1f} GB are free', fix)


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


def _all_devices() -> Iterator[Finding]:
  yield from _in_a_process('devices', _DEVICES, DEVICE_SECONDS, _devices)


def _devices(
  found: object, environment: Mapping[str, str] = os.environ, root: str = '/'
) -> Iterator[Finding]:
  assert isinstance(found, list)
  kinds: dict[str, int] = {}
  for kind, name, limit in found:
    room = f', {limit / 1e9:.0f} GB' if limit else ''
    kinds[f'{kind} ({name}{room})'] = kinds.get(f'{kind} ({name}{room})', 0) + 1
  shown = ', '.join(f'{count} x {name}' for name, count in kinds.items())
  unused = ''
  if all(kind == 'cpu' for kind, _, _ in found):
    unused = 'gpu' if shutil.which('nvidia-smi') else 'tpu' if _has_tpu(root) else ''
  if unused:
    there = {'gpu': 'there is an NVIDIA driver', 'tpu': 'this is a TPU VM'}[unused]
    asked = [name for name in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME') if environment.get(name)]
    fix = f'unset {" ".join(asked)}' if asked else f"pip install 'dss_jax[{unused}]'"
    yield Finding(WARNING, 'devices', f'{shown}, though {there}', fix)
  else:
    yield Finding(OK, 'devices', shown)


def _has_tpu(root: str) -> bool:
  """Whether a TPU's device file is there: /dev/accel0, or /dev/vfio/0 and a device of Google's."""
  if glob.glob(f'{root}/dev/accel[0-9]*'):
    return True
  vendors = glob.glob(f'{root}/sys/bus/pci/devices/*/vendor')
  is_googles = any(pathlib.Path(one).read_text().strip() == GOOGLE for one in vendors)
  return is_googles and bool(glob.glob(f'{root}/dev/vfio/[0-9]*'))


def _path(path: str) -> Iterator[Finding]:
  def findings(existed: object) -> Iterator[Finding]:
    state = 'is there and' if existed else 'is not there yet, but'
    yield Finding(OK, path, f'{state} can be written')

  yield from _in_a_process(path, _PATH, 60.0, findings, os.path.expanduser(path))
