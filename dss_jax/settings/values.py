"""Values of the command line, converted to the types of their settings.

Owns the conversion from a typed text to a gin value. If the type is unknown, a text that gin can
parse is a gin value, and any other text is a string.
"""

import ast
import collections.abc
import sys
import tokenize
import typing
import warnings
from typing import Any

from dss_jax.settings import fields, statements
from dss_jax.settings.errors import ConfigError

_WORDS = {'true': True, 'false': False}
_BRACKETS = ('(', '[', '{')


def gin_text(name: str, text: str, hint: Any = None) -> str:
  """The right-hand side of a gin statement for a typed text.

  Args:
    name: of the setting, for messages.
    text: the typed text after the =.
    hint: annotation of its field; None if it is unknown.

  Raises:
    ConfigError: the text is not a value of that type; the message has the setting and the type.
  """
  if _refers(text):
    return text
  if hint is None or hint is Any:
    word = {'true': 'True', 'false': 'False', 'none': 'None'}.get(text.lower(), text)
    return word if _is_gin(word) else repr(text)
  if text.startswith(_BRACKETS) and _literal(text) is None and _is_gin(text):
    return text  # macros or references within
  return repr(_typed(name, text, hint))


def _typed(name: str, text: str, hint: Any) -> Any:
  """The value of a setting with a known type."""
  options = fields.options(hint)
  outer = {typing.get_origin(option) or option for option in options}
  if text.lower() == 'none' and type(None) in outer:
    return None
  if fields.is_path(hint) and text.strip().lower() in ('', 'none'):
    raise ConfigError(f'{name} is a path, not {text!r}; give a file or folder, such as ./none.')
  if text.lower() in _WORDS and bool in outer:
    return _WORDS[text.lower()]
  literal = _literal(text)
  is_number = isinstance(literal, int | float) and not isinstance(literal, bool)
  if is_number and abs(literal) <= sys.float_info.max and outer & {int, float}:
    if int in outer and literal == literal // 1:
      return int(literal)
    if float in outer:
      return float(literal)
  if str in outer:
    return literal if isinstance(literal, str) else text
  if isinstance(literal, list | tuple | dict) and fields.fits(_like(literal, outer), hint):
    return _like(literal, outer)
  parts = tuple(part.strip() for part in text.split(','))  # METHODS: standard,dss
  is_list = bool(outer & {collections.abc.Sequence, tuple})
  if is_list and text and not text.startswith(_BRACKETS) and fields.fits(parts, hint):
    return parts
  advice = 'True or False' if bool in outer else 'a value of that type'
  raise ConfigError(f'{name} is of type {fields.kind(hint)}, not {text!r}; give {advice}.')


def _like(literal: Any, outer: set[Any]) -> Any:
  """A bracketed literal converted to the type: tuples may be written as lists."""
  return tuple(literal) if isinstance(literal, list) and tuple in outer else literal


def _literal(text: str) -> Any:
  """The value of a Python literal; None if the text is not one."""
  try:
    with warnings.catch_warnings(action='ignore', category=SyntaxWarning):  # of 1if, which is none
      return ast.literal_eval(text.strip())
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    return None


def _refers(text: str) -> bool:
  return text.lstrip('([{').startswith(('@', '%'))


def _is_gin(text: str) -> bool:
  """Whether gin can parse a text as a value.

  Raises:
    ConfigError: it opens a bracket that it does not close.
  """
  try:
    return len(statements.of_text(f'name = {text}')[0]) == 1  # a text may hold further lines
  except tokenize.TokenError as error:
    if text.startswith(_BRACKETS):
      raise ConfigError(f'the value {text!r} opens a bracket that it does not close.') from error
    return False
  except (ValueError, SyntaxError):
    return False
