"""Gin files of T5X's users: what gin may read of them here, where there is no T5X.

Owns telling T5X's statements and imports from others, and the text of a file without them, line by
line as before, so that gin's errors name the right line. What becomes of them is
t5x_translation.py's.
"""

import functools
import io
from typing import Any, NamedTuple

from gin import config_parser

from dss_jax.settings import statements, t5x_names
from dss_jax.settings.statements import AsWritten, Statement

# Modules that a file of T5X's imports for its own statements, never to register a user's tasks.
PROGRAMS = ('__main__', 't5x', 'seqio', 'optax', 'airio', 'jax', 'flax', 'clu')
SETTINGS = ('__gin__', 'dss_jax')


class Line(NamedTuple):
  """An import or include, and what becomes of it.

  Attributes:
    file: the file.
    line: in it, from 1.
    text: of the line.
    became: for people.
  """

  file: str
  line: int
  text: str
  became: str


class Read(NamedTuple):
  """What a file says.

  Attributes:
    text: for gin.
    statements: all of them, T5X's too.
    includes: the lines of its includes.
    modules: imported without using a name of them.
    others: its imports and includes.
  """

  text: str
  statements: list[Statement]
  includes: list[int]
  modules: list[str]
  others: list[Line]


@functools.lru_cache(256)  # `dss sweep` reads the same files for every cell
def read(text: str, path: str) -> Read:
  """Reads a file's text.

  Raises:
    SyntaxError, tokenize.TokenError: the text is not valid gin.
  """
  found, _ = statements.of_text(text, path)
  content = io.StringIO(text)
  content.name = path  # the parser puts it into its errors
  nodes = list(config_parser.ConfigParser(content, _KeptAsWritten()))
  includes = [node for node in nodes if isinstance(node, config_parser.IncludeStatement)]
  imports = [node for node in nodes if isinstance(node, config_parser.ImportStatement)]
  used = {name for one in found if not t5x_names.is_theirs(one) for name in one.configurables}
  modules = [
    node
    for node in imports
    if not _is_of(node.module, (*PROGRAMS, *SETTINGS))
    and not any(f'{name}.'.startswith(f'{node.module}.') for name in used)
  ]
  is_t5x = (
    any(map(t5x_names.is_theirs, found))
    or any(_is_of(node.module, PROGRAMS) for node in imports)
    or any(node.filename.startswith('t5x/') for node in includes)
  )
  return Read(
    text=_without_theirs(text, nodes, found, modules) if is_t5x else text,
    statements=found,
    includes=[node.location.line_num for node in includes],
    modules=[one.module for one in modules],
    others=[_line(path, node, node in modules) for node in (*imports, *includes)],
  )


def _line(path: str, node: Any, registers_tasks: bool) -> Line:
  if isinstance(node, config_parser.IncludeStatement):
    text, became = f'include {node.filename!r}', 'its statements are read here'
  else:
    text, became = node.format(), 'the same here'
    if _is_of(node.module, PROGRAMS):
      became = 'needs nothing: its statements are translated'
    elif registers_tasks:
      became = f"translated to MIXTURE_OR_TASK_MODULE = '{node.module}'"
  return Line(path, node.location.line_num, text, became)


class _KeptAsWritten(config_parser.ParserDelegate):
  """Keeps references and macros as a file has them."""

  def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Any:
    return AsWritten(f'@{scoped_configurable_name}{"()" if evaluate else ""}')

  def macro(self, macro_name: str) -> Any:
    return AsWritten(f'%{macro_name}')


def _without_theirs(text: str, nodes: list[Any], found: list[Statement], modules: list[Any]) -> str:
  """The file's text for gin: each statement on its line, T5X's and task modules left out."""
  lines = [''] * (len(text.splitlines()) + 1)
  bindings = iter(found)
  for node in nodes:
    line = ''
    if isinstance(node, config_parser.IncludeStatement):
      line = f'include {node.filename!r}'
    elif isinstance(node, config_parser.ImportStatement):
      if not _is_of(node.module, PROGRAMS) and node not in modules:
        line = node.format()
    elif isinstance(node, config_parser.BindingStatement) and not t5x_names.is_hidden(
      next(bindings)
    ):
      selector = '/'.join(filter(None, (node.scope, node.selector)))
      line = f'{".".join(filter(None, (selector, node.arg_name)))} = {node.value!r}'
    if line:
      lines[node.location.line_num - 1] = line
  return '\n'.join(lines)


def _is_of(module: str, packages: tuple[str, ...]) -> bool:
  return module.split('.')[0] in packages
