"""Who has claimed a request: a process that lives, or a folder of batch files.

A process holds a lock on a file of its own beside the store, which the system takes away with it,
so nobody has to clean up after SIGKILL. A folder keeps its claims, wherever its files are taken,
until their answers are read or it is given up. SQLite in WAL mode works on one machine only, and so
does this.
"""

import contextlib
import fcntl
import os
import pathlib
import uuid
from collections.abc import Iterator

_PROCESS, _FOLDER, _WRITING = 'process ', 'folder ', 'writing '


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


# ---------------------------------------------------------------- folders


def of_folder(folder: pathlib.Path, batch: str, is_written: bool = True) -> str:
  """The owner of requests in batch files.

  Args:
    folder: of the files.
    batch: name of what is written at once, without spaces.
    is_written: they are in a file; else one is being written, or a crash came before its end.
  """
  return f'{_FOLDER if is_written else _WRITING}{batch} {folder.absolute()}'


def is_folder(name: str) -> bool:
  """Whether an owner is a folder of batch files, not a process."""
  return name.startswith((_FOLDER, _WRITING))


def is_being_written(name: str) -> bool:
  """Whether its requests may be in no file."""
  return name.startswith(_WRITING)


def folder_of(name: str) -> pathlib.Path:
  """The folder that an owner is."""
  return pathlib.Path(name[name.index('/') :])


def batch_of(name: str) -> str:
  """The batch of a folder's requests."""
  return name[: name.index('/')].split(' ')[1]


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
  """Lets one process alone write to a folder.

  Raises:
    BlockingIOError: another one does.
  """
  file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  finally:
    os.close(file)


def lives(store: pathlib.Path, name: str) -> bool:
  """Whether an owner still has a right to its claims.

  Args:
    store: the store's file.
    name: of the owner.
  """
  if is_folder(name):
    return True
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
