"""Checks that settings have the types of their dataclass. Does not know where they come from."""

import collections.abc
import math
import os
import sys
import types
import typing
from typing import Annotated, Any

from dss_jax.settings.printable import one_line

MOST = 2**31 - 1
"""The largest count of steps, rows or tokens: devices index with 32 bits."""
PATH_MARK = 'path'
# A file or folder, here or in a bucket; `~` is the user's home. For fields of type str.
Path = Annotated[str, PATH_MARK]


def check(instance: Any) -> None:
  """Refuses a dataclass instance with a field of another type; expands `~` in paths.

  Raises:
    ValueError: the message has the field, its type and what was given.
  """
  for name, hint in typing.get_type_hints(type(instance), include_extras=True).items():
    value = getattr(instance, name)
    if not fits(value, hint):
      raise ValueError(f'{type(instance).__name__}.{name} is {wanted(value, hint)}, not {value!r}.')
    if is_path(hint) and isinstance(value, str):
      object.__setattr__(instance, name, expanded(value))


def expanded(path: str) -> str:
  """A path with the home folder in the place of a `~` or `~user` that it starts with.

  Raises:
    ValueError: there is no such user or no home folder, or it is neither local nor of a bucket.
  """
  if '://' in path and not path.startswith('gs://'):
    raise ValueError(f'{path!r} is no path: expected a file or folder here, or gs://BUCKET/PATH.')
  try:
    path.encode()
  except UnicodeEncodeError:  # bytes of a command line that are not UTF-8 are surrogates
    raise ValueError(
      f'{path!r} is no name of a file that can be used here, as it is not UTF-8: rename it.'
    ) from None
  found = os.path.expanduser(path)
  if found.startswith('~'):
    shown = one_line(path)
    raise ValueError(
      f'{shown}: there is no home folder {shown.split("/")[0]}; a folder of that name is ./{shown}.'
    )
  return found


def options(hint: Any) -> tuple[Any, ...]:
  """The types of a union, or an annotation's single type; `Path` is str."""
  if typing.get_origin(hint) is Annotated:
    return options(typing.get_args(hint)[0])
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    return tuple(member for option in typing.get_args(hint) for member in options(option))
  return (hint,)


def is_path(hint: Any) -> bool:
  """Whether an annotation is `Path`, or a union with it."""
  if typing.get_origin(hint) is Annotated:
    return PATH_MARK in hint.__metadata__
  return any(map(is_path, typing.get_args(hint)))


def kind(hint: Any) -> str:
  """An annotation for messages: 'int', 'float | None', 'Mapping[str, int]'."""
  names = ('None' if option is type(None) else _name(option) for option in options(hint))
  return ' | '.join(names)


def wanted(value: Any, hint: Any) -> str:
  """What a value should be that does not fit, for messages."""
  if isinstance(value, float) and not math.isfinite(value):
    return 'a finite number'
  return f'of type {kind(hint)}'


def fits(value: Any, hint: Any) -> bool:
  """Whether a value has an annotated type, and its elements the types within the brackets.

  An int is a float; a bool is not a number, and no setting is infinite or NaN.
  """
  return any(_fits(value, option) for option in options(hint))


def _fits(value: Any, hint: Any) -> bool:
  if hint is Any:
    return True
  outer = typing.get_origin(hint) or hint
  if outer in (int, float) and isinstance(value, bool):
    return False
  if outer is float:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max
  if outer is collections.abc.Sequence and isinstance(value, str):
    return False
  if not isinstance(value, outer):
    return False
  inner = typing.get_args(hint)
  if not inner:
    return True
  if isinstance(value, collections.abc.Mapping):
    return all(fits(key, inner[0]) and fits(item, inner[1]) for key, item in value.items())
  if isinstance(value, list | tuple):
    return all(fits(item, inner[0]) for item in value)
  return True


def _name(hint: Any) -> str:
  if isinstance(hint, type) and not typing.get_args(hint):
    return hint.__name__
  return str(hint).replace('typing.', '').replace('collections.abc.', '')
