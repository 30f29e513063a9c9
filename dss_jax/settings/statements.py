"""The statements of gin files, read without executing them: what is set, where, to which value.

Modules that a file imports are not imported, so that `--help` is quick and a file can be checked
before gin executes it.
"""

import dataclasses
import importlib.util  # noqa: F401  gin-config 0.5.0 uses it without importing it
import io
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gin import config_parser

import dss_jax

FROM_T5X = 'from_t5x'  # the folder of files by which `dss train` finds T5X's own without T5X
REQUIRED = 'gin.REQUIRED'


@dataclasses.dataclass(frozen=True)
class Macro:
  """%NAME within a value."""

  name: str


@dataclasses.dataclass(frozen=True)
class Reference:
  """@scope/module.name() within a value; `configurable` is its full dotted name."""

  configurable: str
  scope: str = ''


@dataclasses.dataclass(frozen=True)
class Statement:
  """One `name = value`: of a macro, or of a parameter of a configurable.

  Attributes:
    name: of the macro; '' if a parameter is bound.
    configurable: full dotted name of the class or function: 'dss_jax.training.losses.LossConfig'.
    parameter: of that class or function; '' if a macro is defined.
    value: with `Macro` and `Reference` where the file has %NAME and @name().
    scope: of the binding, joined by slashes.
    file: as gin opened it; '' on the command line.
    line: in the file, from 1.
    comment: the text after # on that line.
    shipped: whether the file came with dss_jax.
  """

  name: str
  configurable: str
  parameter: str
  value: Any
  scope: str = ''
  file: str = ''
  line: int = 0
  comment: str = ''
  shipped: bool = False

  @property
  def where(self) -> str:
    """The place for messages: file and line, or 'the command line'."""
    return f'{self.file}:{self.line}' if self.file else 'the command line'

  @property
  def macros(self) -> set[str]:
    """Names of the macros that the value reads."""
    return {leaf.name for leaf in leaves(self.value) if isinstance(leaf, Macro)}

  @property
  def references(self) -> list[Reference]:
    """The configurables that the value refers to."""
    return [leaf for leaf in leaves(self.value) if isinstance(leaf, Reference)]

  @property
  def configurables(self) -> list[str]:
    """Names of the configurables that it binds or refers to."""
    named = [self.configurable, *(one.configurable for one in self.references)]
    return [name for name in named if name]


class AsWritten(str):
  """A part of a value's text, which `repr` shows as it is."""

  __slots__ = ()

  def __repr__(self) -> str:
    return str(self)


def gin_root() -> pathlib.Path:
  """The folder of the gin files that ship with dss_jax."""
  package = pathlib.Path(dss_jax.__file__).parent
  installed = package / 'gin'
  return installed if installed.is_dir() else package.parent / 'gin'


def of_text(text: str, file: str = '') -> tuple[list[Statement], list[str]]:
  """The statements of one file's text, and the files that it includes.

  Raises:
    SyntaxError, tokenize.TokenError: the text is not valid gin.
  """
  content = io.StringIO(text)
  content.name = file or None  # the parser puts it into its errors
  aliases: dict[str, str] = {}
  statements, includes = [], []
  lines = text.splitlines()
  shipped = bool(file) and pathlib.Path(file).is_relative_to(gin_root())
  for node in config_parser.ConfigParser(content, _Delegate()):
    if isinstance(node, config_parser.ImportStatement):
      aliases[node.bound_name()] = node.partial_path() if not node.alias else node.module
    elif isinstance(node, config_parser.IncludeStatement):
      includes.append(node.filename)
    elif isinstance(node, config_parser.BindingStatement):
      number = node.location.line_num
      is_macro = not node.arg_name
      name = '/'.join(filter(None, (node.scope, node.selector))) if is_macro else ''
      statements.append(
        Statement(
          name=name,
          configurable='' if is_macro else _full(node.selector, aliases),
          parameter=node.arg_name,
          value=_resolved(node.value, aliases),
          scope='' if is_macro else node.scope,
          file=file,
          line=number,
          comment=_comment(lines[number - 1]) if number <= len(lines) else '',
          shipped=shipped,
        )
      )
  return statements, includes


def modules_of_text(text: str, file: str = '') -> list[str]:
  """The modules that one file imports; raises as `of_text`."""
  content = io.StringIO(text)
  content.name = file or None
  nodes = config_parser.ConfigParser(content, _Delegate())
  return [node.module for node in nodes if isinstance(node, config_parser.ImportStatement)]


def of_shipped(name: str) -> list[Statement]:
  """The statements of a file that ships with dss_jax, those of the files it includes first."""
  path = gin_root() / name
  statements, includes = of_text(path.read_text(), str(path))
  return [statement for included in includes for statement in of_shipped(included)] + statements


def same(configurable: str, other: str) -> bool:
  """Whether two names mean the same configurable: gin allows leaving out leading modules."""
  return f'.{configurable}'.endswith(f'.{other}') or f'.{other}'.endswith(f'.{configurable}')


def with_macros(value: Any, values: Mapping[str, Any], depth: int = 20) -> Any:
  """A value with the values of its macros; a macro that nothing defines stays."""
  if isinstance(value, Macro):
    known = depth and value.name in values and value.name != REQUIRED
    return with_macros(values[value.name], values, depth - 1) if known else value
  if isinstance(value, dict):
    return {key: with_macros(item, values, depth) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(with_macros(item, values, depth) for item in value)
  return value


class _Delegate(config_parser.ParserDelegate):
  """Keeps references and macros instead of resolving them."""

  def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
    scope, _, name = scoped_configurable_name.rpartition('/')
    return Reference(name, scope)

  def macro(self, macro_name: str) -> Macro:
    return Macro(macro_name)


def _full(name: str, aliases: dict[str, str]) -> str:
  first, dot, rest = name.partition('.')
  return aliases.get(first, first) + dot + rest


def _resolved(value: Any, aliases: dict[str, str]) -> Any:
  """A value whose references have full names."""
  if isinstance(value, Reference):
    return dataclasses.replace(value, configurable=_full(value.configurable, aliases))
  if isinstance(value, dict):
    return {_resolved(key, aliases): _resolved(item, aliases) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(_resolved(item, aliases) for item in value)
  return value


def leaves(value: Any) -> Iterator[Any]:
  """The parts of a value that are no list, tuple or dict."""
  if isinstance(value, dict):
    value = [*value, *value.values()]
  if isinstance(value, list | tuple):
    for item in value:
      yield from leaves(item)
  else:
    yield value


def _comment(line: str) -> str:
  """The comment at the end of a line; a # within quotes does not start one."""
  match = re.fullmatch(r"""(?:[^#'"]|'[^']*'|"[^"]*")*#\s*(.*)""", line)
  return match[1].strip() if match else ''
