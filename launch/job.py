"""A job: a command of dss, and what it runs on. Plain values that every target reads.

Owns the forms of these values, and the files of this machine that a command names. Knows no target;
whether the command can work is checks.py's.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from dss_jax.launch import needed
from dss_jax.settings import arguments, fields, topologies

NAME = re.compile(r'[a-z]([-a-z0-9]{0,26}[a-z0-9])?')
T5X = 't5x'
GIN_VERBS = ('train', 'compare', 'sweep', 'evaluate', 'predict', T5X)
VERBS = (*GIN_VERBS, 'prepare', 'vocab', 'import', 'export')
SHIPPED_BYTES_LIMIT = 100 * 2**20
BUCKET = re.compile(r'gs://[a-z0-9]([a-z0-9._-]{0,220}[a-z0-9])?(/.*)?')
# A folder in it; without the characters that gcloud takes for patterns.
_FOLDER = re.compile(r'gs://[^/]+(/[\w.=+@~-]+)*/?', re.ASCII)
_FORMS = {  # of a setting: its form, and that in words
  'project': (r'([a-z0-9.-]+:)?[a-z]([-a-z0-9]{0,28}[a-z0-9])?', 'a project id such as my-project'),
  'zone': (r'[a-z]+-[a-z]+[0-9]+-[a-z][a-z0-9]*', 'a zone such as us-west4-a, not a region'),
  'service_account': (r'[^@\s]+@[^@\s]+\.[^@\s]+', 'the e-mail of an account'),
}
_KEY = re.compile(rb'PRIVATE KEY-----|"(refresh_token|client_secret)"')


@dataclasses.dataclass(frozen=True)
class Job:
  """One command on one machine or slice.

  Attributes:
    name: of the job, its folder in the bucket and its rented resource.
    command: arguments of `dss`, the verb first, e.g. ('train', '--model_dir=gs://b/cqa').
    topology: a name of `dss_jax.settings.topologies`.
    bucket: gs:// path, or folder, that this machine and the job's hosts share.
    project: of Google Cloud.
    zone: of Google Cloud.
    spot: cheaper, but may be preempted at any moment.
    environment: names of this machine's environment variables that the job gets too.
    service_account: e-mail of the account the hosts act as; None: the project's default.
    restarts: how often a host runs a failed command again, in place.
    retries: how often a lost or refused resource is requested again, in total.
  """

  name: str
  command: tuple[str, ...]
  topology: str = 'cpu'
  bucket: str = ''
  project: str = ''
  zone: str = ''
  spot: bool = False
  environment: tuple[str, ...] = ()
  service_account: str | None = None
  restarts: int = 2
  retries: int = 20

  def __post_init__(self):
    fields.check(self)
    if not all(isinstance(text, str) for text in (*self.command, *self.environment)):
      raise ValueError('the command and the environment of a job are texts.')
    if not NAME.fullmatch(self.name):
      raise ValueError(
        f'--name is a lower-case letter, then at most 27 lower-case letters, digits or dashes, '
        f'without a dash at the end; not {self.name!r}.'
      )
    if not self.command or self.command[0] not in VERBS:
      given = self.command[0] if self.command else 'nothing'
      raise ValueError(f'expected a verb of dss ({", ".join(VERBS)}) after `--`, not {given!r}.')
    topologies.topology(self.topology)
    for what in ('restarts', 'retries'):
      if getattr(self, what) < 0:
        raise ValueError(f'--{what} is 0 or more, not {getattr(self, what)}.')

  @property
  def folder(self) -> str:
    """Where the job's files are, in the bucket."""
    return f'{self.bucket.rstrip("/")}/{self.name}'

  @property
  def machine(self) -> topologies.Topology:
    """What the job runs on."""
    return topologies.topology(self.topology)

  @property
  def extra(self) -> str:
    """The extras of dss_jax that its hosts install, as pip takes them: '[tpu,t5x]', or ''."""
    wanted = {'tpu': self.machine.platform == 'tpu', T5X: self.command[0] == T5X}
    names = ','.join(name for name, is_wanted in wanted.items() if is_wanted)
    return f'[{names}]' if names else ''


def check_remote(job: Job) -> None:
  """Refuses values that no cloud takes, and results that would be lost with the machine.

  Raises:
    ValueError: the message has the flag, what was expected and what was given.
  """
  if not job.bucket:
    raise ValueError('a job on another machine needs --bucket=gs://BUCKET/FOLDER.')
  if os.path.isabs(job.bucket):
    return  # a folder that all machines share, as in a test
  check_forms(job)
  odd = '..' in job.bucket or not _FOLDER.fullmatch(job.bucket)
  if odd or not BUCKET.fullmatch(job.bucket):
    raise ValueError(
      f'--bucket is gs://BUCKET/FOLDER, with a bucket of lower-case letters, digits, dashes, '
      f'underscores and dots; not {job.bucket!r}.'
    )
  for name, value in settings(job.command):
    if macro_of(name) == 'MODEL_DIR' and not value.strip('\'"').startswith('gs://'):
      flag = '--gin.MODEL_DIR=\\"gs://...\\"' if job.command[0] == T5X else '--model_dir=gs://...'
      raise ValueError(f'MODEL_DIR {value!r} is on a machine that will be deleted: give {flag} .')


def check_forms(job: Job) -> None:
  """Refuses a project, zone or account that no cloud has.

  Raises:
    ValueError: the message has the flag, what was expected and what was given.
  """
  for name, (form, words) in _FORMS.items():
    value = getattr(job, name)
    if value and not re.fullmatch(form, value):
      raise ValueError(f'--{name} is {words}; not {value!r}.')


def macro_of(name: str) -> str:
  """The setting that a flag's name stands for: 'gin.MODEL_DIR' and 'model-dir' are MODEL_DIR."""
  macro = name.replace('-', '_').upper().removeprefix('GIN.')
  return arguments.SHORT_FORMS.get(macro, macro)


def settings(command: Sequence[str]) -> list[tuple[str, str]]:
  """The (name, value) pairs of a command's --name=value and --name value arguments."""
  pairs = []
  for index, argument in enumerate(command):
    name, equals, value = argument.partition('=')
    if not name.startswith('--'):
      continue
    following = command[index + 1] if index + 1 < len(command) else ''
    if equals or not following.startswith('--'):
      pairs.append((name[2:], value if equals else following))
  return pairs


def files_to_ship(
  command: Sequence[str], more: Sequence[str] = (), named: Sequence[tuple[str, str]] = ()
) -> tuple[str, ...]:
  """Files of the working directory that the job needs, as paths relative to it.

  They are the files that the command names by a relative path (gin files with those that they
  include, a vocabulary), the module of `--mixture_or_task_module` or `--module` with what it
  imports from here, and `more`: files, or folders with everything below them but what `left_out`
  names.

  Args:
    command: arguments of dss, the verb first.
    more: paths of --file.
    named: further (setting, value) pairs, as a gin file has them.

  Raises:
    ValueError: a file is missing, outside the working directory, or a private key; or all are too
      large.
  """
  files: set[pathlib.Path] = set()
  if command and command[0] in GIN_VERBS:
    given = arguments.split(command[1:])
    files |= needed.gin_files(given.files, given.search_paths, command[0] == T5X)
  for name, value in (*settings(command), *named):
    if macro_of(name) == arguments.MODULE:
      files |= needed.module_files(value.strip('\'"'))
    elif value and not os.path.isabs(value) and os.path.isfile(value):  # or a long text
      files.add(pathlib.Path(value))
  for text in more:
    files |= set(_below(text)) - set(_left_out(text))
  return tuple(sorted(_checked(files)))


def left_out(more: Sequence[str]) -> tuple[str, ...]:
  """Files in folders of --file that are not shipped: hidden ones, and those with a private key."""
  return tuple(str(path) for text in more for path in _left_out(text))


def _below(text: str) -> list[pathlib.Path]:
  """The files of one --file."""
  path = pathlib.Path(text)
  if not path.exists():
    raise ValueError(f'--file={text}: there is no such file or folder in {pathlib.Path.cwd()}.')
  if path.is_file() and _has_key(path):
    raise ValueError(
      f'--file={text} has a private key or a token, which all who read the bucket would have: the '
      'hosts act as --service_account, and --env=NAME passes a variable.'
    )
  files = sorted(path.rglob('*')) if path.is_dir() else [path]
  return [file for file in files if file.is_file() and '__pycache__' not in file.parts]


def _left_out(text: str) -> list[pathlib.Path]:
  path = pathlib.Path(text)
  hidden = lambda file: any(part[0] == '.' for part in file.relative_to(path).parts)  # noqa: E731
  return [file for file in _below(text) if path.is_dir() and (hidden(file) or _has_key(file))]


def _has_key(path: pathlib.Path) -> bool:
  small = path.stat().st_size < 2**20  # no key is larger
  return small and bool(_KEY.search(path.read_bytes()))


def _checked(files: set[pathlib.Path]) -> set[str]:
  """The files by their names below the working directory; a link keeps its own name."""
  here = pathlib.Path.cwd().resolve()
  names = {path: os.path.relpath(path.absolute(), pathlib.Path.cwd()) for path in files}
  for path, name in names.items():
    if name.split(os.sep)[0] == '..' or not path.resolve().is_relative_to(here):
      raise ValueError(
        f'{str(path.resolve())!r} is outside the working directory {here}; run dss in a folder '
        'above it.'
      )
  size = sum(path.stat().st_size for path in files)
  if size > SHIPPED_BYTES_LIMIT:
    raise ValueError(
      f'{len(files)} files of {size / 2**20:.0f} MiB are too large to ship: put data '
      'into the bucket and give its gs:// path.'
    )
  return set(names.values())


def values_of(names: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
  """The values of these variables in an environment.

  Raises:
    ValueError: one is not set.
  """
  missing = [name for name in names if name not in environment]
  if missing:
    raise ValueError(f'--env={missing[0]}: that variable is not set here; export it first.')
  return {name: environment[name] for name in names}
