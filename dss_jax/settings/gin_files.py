"""A job's configuration: gin files and command line in, frozen dataclasses out.

Owns reading and writing gin's state. statements.py reads files without gin, unread.py finds
settings that would be ignored, defaults.py has types and defaults, t5x_translation.py what T5X's
statements become. The dataclasses are defined where they are used; none of them knows gin.
"""

import dataclasses
import functools
import importlib.util  # noqa: F401  gin-config 0.5.0 uses it without importing it
import logging
import re
import sys
import tokenize
from collections.abc import Sequence
from typing import Any

import gin
from etils import epath

from dss_jax.settings import (
  arguments,
  defaults,
  fields,
  gin_reader,
  help_text,
  statements,
  t5x_names,
  t5x_translation,
  unread,
  values,
)
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.printable import printable
from dss_jax.settings.statements import gin_root

GIN_ERRORS = (
  OSError, ValueError, SyntaxError, NameError, AttributeError, ImportError, RuntimeError
)  # fmt: skip


def parse(argv: Sequence[str], run_file: str) -> None:
  """Parses a verb's command line into gin's state; `--help` prints the settings and exits.

  Args:
    argv: arguments after the verb.
    run_file: the verb's gin file, e.g. 'runs/train.gin'. It is read before the files
      that the command line names.

  Raises:
    ConfigError: an unknown argument, file, macro or binding, one that nobody reads, a value of
      another type, or a required macro without a value.
  """
  if any(arg in ('--help', '-h') for arg in argv):
    print(help_text.of_verb(run_file))
    sys.exit(0)
  parsed = read(argv, run_file).statements
  made = t5x_translation.translate(parsed)
  gin.parse_config(t5x_translation.gin_text(made))
  theirs = [one for one in parsed if t5x_names.is_theirs(one)]
  ours = [one for one in parsed if one not in theirs] + [one.statement for one in made]
  judged = unread.check(ours, run_file, defaults.self_registered(ours), theirs)
  try:
    defaults.fill(judged.used, macros())
    defaults.check_types(judged.used, macros())
  except RecursionError:
    raise ConfigError('a setting refers to itself by % or @: give it a value.') from None
  for note in (*judged.notes, *t5x_translation.notes(parsed)):
    _print_once(note)


def read(argv: Sequence[str], run_file: str) -> gin_reader.Reader:
  """Reads a command line's files and overrides into gin's state, except for what is T5X's.

  Args:
    argv: as for `parse`.
    run_file: likewise.

  Returns:
    The files' reader, with all statements, T5X's too.

  Raises:
    ConfigError: see `parse`.
  """
  given = arguments.split(argv)
  gin.clear_config()
  # Assigned, not extended: gin keeps them between calls, and its reader of files inside Python
  # packages takes a folder such as `runs/` for a package and fails.
  gin.config._LOCATION_PREFIXES[:] = [str(gin_root())]
  reader = gin_reader.Reader()
  gin.config._FILE_READERS[:] = [(reader.open, _is_file)]
  logging.disable(logging.ERROR)  # gin logs every folder in which it does not find a file
  try:
    _parse_file(run_file)  # ours, whatever files the working directory has
    roots = [str(gin_root()), str(gin_root() / statements.FROM_T5X)]
    gin.config._LOCATION_PREFIXES[:] = ['', *given.search_paths, *roots]
    for name in given.files:
      _parse_file(name)
    for name, value in given.overrides:
      _override(name, value, reader)
    _import_later(reader)
  except GIN_ERRORS as error:
    if isinstance(error, ConfigError):
      raise
    is_missing = isinstance(error, OSError) and error.errno is None  # a file, in gin's words
    raise ConfigError(_gin_message(error)) from (None if is_missing else error)
  finally:
    logging.disable(logging.NOTSET)
  return reader


def read_plainly() -> None:
  """Makes gin read files from folders and buckets alone, for a program that parses by itself.

  By default gin also looks into Python packages, and takes a folder `datasets/` of the working
  directory for one when it reads datasets/cqa.gin.
  """
  gin.config._FILE_READERS[:] = [(lambda path: epath.Path(fields.expanded(path)).open(), _is_file)]


def configured(selector: str) -> Any:
  """The object that gin builds for a configurable, e.g. 'run_config.RunConfig'.

  Raises:
    ConfigError: a value that the dataclass refuses, or a macro that nothing defines.
  """
  try:
    return gin.get_configurable(selector)()
  except (ValueError, TypeError) as error:
    text = str(error).strip()
    macro = re.search(r"In call to configurable 'macro' .* in scope '(.+)'", text)
    if macro:
      text = f'no gin file defines the macro %{macro[1]}; there are {", ".join(macros())}.'
    raise ConfigError(text.split('\n  In call to configurable')[0]) from error


def operative() -> str:
  """The gin configuration that was used, as the text of a gin file."""
  return gin.operative_config_str()


def macros() -> dict[str, Any]:
  """The macros that have a value, given or a field's default."""
  bindings = gin.config._CONFIG.items()
  return {
    scope: values.get('value')
    for (scope, selector), values in sorted(bindings)
    if selector == 'gin.macro'
  }


def _parse_file(name: str) -> None:
  try:
    gin.parse_config_file(name)
  except tokenize.TokenError as error:
    raise ConfigError(f'gin: {name}: a bracket or string is opened but not closed.') from error


def _is_file(path: str) -> bool:
  """Whether gin may read a path; gin joins even a gs:// path to each folder that it searches."""
  return not re.search(r'/\w+://', path) and epath.Path(fields.expanded(path)).is_file()


def _import_later(reader: gin_reader.Reader) -> None:
  """Adds the modules that files import to MIXTURE_OR_TASK_MODULE, which a run notes."""
  if not reader.modules:
    return
  values = [one for one in reader.statements if one.name == arguments.MODULE]
  known = values[-1].value if values else None
  names = known.split(',') if isinstance(known, str) else []
  added = [module for module in reader.modules if module not in names]
  if added:
    line = f'{arguments.MODULE} = {",".join([*names, *added])!r}'
    gin.parse_config(line)
    places = [reader.modules[module] for module in added]
    stated = statements.of_text(line, places[0])[0]
    reader.add([dataclasses.replace(one, shipped=True) for one in stated])


def _override(name: str, text: str, reader: gin_reader.Reader) -> None:
  """Sets a macro or binding of the command line, and adds its statement to those of the files."""
  try:
    line = f'{name} = {values.gin_text(name, text, defaults.hint_of(name, reader.statements))}'
    stated = statements.of_text(line)[0]
    reader.add(stated)
    if not any(map(t5x_names.is_hidden, stated)):
      gin.parse_config(line)
  except tokenize.TokenError as error:
    raise ConfigError(f'the value {text!r} opens a bracket that it does not close.') from error


def _gin_message(error: Exception) -> str:
  text = f'gin: {str(error).strip()}'
  if found := re.search(r"Failed to parse token '(.+)' \((.+), line (\d+)\)", text):
    token, file, number = found.groups()
    meant = token.title() if token.lower() in ('none', 'true', 'false') else repr(token)
    return (
      f'gin: {file}, line {number}: {token} is no value of a gin file, where texts are in quotes '
      f'and None, True and False have a capital letter; write {meant}.'
    )
  return text


@functools.cache
def _print_once(note: str) -> None:
  """Prints a note to standard error; `dss compare` parses the same files for every method."""
  print(f'note: {printable(note)}', file=sys.stderr)
