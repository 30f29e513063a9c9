"""Dataclasses to JSON and back, and the comparison of two of them. Knows nothing of gin."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax.settings.errors import ConfigError


def to_dict(config: Any) -> dict[str, Any]:
  """A dataclass as plain JSON values."""
  return json.loads(json.dumps(dataclasses.asdict(config), default=dict))


def from_dict(cls: Any, values: Mapping[str, Any]) -> Any:
  """The inverse of `to_dict`: nested dataclasses by their annotations."""
  hints = typing.get_type_hints(cls)
  unknown = sorted(set(values) - set(hints))
  if unknown:
    raise ConfigError(f'{cls.__name__} has no field {unknown[0]!r}; another version wrote it.')
  return cls(**{name: _value_of(hints[name], value) for name, value in values.items()})


def differences(before: Any, now: Any, ignore: Sequence[str] = ()) -> list[str]:
  """Lines 'name: before -> now' for every value that differs, nested names joined by dots."""
  old, new = _flat(to_dict(before)), _flat(to_dict(now))
  names = sorted(set(old) | set(new))
  return [
    f'{name}: {old.get(name)!r} -> {new.get(name)!r}'
    for name in names
    if name not in ignore and old.get(name) != new.get(name)
  ]


def _value_of(hint: Any, value: Any) -> Any:
  """A JSON value converted to its field's type: JSON has neither dataclasses nor tuples."""
  kind = _dataclass_of(hint)
  if kind and value is not None:
    return from_dict(kind, value)
  if typing.get_origin(hint) is tuple:
    return tuple(_value_of(typing.get_args(hint)[0], item) for item in value)
  return value


def _dataclass_of(hint: Any) -> Any:
  """The dataclass in an annotation such as `C` or `C | None`, or None."""
  options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
  return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _flat(tree: Any, prefix: str = '') -> dict[str, Any]:
  if not isinstance(tree, dict):
    return {prefix: tree}
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    flat |= _flat(value, f'{prefix}.{name}' if prefix else name)
  return flat
