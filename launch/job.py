"""A job: a command of dss, and what it runs on. Plain values that every target reads.

Owns the checks that need no cloud, and the files of this machine that a command names. Knows no
target.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from dss_jax.settings import arguments, topologies

NAME = re.compile(r'[a-z]([-a-z0-9]{0,26}[a-z0-9])?')
VERBS = ('train', 'compare', 'evaluate', 'predict', 'prepare', 'vocab', 'import', 'export')
SHIPPED_BYTES_LIMIT = 100 * 2**20


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


def check_remote(job: Job) -> None:
  """Refuses a job whose results would be lost with its machine.

  Raises:
    ValueError: no bucket, or a MODEL_DIR on the machine.
  """
  if not job.bucket:
    raise ValueError('a job on another machine needs --bucket=gs://BUCKET/FOLDER.')
  if not job.bucket.startswith('gs://'):
    return  # a folder that all machines share, as in a test
  for name, value in settings(job.command):
    named = name in ('model_dir', 'gin.MODEL_DIR')
    if named and not value.strip('\'"').startswith('gs://'):
      raise ValueError(
        f'MODEL_DIR {value} is on a machine that will be deleted: give --model_dir=gs://... .'
      )


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


def files_to_ship(command: Sequence[str], more: Sequence[str] = ()) -> tuple[str, ...]:
  """Files of the working directory that the job needs, as paths relative to it.

  They are the files that the command names by a relative path (gin files, a vocabulary), those
  of `--mixture_or_task_module` or `--module`, and `more`: files, or folders with everything below
  them.

  Raises:
    ValueError: one of `more` is missing or outside the working directory, or all are too large.
  """
  here = pathlib.Path.cwd().resolve()
  files: set[pathlib.Path] = set()
  for name, value in settings(command):
    macro = name.replace('-', '_').upper().removeprefix('GIN.')
    module = arguments.SHORT_FORMS.get(macro, macro) == arguments.MODULE
    candidate = here / (value.replace('.', '/') + '.py' if module else value)
    if value and not os.path.isabs(value) and candidate.is_file():
      files.add(candidate.resolve())
  for text in more:
    path = here / text
    if not path.exists():
      raise ValueError(f'--file={text}: there is no such file or folder in {here}.')
    below = sorted(path.rglob('*')) if path.is_dir() else [path]
    files |= {
      file.resolve() for file in below if file.is_file() and '__pycache__' not in file.parts
    }
  outside = [path for path in sorted(files) if not path.is_relative_to(here)]
  if outside:
    raise ValueError(
      f'{outside[0]} is outside the working directory {here}; run dss in a folder above it.'
    )
  size = sum(path.stat().st_size for path in files)
  if size > SHIPPED_BYTES_LIMIT:
    raise ValueError(
      f'{len(files)} files of {size / 2**20:.0f} MiB are too large to ship: put data '
      'into the bucket and give its gs:// path.'
    )
  return tuple(str(path.relative_to(here)) for path in sorted(files))


def values_of(names: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
  """The values of these variables in an environment.

  Raises:
    ValueError: one is not set.
  """
  missing = [name for name in names if name not in environment]
  if missing:
    raise ValueError(f'--env={missing[0]}: that variable is not set here; export it first.')
  return {name: environment[name] for name in names}
