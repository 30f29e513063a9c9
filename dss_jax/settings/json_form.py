"""Dataclasses to JSON and back, the comparison of two of them, and JSON files that others wrote.

Knows nothing of gin. A file may be anybody's: whatever it holds, reading it gives values of the
expected types or one sentence that names the file and the field.
"""

import collections.abc
import dataclasses
import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from dss_jax.settings import fields, plain_files
from dss_jax.settings.errors import ConfigError

PairsHook = Callable[[list[tuple[str, Any]]], Any]
MOST_VALUES = 2_000_000
"""Of a JSON text of 64 MB; mT5's tokenizer.json has 0.8 million. In memory one takes 64 bytes."""
BYTES_OF_VALUE = 32
"""At least, on average, in a larger text: a file of completions has 150."""
MAX_MESSAGE = 300
"""Letters of a message that repeats a value."""


def to_dict(config: Any) -> dict[str, Any]:
  """A dataclass as plain JSON values."""
  return json.loads(json.dumps(dataclasses.asdict(config), default=dict))


def from_dict(cls: Any, values: Any, where: str = '') -> Any:
  """The inverse of `to_dict`: nested dataclasses by their annotations.

  Args:
    cls: the dataclass.
    values: of its fields; anything that JSON can hold.
    where: the file, for messages.

  Raises:
    ConfigError: a field that is unknown, missing or of another type, or a value that the dataclass
      refuses.
  """
  return _instance(cls, values, where or cls.__name__)


def differences(before: Any, now: Any, ignore: Sequence[str] = ()) -> list[str]:
  """Lines 'name: before -> now' for every value that differs, nested names joined by dots.

  Args:
    before: a dataclass, or what `to_dict` made of one.
    now: likewise.
    ignore: names of values that may differ.
  """
  old, new = (_flat(c if isinstance(c, Mapping) else to_dict(c)) for c in (before, now))
  names = sorted(set(old) | set(new))
  return [
    f'{name}: {old.get(name)!r} -> {new.get(name)!r}'
    for name in names
    if name not in ignore and old.get(name) != new.get(name)
  ]


# ---------------------------------------------------------------- files


def read_text(path: epath.PathLike) -> str:
  """The text of a file of moderate size.

  Raises:
    ConfigError: it is no plain file, larger than `plain_files.MAX_BYTES`, or not UTF-8.
  """
  try:
    return plain_files.read(path, 'text').decode()
  except UnicodeDecodeError as error:
    raise ConfigError(f'{path} is not UTF-8 text: byte {error.start} is wrong.') from error


def parse(text: str | bytes, where: str, pairs_hook: PairsHook | None = None) -> Any:
  """The values of a JSON text.

  Args:
    text: what is parsed.
    where: its file, for messages.
    pairs_hook: makes the value of an object out of its (name, value) pairs; may raise ValueError.

  Raises:
    ConfigError: it is not JSON, nested deeper than Python can follow, or of so many values that
      they would take far more memory than the text.
  """
  most = max(MOST_VALUES, len(text) // BYTES_OF_VALUE)
  if len(text) > most and _marks(text) > most:
    raise ConfigError(
      f'{where} is not JSON that can be read: it has more than {most} commas and opening brackets, '
      'which no file of its kind has.'
    )
  try:
    return json.loads(text, object_pairs_hook=pairs_hook)
  except json.JSONDecodeError as error:
    problem = f'{error.msg.removesuffix(" at")} at character {error.pos + 1}'
    raise ConfigError(f'{where} is not JSON: {problem}.') from error
  except RecursionError:
    raise ConfigError(f'{where} is not JSON that can be read: it is nested too deeply.') from None
  except ValueError as error:  # not UTF-8, an integer of thousands of digits, or of the hook
    raise ConfigError(f'{where} is not JSON: {str(error).split(";")[0]}.') from error


def _marks(text: str | bytes) -> int:
  """At least as many as there are values in a JSON text."""
  if isinstance(text, str):
    return sum(map(text.count, ',[{'))
  return sum(map(text.count, (b',', b'[', b'{')))


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
  """The JSON object in a text; see `parse`.

  Raises:
    ConfigError: the text holds something else.
  """
  values = parse(text, where)
  if not isinstance(values, dict):
    raise ConfigError(f'{where} is {_cut(values)}; expected a JSON object, {{"name": value, ..}}.')
  return values


def read_object(path: epath.PathLike) -> dict[str, Any]:
  """The JSON object in a file; see `read_text` and `parse_object`."""
  return parse_object(read_text(path), str(path))


# ---------------------------------------------------------------- values to dataclasses


def _instance(cls: Any, values: Any, where: str) -> Any:
  if not isinstance(values, Mapping):
    raise ConfigError(f'{where}: expected the fields of {cls.__name__}, not {_cut(values)}.')
  hints = typing.get_type_hints(cls)
  if unknown := sorted(set(values) - set(hints)):
    raise ConfigError(
      f'{where}: {cls.__name__} has no field {_cut(unknown[0])}; another version wrote it.'
    )
  given = {
    name: _value_of(hints[name], value, f'{where}: {cls.__name__}.{name}')
    for name, value in values.items()
  }
  required = {
    field.name
    for field in dataclasses.fields(cls)
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
  }
  if missing := sorted(required - set(given)):
    raise ConfigError(f'{where}: the field {missing[0]!r} of {cls.__name__} is missing.')
  try:
    return cls(**given)
  except (ValueError, ArithmeticError) as error:
    raise ConfigError(f'{where}: {str(error)[:MAX_MESSAGE]}') from error


def _value_of(hint: Any, value: Any, where: str) -> Any:
  """A JSON value converted to its field's type: JSON has neither dataclasses nor tuples."""
  if value is None and fields.fits(None, hint):
    return None
  for option in fields.options(hint):
    if dataclasses.is_dataclass(option):
      return _instance(option, value, where)
    outer, inner = typing.get_origin(option) or option, typing.get_args(option)
    if outer in (tuple, collections.abc.Sequence) and isinstance(value, list):
      return tuple(_value_of(inner[0], item, where) for item in value)
    if outer is collections.abc.Mapping and isinstance(value, dict):
      return {name: _value_of(inner[1], item, f'{where}[{name!r}]') for name, item in value.items()}
  if not fields.fits(value, hint):
    raise ConfigError(f'{where} is {fields.wanted(value, hint)}, not {_cut(value)}.')
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if is_number and float in fields.options(hint) and int not in fields.options(hint):
    try:
      value = float(value)
    except OverflowError:
      value = math.inf
    if not math.isfinite(value):
      raise ConfigError(f'{where} is a finite number, not {value}.')
  return value


def _cut(value: Any) -> str:
  """The start of a value, for messages."""
  if isinstance(value, dict | list):
    return f'a {"list" if isinstance(value, list) else "JSON object"}'
  try:
    text = repr(value)
  except ValueError:
    return 'an integer of thousands of digits'
  return text if len(text) <= 80 else f'{text[:80]}...'


def _flat(tree: Any, prefix: str = '') -> dict[str, Any]:
  if not isinstance(tree, dict):
    return {prefix: tree}
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    flat |= _flat(value, f'{prefix}.{name}' if prefix else name)
  return flat
