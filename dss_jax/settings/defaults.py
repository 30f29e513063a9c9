"""Macros and the fields that read them: types, and the default of a macro that nobody defines.

Owns the link from a macro to the parameters of classes and functions. A setting's default is
written only at its field. A run file binds a macro to a field (`seed = %RANDOM_SEED`); a macro that
nobody defines gets the default of the first field of the run file that has one.
"""

import functools
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
    hint: its annotation, `fields.Path` included; None if it has none.
    default: `inspect.Parameter.empty` if it has none.
  """

  hint: Any
  default: Any


class Reader(NamedTuple):
  """A binding that reads a macro, and the parameter that it binds."""

  statement: Statement
  parameter: Parameter


def readers(used: Sequence[Statement]) -> dict[str, list[Reader]]:
  """The parameters that are bound to a macro itself, by its name, in the order of the files."""
  by_macro: dict[str, list[Reader]] = {}
  for statement in used:
    if statement.configurable and isinstance(statement.value, Macro):
      parameter = parameter_of(statement.configurable, statement.parameter)
      if parameter is not None:
        by_macro.setdefault(statement.value.name, []).append(Reader(statement, parameter))
  return by_macro


def hint_of(name: str, used: Sequence[Statement]) -> Any:
  """The type of a macro, or of a binding 'module.name.parameter'; None if it is unknown.

  A macro that defines another one (`LEARNING_RATE = %MY_RATE`) has the type of the other.
  """
  if '.' in name:
    configurable, _, parameter = name.rpartition('/')[2].rpartition('.')
    named = (statement.configurable for statement in used if statement.configurable)
    full = next(
      (statement for statement in named if statements.same(statement, configurable)), configurable
    )
    known_parameter = parameter_of(full, parameter)
    return known_parameter.hint if known_parameter else None
  known, seen = readers(used), {name}
  while True:
    hints = [reader.parameter.hint for macro in sorted(seen) for reader in known.get(macro, [])]
    if hints:
      return hints[0]
    sources = {
      statement.name
      for statement in used
      if statement.name and seen & {getattr(statement.value, 'name', None)}
    }
    if sources <= seen:
      return None
    seen |= sources


def fill(used: Sequence[Statement], defined: Mapping[str, Any]) -> None:
  """Gives the field's default to every macro that a field reads and nobody defines.

  Args:
    used: the statements that the verb reads.
    defined: macros with their values.

  Raises:
    ConfigError: no field that reads a macro has a default; the message says how to set it.
  """
  missing = []
  for name, reading in readers(used).items():
    value = defined.get(name, inspect.Parameter.empty)
    known = [reader.parameter.default for reader in reading]
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
    ConfigError: the message has the macro, where it is defined, its type and its value.
  """
  places = {statement.name: statement.where for statement in used if statement.name}
  for name, reading in readers(used).items():
    value = defined.get(name)
    if name not in places or _refers(value):
      continue
    for reader in reading:
      hint = reader.parameter.hint
      if hint is not None and not fields.fits(value, hint):
        raise ConfigError(f'{places[name]}: {name} is {fields.wanted(value, hint)}, not {value!r}.')


def parameter_of(configurable: str, name: str) -> Parameter | None:
  """A parameter's annotation and default; None if it is not declared, as with **arguments."""
  try:
    return _parameters(_object(configurable)).get(name)
  except (TypeError, ValueError, NameError, AttributeError):
    return None


@functools.cache
def _parameters(configured: Any) -> dict[str, Parameter]:
  """The declared parameters of a class or function; raises where it is neither."""
  is_plain_class = inspect.isclass(configured) and not hasattr(configured, '__dataclass_fields__')
  owner = configured.__init__ if is_plain_class else configured
  hints = typing.get_type_hints(owner, include_extras=True)
  declared = inspect.signature(configured).parameters
  return {name: Parameter(hints.get(name), one.default) for name, one in declared.items()}


def self_registered(parsed: Sequence[Statement]) -> set[str]:
  """The configurables that their own modules registered (@gin.configurable), not a gin file."""
  registered_names = set()
  for name in {statement.configurable for statement in parsed if statement.configurable}:
    selectors = gin.config._REGISTRY.matching_selectors(name)
    if any(gin.config._REGISTRY[selector].import_source is None for selector in selectors):
      registered_names.add(name)
  return registered_names


def _object(configurable: str) -> Any:
  """The class or function of this name; None where it is neither imported nor registered."""
  module, _, name = configurable.rpartition('.')
  while module:
    if module in sys.modules:
      value: Any = sys.modules[module]
      for part in name.split('.'):
        value = getattr(value, part, None)
      return value
    module, _, last = module.rpartition('.')
    name = f'{last}.{name}'
  registered = gin.config._REGISTRY.matching_selectors(configurable)
  return gin.config._REGISTRY[registered[0]].wrapped if registered else None


def _refers(value: Any) -> bool:
  """Whether a value contains references, so that it is only known when used."""
  return any(isinstance(leaf, gin.config.ConfigurableReference)
             for leaf in gin.config._iterate_flattened_values(value))  # fmt: skip


def _how_to_give(name: str, used: Sequence[Statement], reading: Sequence[Reader]) -> str:
  """The sentence for a setting without a value, from the comment of its line in the run file."""
  lines = [
    *(statement for statement in used if statement.name == name),
    *(reader.statement for reader in reading),
  ]
  comments = [statement.comment for statement in lines if statement.shipped and statement.comment]
  advice = comments[0] if comments else f'--{name.lower()}=...'
  return f'{name} has no value; give {advice}'
