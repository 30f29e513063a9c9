"""Who has claimed a request: a process that lives, or a folder of batch files that exists.

A claim ends with its owner, so nobody has to clean up after SIGKILL: a process holds a lock on a
file of its own beside the store, which the system takes away with it. SQLite in WAL mode works on
one machine only, and so does this.
"""

import contextlib
import fcntl
import os
import pathlib
import uuid

_PROCESS, _FOLDER = 'process ', 'folder '


class Owner:
  """This process, as long as it lives or until `close`."""

  def __init__(self, store: pathlib.Path):
    """Args: the store's file."""
    name = f'{store.name}.{uuid.uuid4().hex[:12]}.owner'
    self.name = _PROCESS + name
    self._path = store.with_name(name)
    self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(self._file, fcntl.LOCK_EX)

  def close(self) -> None:
    """Gives up the name; what is still claimed under it is anybody's."""
    self._path.unlink(missing_ok=True)
    os.close(self._file)


def of_folder(folder: pathlib.Path) -> str:
  """The owner of what is written to batch files in a folder."""
  return f'{_FOLDER}{folder.absolute()}'


def is_folder(name: str) -> bool:
  """Whether an owner is a folder of batch files, not a process."""
  return name.startswith(_FOLDER)


def lives(store: pathlib.Path, name: str) -> bool:
  """Whether an owner still has a right to its claims.

  Args:
    store: the store's file.
    name: of the owner.
  """
  if is_folder(name):
    return pathlib.Path(name.removeprefix(_FOLDER)).is_dir()
  path = store.with_name(pathlib.PurePath(name.removeprefix(_PROCESS)).name)
  try:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
  except FileNotFoundError:
    return False
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    return True
  else:
    with contextlib.suppress(OSError):
      path.unlink()
    return False
  finally:
    os.close(file)
