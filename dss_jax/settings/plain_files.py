"""Files that anybody may have put there: each is looked at before it is opened.

Owns the words for what is no plain file. To open a pipe may take forever, and to read a device too.
"""

import os
import stat

from etils import epath

from dss_jax.settings.errors import ConfigError
from dss_jax.settings.printable import one_line

MAX_BYTES = 64 << 20
"""Of a file that is read as a whole."""
SPECIAL = 'a device, a pipe or a socket'
_SHOWN = 100


def problem(path: epath.PathLike) -> str | None:
  """What is at a path, local or in a bucket, instead of a plain file; None where there is one.

  Raises:
    OSError: it cannot be looked at.
  """
  if '://' in os.fspath(path):
    return None if epath.Path(path).exists() else 'missing'
  try:
    mode = os.stat(path).st_mode  # epath's `is_file` takes a pipe for a file
  except (FileNotFoundError, NotADirectoryError):
    if not os.path.islink(path):
      return 'missing'
    return f'a link to {one_line(os.readlink(path), _SHOWN)}, which does not exist'
  if stat.S_ISDIR(mode):
    return 'a folder'
  return None if stat.S_ISREG(mode) else SPECIAL


def exists(path: epath.PathLike) -> bool:
  """Whether anything is at a path, local or in a bucket.

  Raises:
    ConfigError: nothing is there, as the path or a folder that it is in is a link to nothing.
  """
  if epath.Path(path).exists():
    return True
  for link in (epath.Path(path), *epath.Path(path).parents):
    if os.path.islink(link) and not os.path.exists(link):
      raise ConfigError(f'{link} is {problem(link)}.')
  return False


def size(path: epath.PathLike, expected: str) -> int:
  """The size in bytes of a plain file.

  Args:
    path: of the file.
    expected: what it should hold, for messages: 'the weights'.

  Raises:
    ConfigError: there is no plain file; the message says what there is.
    OSError: it cannot be looked at.
  """
  if what := problem(path):
    raise ConfigError(f'{path} is {what}; expected a file with {expected}.')
  return epath.Path(path).stat().length


def read(path: epath.PathLike, expected: str, most: int = MAX_BYTES) -> bytes:
  """The content of a plain file of at most `most` bytes; see `size`."""
  if (length := size(path, expected)) > most:
    raise ConfigError(f'{path} has {length} bytes; expected {expected} of at most {most} bytes.')
  return epath.Path(path).read_bytes()
