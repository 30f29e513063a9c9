"""Folders that appear complete or not at all, however the process ends.

Owns temporary folders beside an output, and what an error, a signal and a full disk do to them.
Single files are whole_files.py's.
"""

import concurrent.futures
import contextlib
import errno
import fcntl
import functools
import glob
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from etils import epath

_P = ParamSpec('_P')
_T = TypeVar('_T')
_FULL = (errno.ENOSPC, errno.EDQUOT)


class MadeMeanwhileError(ValueError):
  """Another process has made the same folder, which is left as it is."""


@contextlib.contextmanager
def new_folder(output: epath.Path) -> Iterator[epath.Path]:
  """A temporary folder that is renamed to `output` where the block ends well, and else removed.

  It has a name of its own, so that two processes may write one output: the first to end has it.
  What a killed process left beside `output` is removed.

  Args:
    output: does not exist or is empty; its parents are made.

  Raises:
    MadeMeanwhileError: another process has made `output` meanwhile.
    OSError: a file cannot be written; if the disk is full, the message says what was not written.
  """
  if os.path.islink(output) and not os.path.exists(output):
    raise ValueError(f'{output} is a link to nothing; name a new folder.')
  temporary = _temporary_name(output)
  with naming_a_full_disk(output), contextlib.ExitStack() as stack:
    try:
      temporary.mkdir(parents=True)
      if '://' not in str(output):
        while not stack.enter_context(_held(pathlib.Path(temporary))):
          temporary = _temporary_name(output)
          temporary.mkdir()
        _remove_abandoned(output, temporary)
      yield temporary
      _rename(temporary, output)
    except BaseException:
      _remove(temporary)
      raise


@contextlib.contextmanager
def naming_a_full_disk(output: epath.Path) -> Iterator[None]:
  """Lets the error of a full disk, a library's too, say which output is not written.

  Args:
    output: what the block writes, or else leaves nothing of.

  Raises:
    OSError: the disk is full.
  """
  try:
    yield
  except Exception as error:
    if not _is_full(error):
      raise
    raise OSError(
      errno.ENOSPC,
      'the disk is full: nothing of this output is left; free some space, or name a folder on '
      'another disk',
      str(output),
    ) from error


def to_its_end(function: Callable[_P, _T]) -> Callable[_P, _T]:
  """Lets a signal end the program only after the function.

  It runs in a thread, which the main one, the only one that gets signals, waits for in any case:
  the threads of a library that writes would go on writing into a folder that is being removed.
  """

  @functools.wraps(function)
  def in_thread(*args: _P.args, **kwargs: _P.kwargs) -> _T:
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
      thread.submit(int).result()  # a signal while the thread starts would not wait for it
      return thread.submit(function, *args, **kwargs).result()

  return in_thread


def _temporary_name(output: epath.Path) -> epath.Path:
  return output.with_name(f'.{output.name}.tmp-{secrets.token_hex(4)}')


def _remove(folder: epath.Path) -> None:
  """Removes a folder in which threads of a library that failed may go on writing for a moment."""
  for _ in range(20):
    with contextlib.suppress(OSError):
      folder.rmtree(missing_ok=True)
    if not folder.exists():
      return
    time.sleep(0.05)
  folder.rmtree()


def _rename(folder: epath.Path, output: epath.Path) -> None:
  """Gives a folder its name; an empty local folder of that name is replaced."""
  if '://' in str(output):
    folder.replace(output)
    return
  try:
    os.replace(folder, output)
  except OSError as error:
    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
      raise
    raise MadeMeanwhileError(
      f'{output} has been made by somebody else meanwhile and is left as it is; name a new folder.'
    ) from error


def _is_full(error: Exception) -> bool:
  """Whether an error, of the system or of a library that wraps it, says that the disk is full."""
  code = getattr(error, 'errno', None)
  return code in _FULL or any(os.strerror(number) in str(error) for number in _FULL)


@contextlib.contextmanager
def _held(folder: pathlib.Path) -> Iterator[bool]:
  """Locks a new folder, as a sign that its process lives.

  Gives False where another process took it for abandoned before it was locked, and removed it.
  """
  try:
    descriptor = os.open(folder, os.O_RDONLY)
  except FileNotFoundError:
    yield False
    return
  try:
    with contextlib.suppress(OSError):  # a file system without locks: others leave it alone
      fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield folder.exists()
  finally:
    os.close(descriptor)


def _remove_abandoned(output: epath.Path, own: epath.Path) -> None:
  """Removes the temporary folders of processes that were killed while they wrote this output."""
  for folder in pathlib.Path(output.parent).glob(f'.{glob.escape(output.name)}.tmp-*'):
    if folder.name == own.name or folder.is_symlink():
      continue
    with contextlib.suppress(OSError):  # it is locked, or gone already
      descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
      try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
      finally:
        os.close(descriptor)
