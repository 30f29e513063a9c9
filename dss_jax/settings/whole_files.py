"""Files that are written atomically, local or in a bucket, and their absolute paths."""

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
  """Writes a file atomically: to a temporary name, which is then renamed."""
  path = epath.Path(path)
  temporary = path.with_name(f'.{path.name}.tmp')
  temporary.write_bytes(content)
  temporary.replace(path)
