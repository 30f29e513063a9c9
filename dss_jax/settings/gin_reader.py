"""The files that gin reads: opened for it, and their statements in the order in which they count.

Owns opening and decoding, the order of statements over files that include each other, and the
modules that files import only to register tasks. What is T5X's in a file is kept from gin
(t5x_files.py). Knows nothing of gin's state.
"""

import io
import pathlib
import re
from typing import NamedTuple

from etils import epath

from dss_jax.settings import arguments, fields, t5x_files
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.statements import Statement, gin_root
from dss_jax.settings.t5x_files import Line as Line

FOR_T5X = 't5x'  # the folder of our files that T5X's own trainer reads


class _Open(NamedTuple):
  """A file that gin is reading.

  Attributes:
    place: lines of the includes that led to it, by which its statements are ordered.
    includes: lines of its own includes that gin has not come to.
  """

  place: tuple[int, ...]
  includes: list[int]


class Reader:
  """Opens gin files, in gin's stead, and notes what they say.

  Attributes:
    modules: that files import without using a name of them, as they register tasks; each with the
      file.
  """

  def __init__(self):
    self.modules: dict[str, str] = {}
    self._placed: list[tuple[tuple[int, ...], Statement | Line]] = []
    self._open: list[_Open] = []
    self._roots = 0

  @property
  def statements(self) -> list[Statement]:
    """All statements so far; where two set the same, the later one counts."""
    return [entry for entry in self.lines if isinstance(entry, Statement)]

  @property
  def lines(self) -> list[Statement | Line]:
    """The statements, and the imports and includes of users' files, in their order."""
    return [entry for _, entry in sorted(self._placed, key=lambda placed: placed[0])]

  def open(self, path: str) -> io.StringIO:
    """A file for gin, without what is T5X's.

    Raises:
      ConfigError: the file is not text in UTF-8, or is for T5X's trainer.
      SyntaxError, tokenize.TokenError: the text is not valid gin.
    """
    if pathlib.Path(path).is_relative_to(gin_root() / FOR_T5X):
      raise ConfigError(
        f"{pathlib.Path(path).relative_to(gin_root())} is for `dss t5x`, T5X's own trainer; files "
        'of models/, datasets/ and methods/ are for this command.'
      )
    text = _text(fields.expanded(path))
    read = t5x_files.read(text, path)
    if self._open:
      parent = self._open[-1]
      place = (*parent.place, parent.includes.pop(0))
    else:
      place = self._next_root()
    is_shipped = pathlib.Path(path).is_relative_to(gin_root())
    self._placed += [((*place, one.line), one) for one in read.statements]
    if not is_shipped:
      self._placed += [((*place, one.line), one) for one in read.others]
    self.modules |= {name: path for name in read.modules if name not in self.modules}
    if re.search(r'^[ \t]*(import|from)[ \t]+(?!__gin__|dss_jax)', read.text, re.MULTILINE):
      arguments.search_working_directory()
    self._open.append(_Open(place, list(read.includes)))
    return _File(read.text, path, self._open)

  def add(self, read: list[Statement]) -> None:
    """Adds statements of the command line, which come after those of all files."""
    place = self._next_root()
    self._placed += [(place, statement) for statement in read]

  def _next_root(self) -> tuple[int, ...]:
    self._roots += 1
    return (self._roots,)


class _File(io.StringIO):
  """A file whose end gin announces by closing it; gin puts its name into errors."""

  def __init__(self, text: str, name: str, opened: list[_Open]):
    super().__init__(text)
    self.name = name
    self._opened = opened

  def close(self) -> None:
    """Ends the file; closing it again does nothing."""
    if not self.closed:
      self._opened.pop()
    super().close()


def _text(path: str) -> str:
  """A gin file's text: UTF-8, with or without a byte-order mark."""
  content = epath.Path(path).read_bytes()
  try:
    text = content.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    number = content.count(b'\n', 0, error.start) + 1
    raise ConfigError(f'gin: {path}, line {number}: not UTF-8; save the file as UTF-8.') from error
  if '\0' in text:
    raise ConfigError(
      f'gin: {path}: expected text in UTF-8, got a NUL byte (is it UTF-16 or UTF-32?).'
    )
  return text.replace('\r\n', '\n')
