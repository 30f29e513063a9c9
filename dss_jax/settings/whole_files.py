"""Files that are written atomically, local or in a bucket, and their absolute paths."""

import contextlib
import uuid
from collections.abc import Iterator

from etils import epath


def absolute(path: epath.PathLike) -> epath.Path:
  """A path that does not depend on the working directory; a bucket's path never does.

  epath's own `absolute` would take gs:// for a local folder.
  """
  path = epath.Path(path)
  return path if '://' in str(path) else path.absolute()


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a UTF-8 file atomically."""
  write_bytes(path, text.encode())


def write_bytes(path: epath.PathLike, content: bytes) -> None:
  """Writes a file atomically: to a temporary name of its own, which is then renamed.

  Raises:
    OSError: it cannot be written, and is as it was; the message names it.
  """
  path = epath.Path(path)
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:8]}.tmp')
  try:
    with naming(path):
      temporary.write_bytes(content)
      temporary.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def naming(path: epath.PathLike) -> Iterator[None]:
  """Lets an OSError within name this path: that of a full disk names none."""
  try:
    yield
  except OSError as error:
    if error.errno is None:
      raise
    raise OSError(error.errno, error.strerror, str(path)) from error
