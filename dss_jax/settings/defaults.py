"""Macros and the fields that read them: types, and the default of a macro that nobody defines.

Owns the link from a macro to the parameters of classes and functions. A setting's default is
written at its field alone: a run file says which macro a field reads (`seed = %RANDOM_SEED`), and
where nobody defines that macro it is the default of the first field of the run file that has one.
"""

import inspect
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gin

from dss_jax.settings import fields, statements
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.statements import Macro, Statement


class Parameter(NamedTuple):
  """A field of a dataclass, or an argument of a function.

  Attributes:
    hint: its annotation, with `fields.Path` as such; None where it has none.
    default: `inspect.Parameter.empty` where it has none.
  """

  hint: Any
  default: Any


class Reader(NamedTuple):
  """Who reads a macro: a binding, and the parameter that it is of."""

  statement: Statement
  parameter: Parameter


def readers(used: Sequence[Statement]) -> dict[str, list[Reader]]:
  """The parameters that are bound to a macro itself, by its name, in the order of the files."""
  found: dict[str, list[Reader]] = {}
  for one in used:
    if one.configurable and isinstance(one.value, Macro):
      parameter = parameter_of(one.configurable, one.parameter)
      if parameter is not None:
        found.setdefault(one.value.name, []).append(Reader(one, parameter))
  return found


def hint_of(name: str, used: Sequence[Statement]) -> Any:
  """The type of a macro, or of a binding 'module.name.parameter'; None where it is not known.

  A macro that another macro is made of (`LEARNING_RATE = %MY_RATE`) has that one's type.
  """
  if '.' in name:
    configurable, _, parameter = name.rpartition('/')[2].rpartition('.')
    named = (one.configurable for one in used if one.configurable)
    full = next((one for one in named if statements.same(one, configurable)), configurable)
    found = parameter_of(full, parameter)
    return found.hint if found else None
  known, seen = readers(used), {name}
  while True:
    hints = [reader.parameter.hint for one in sorted(seen) for reader in known.get(one, [])]
    if hints:
      return hints[0]
    made = {one.name for one in used if one.name and seen & {getattr(one.value, 'name', None)}}
    if made <= seen:
      return None
    seen |= made


def fill(used: Sequence[Statement], defined: Mapping[str, Any]) -> None:
  """Gives every macro that a field reads and nobody defines the field's default.

  Args:
    used: the statements that the verb reads.
    defined: macros with their values.

  Raises:
    ConfigError: no field that reads it has a default; says how to give each such macro.
  """
  missing = []
  for name, reading in readers(used).items():
    value = defined.get(name, inspect.Parameter.empty)
    known = [one.parameter.default for one in reading]
    known = [default for default in known if default is not inspect.Parameter.empty]
    if repr(value) == f'%{statements.REQUIRED}' or (name not in defined and not known):
      missing.append(_how_to_give(name, used, reading))
    elif name not in defined:
      gin.bind_parameter((name, 'gin.macro', 'value'), known[0])
  if missing:
    raise ConfigError('\n'.join(missing))


def check_types(used: Sequence[Statement], defined: Mapping[str, Any]) -> None:
  """Refuses a macro whose value is not of the type of a field that reads it.

  Raises:
    ConfigError: names the macro, where it is defined, its type and its value.
  """
  places = {one.name: one.where for one in used if one.name}
  for name, reading in readers(used).items():
    value = defined.get(name)
    if name not in places or _refers(value):
      continue
    for reader in reading:
      hint = reader.parameter.hint
      if hint is not None and not fields.fits(value, hint):
        raise ConfigError(f'{places[name]}: {name} is of type {fields.kind(hint)}, not {value!r}.')


def parameter_of(configurable: str, name: str) -> Parameter | None:
  """What is known of a parameter; None of one that is not written down, as of **arguments."""
  made = _object(configurable)
  try:
    found = inspect.signature(made).parameters.get(name)
    owner = made if not inspect.isclass(made) or hasattr(made, '__dataclass_fields__') else None
    hints = typing.get_type_hints(owner or made.__init__, include_extras=True)
  except (TypeError, ValueError, NameError, AttributeError):
    return None
  return None if found is None else Parameter(hints.get(name), found.default)


def self_registered(parsed: Sequence[Statement]) -> set[str]:
  """The configurables that their own modules registered (@gin.configurable), not a gin file."""
  found = set()
  for name in {one.configurable for one in parsed if one.configurable}:
    selectors = gin.config._REGISTRY.matching_selectors(name)
    if any(gin.config._REGISTRY[one].import_source is None for one in selectors):
      found.add(name)
  return found


def _object(configurable: str) -> Any:
  """The class or function of this name; None where it is neither imported nor registered."""
  module, _, name = configurable.rpartition('.')
  while module:
    if module in sys.modules:
      found: Any = sys.modules[module]
      for part in name.split('.'):
        found = getattr(found, part, None)
      return found
    module, _, last = module.rpartition('.')
    name = f'{last}.{name}'
  registered = gin.config._REGISTRY.matching_selectors(configurable)
  return gin.config._REGISTRY[registered[0]].wrapped if registered else None


def _refers(value: Any) -> bool:
  """Whether a value is known only when it is used."""
  return any(isinstance(one, gin.config.ConfigurableReference)
             for one in gin.config._iterate_flattened_values(value))  # fmt: skip


def _how_to_give(name: str, used: Sequence[Statement], reading: Sequence[Reader]) -> str:
  """The sentence for a setting without a value, from the comment of its line in the run file."""
  lines = [*(one for one in used if one.name == name), *(reader.statement for reader in reading)]
  comments = [one.comment for one in lines if one.shipped and one.comment]
  how = comments[0] if comments else f'--{name.lower()}=...'
  return f'{name} has no value; give {how}'
