"""A job's folder in the bucket: everything that its hosts and its watcher exchange.

    job.json         the job, without values of environment variables
    env.json         those values, until the job is over; written last, removed first
    package/         the wheel of dss_jax and the versions of what it needs
    files/           files of the submitter's working directory
    compiled/        JAX's compiled programs, so that replaced hosts do not compile again
    hosts/N.json     the state of host N (running, done, stopped, failed), every half minute
    logs/*.log       the hosts' output, in parts, in order of their names
    stop             a request to save and end
    result.json      the job is over: {"state": .., "exit_code": .., "message": ..}

Owns these names. Works on gs:// and on local folders.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from dss_jax.launch.job import Job
from dss_jax.settings import json_form, whole_files
from dss_jax.settings.printable import printable


class JobFolder:
  """The folder of one job."""

  def __init__(self, path: epath.PathLike):
    self.path = epath.Path(path)
    self.compiled = self.path / 'compiled'

  # ---------------------------------------------------------------- the submitter's

  def submit(
    self, job: Job, package: Sequence[pathlib.Path], files: Sequence[str], values: Mapping[str, str]
  ) -> None:
    """Writes what a job's hosts need, and clears what an earlier submission left.

    Args:
      job: the job.
      package: files to install, the wheel among them.
      files: relative paths in the working directory.
      values: of the environment variables.
    """
    self.forget_environment()
    for name in ('result.json', 'stop'):
      (self.path / name).unlink(missing_ok=True)
    for old in ('package', 'files', 'hosts'):
      if (self.path / old).exists():
        (self.path / old).rmtree()
    for local in package:
      self._copy_in(local, 'package/' + local.name)
    for name in files:
      self._copy_in(pathlib.Path(name), 'files/' + name)
    self._write('job.json', dataclasses.asdict(job))
    if values:
      self._write_secret('env.json', dict(values))

  def ask_to_stop(self) -> None:
    """Asks the hosts to save and end."""
    (self.path / 'stop').write_text('')

  # ---------------------------------------------------------------- the hosts'

  def job(self) -> Job:
    """The job.

    Raises:
      ValueError: the folder has none.
    """
    values = self._read('job.json')
    if values is None:
      raise ValueError(f'{self.path} has no job.json: give BUCKET/NAME of a submitted job.')
    try:
      return json_form.from_dict(Job, values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
      what = printable(str(error))[:300]
      raise ValueError(f'{self.path}/job.json is no job of this dss_jax: {what}') from error

  def environment(self) -> dict[str, str]:
    """The values of the environment variables."""
    return self._read('env.json') or {}

  def lay_out_files(self, folder: pathlib.Path) -> None:
    """Copies the submitter's files below `folder`."""
    top = self.path / 'files'
    for source in _files_below(top) if top.exists() else []:
      target = folder / os.path.relpath(source, top)
      target.parent.mkdir(parents=True, exist_ok=True)
      target.write_bytes(source.read_bytes())

  def stop_asked(self) -> bool:
    """Whether the job should save and end."""
    return (self.path / 'stop').exists()

  def report(self, host: int, **values: Any) -> None:
    """Writes a host's state."""
    self._write(f'hosts/{host}.json', values)

  def write_log(self, name: str, content: bytes) -> None:
    """Writes a complete part of the log."""
    self._write_bytes(f'logs/{name}.log', content)

  # ---------------------------------------------------------------- everyone's

  def reports(self) -> dict[int, dict[str, Any]]:
    """The state of each host that has reported."""
    folder = self.path / 'hosts'
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    names = [name for name in names if re.fullmatch(r'[0-9]{1,4}\.json', name)]
    reports = {int(name[:-5]): self._read(f'hosts/{name}') for name in names}
    return {host: reports[host] or {} for host in sorted(reports)}

  def finish(self, state: str, exit_code: int, message: str = '') -> None:
    """Removes the environment's values, and writes the result unless there is one."""
    self.forget_environment()
    if self.result() is None:
      self._write('result.json', {'state': state, 'exit_code': exit_code, 'message': message})

  def forget_environment(self) -> None:
    """Removes the environment's values."""
    (self.path / 'env.json').unlink(missing_ok=True)

  def result(self) -> dict[str, Any] | None:
    """How the job ended, or None.

    Raises:
      ValueError: the file is no result.
    """
    values = self._read('result.json')
    if values is None:
      return None
    code = values.get('exit_code')
    if not isinstance(code, int):
      raise ValueError(f'{self.path}/result.json has no exit code.')
    texts = {name: str(values.get(name) or '') for name in ('state', 'message')}
    return {**texts, 'exit_code': int(code)}

  def logs(self, seen: dict[str, int] | None = None) -> list[str]:
    """The hosts' output since the last call with the same `seen`, part by part."""
    seen = {} if seen is None else seen
    folder = self.path / 'logs'
    texts = []
    for path in sorted(folder.iterdir(), key=lambda p: p.name) if folder.exists() else []:
      if path.suffix != '.log' or path.stat().length == seen.get(path.name):
        continue
      content = path.read_bytes()
      texts.append(content[seen.get(path.name, 0) :].decode(errors='replace'))
      seen[path.name] = len(content)
    return [text for text in texts if text]

  # ----------------------------------------------------------------

  def _copy_in(self, source: pathlib.Path, name: str) -> None:
    self._write_bytes(name, source.read_bytes())

  def _write(self, name: str, values: Mapping[str, Any]) -> None:
    self._write_bytes(name, (json.dumps(values, indent=1) + '\n').encode())

  def _write_bytes(self, name: str, content: bytes) -> None:
    path = self.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_files.write_bytes(path, content)

  def _write_secret(self, name: str, values: Mapping[str, str]) -> None:
    """Writes a new file, for the owner alone and under no other name; it must not exist."""
    path, text = self.path / name, json.dumps(values)
    if str(path).startswith('gs://'):
      path.write_text(text)  # the bucket's permissions decide who may read it
      return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, 'w', encoding='utf-8') as file:
      file.write(text)

  def _read(self, name: str) -> dict[str, Any] | None:
    try:
      values = json.loads((self.path / name).read_bytes())
    except FileNotFoundError:
      return None
    except (ValueError, RecursionError):  # the first also of text that is not UTF-8
      values = None
    if not isinstance(values, dict):
      raise ValueError(f'{self.path}/{name} is not what `dss launch` or a host wrote.')
    return values


def _files_below(folder: epath.Path) -> list[epath.Path]:
  files: list[epath.Path] = []
  for path in folder.iterdir():
    files += _files_below(path) if path.is_dir() else [path]
  return files
