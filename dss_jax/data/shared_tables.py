"""What a process has read of its tasks, for further runs in it: the tables used last.

Off until `keeping`, since a source may change between two runs of one process. Does not own reading
(examples.py).
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

MOST = 2 * 10**9  # bytes of arrays

_tables: dict[Hashable, Any] | None = None
_depend_on: Hashable = None


@contextlib.contextmanager
def keeping() -> Iterator[None]:
  """Within it, a table is read once; within another, what that has read counts too."""
  global _tables
  before = _tables
  _tables = {} if before is None else before
  try:
    yield
  finally:
    _tables = before


def depend_on(what: Hashable) -> None:
  """Drops what is kept, unless it depends on the same, such as a vocabulary."""
  global _depend_on
  if what != _depend_on and _tables is not None:
    _tables.clear()
  _depend_on = what


def get(key: Hashable, read: Callable[[], Any]) -> Any:
  """The table of a key, a dataclass of arrays; read where none is kept."""
  if _tables is None:
    return read()
  table = _tables.pop(key) if key in _tables else read()
  _tables[key] = table  # the last one
  while len(_tables) > 1 and sum(map(_bytes, _tables.values())) > MOST:
    del _tables[next(iter(_tables))]
  return table


def _bytes(table: Any) -> int:
  return sum(getattr(value, 'nbytes', 0) for value in vars(table).values())
