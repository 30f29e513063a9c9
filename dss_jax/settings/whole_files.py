"""Files that are written whole or not at all, here or in a bucket, and their absolute paths."""

from etils import epath


def absolute(path: epath.PathLike) -> epath.Path:
  """A path that does not depend on the working directory; one in a bucket never does.

  Not epath's own `absolute`, which takes gs:// for a folder of this machine.
  """
  path = epath.Path(path)
  return path if '://' in str(path) else path.absolute()


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a UTF-8 file whole or not at all."""
  write_bytes(path, text.encode())


def write_bytes(path: epath.PathLike, content: bytes) -> None:
  """Writes a file whole or not at all: to a temporary name, then renamed."""
  path = epath.Path(path)
  temporary = path.with_name(f'.{path.name}.tmp')
  temporary.write_bytes(content)
  temporary.replace(path)
