"""Settings are of the type that their dataclass says. Knows nothing of where they come from."""

import collections.abc
import types
import typing
from typing import Any


def check(instance: Any) -> None:
  """Refuses a dataclass instance with a field of another type than its annotation.

  Raises:
    ValueError: names the field, its type and what was given.
  """
  for name, hint in typing.get_type_hints(type(instance)).items():
    value = getattr(instance, name)
    if not _fits(value, hint):
      kind = hint.__name__ if isinstance(hint, type) else str(hint).replace('typing.', '')
      raise ValueError(f'{type(instance).__name__}.{name} is of type {kind}, not {value!r}.')


def _fits(value: Any, hint: Any) -> bool:
  if hint is Any:
    return True
  if isinstance(hint, types.UnionType):
    return any(_fits(value, option) for option in typing.get_args(hint))
  kind = typing.get_origin(hint) or hint
  if kind in (int, float) and isinstance(value, bool):
    return False
  if kind is float:
    return isinstance(value, int | float)
  if kind is collections.abc.Sequence and isinstance(value, str):
    return False
  return isinstance(value, kind)
