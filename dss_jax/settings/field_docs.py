"""Documentation of settings, read from the source of their classes and functions.

Finds types, defaults and meanings without importing anything: the modules behind a run file take
seconds to import, and `--help` must be quick. Meanings are the entries of a docstring's
`Attributes:` or `Args:`.
"""

import ast
import functools
import importlib.util
import pathlib
import re
from typing import NamedTuple


class Field(NamedTuple):
  """A field of a dataclass, or an argument of a function.

  Attributes:
    kind: its annotation as written, with `path` for `fields.Path`; '' if it has none.
    default: as written; None if it has none, or if a call makes it.
    meaning: from the docstring, on one line; '' if it has none.
  """

  kind: str
  default: str | None
  meaning: str


class Documented(NamedTuple):
  """A class or function: the first line of its docstring, and its fields in order."""

  summary: str
  fields: dict[str, Field]


@functools.cache
def of(configurable: str) -> Documented | None:
  """The documentation of 'package.module.Name'; None if there is no such source.

  A class has the fields of its bases too. A name that its module only imports is looked up there.
  """
  module, _, name = configurable.rpartition('.')
  tree = _tree(module)
  definition = next(
    (node for node in tree.body if getattr(node, 'name', None) == name) if tree else iter(()), None
  )
  imported = _imported(tree, module)
  if definition is None and name in imported:
    return of(imported[name])
  if isinstance(definition, ast.ClassDef):
    return _of_class(definition, imported)
  return _of_function(definition) if isinstance(definition, ast.FunctionDef) else None


def meanings(docstring: str) -> dict[str, str]:
  """The entries of a docstring's `Attributes:` or `Args:`, each on one line."""
  section = re.search(r'^(?:Attributes|Args):\n((?:[ ]+.*\n|\n)*)', docstring + '\n', re.MULTILINE)
  entries: dict[str, str] = {}
  last: list[str] = []
  for line in section[1].splitlines() if section else ():
    entry = re.match(r' {2}(\*{0,2}\w+(?:, \w+)*): (.*)', line)
    if entry:
      last = [name.strip('*') for name in entry[1].split(', ')]
      entries.update(dict.fromkeys(last, entry[2].strip()))
    elif line.strip():
      entries.update({name: f'{entries[name]} {line.strip()}' for name in last})
  return entries


def _of_class(node: ast.ClassDef, imported: dict[str, str]) -> Documented:
  fields: dict[str, Field] = {}
  for base in node.bases:
    first, dot, rest = ast.unparse(base).partition('.')
    inherited = of(imported.get(first, first) + dot + rest)
    fields |= inherited.fields if inherited else {}
  docstring = ast.get_docstring(node) or ''
  documented = meanings(docstring)
  for statement in node.body:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
      name = statement.target.id
      fields[name] = Field(
        _kind(statement.annotation), _default(statement.value), documented.get(name, '')
      )
  return Documented(docstring.partition('\n')[0], fields)


def _of_function(node: ast.FunctionDef) -> Documented:
  docstring = ast.get_docstring(node) or ''
  documented = meanings(docstring)
  arguments = [*node.args.posonlyargs, *node.args.args]
  missing = [None] * (len(arguments) - len(node.args.defaults))
  defaults = [*missing, *node.args.defaults, *node.args.kw_defaults]
  pairs = zip([*arguments, *node.args.kwonlyargs], defaults, strict=True)
  fields = {
    argument.arg: Field(
      _kind(argument.annotation), _default(default), documented.get(argument.arg, '')
    )
    for argument, default in pairs
  }
  return Documented(docstring.partition('\n')[0], fields)


@functools.cache
def _tree(module: str) -> ast.Module | None:
  """A module's source, parsed; None if there is none. Imports its parent packages."""
  try:
    spec = importlib.util.find_spec(module) if module else None
  except (ImportError, ValueError):
    return None
  if spec is None or not (spec.origin or '').endswith('.py'):
    return None
  return ast.parse(pathlib.Path(str(spec.origin)).read_text(encoding='utf-8'))


def _imported(tree: ast.Module | None, module: str) -> dict[str, str]:
  """Full names of what a module imports and defines, by its names in that module."""
  names: dict[str, str] = {}
  for node in tree.body if tree else ():
    if isinstance(node, ast.ImportFrom) and node.module:
      names |= {alias.asname or alias.name: f'{node.module}.{alias.name}' for alias in node.names}
    elif isinstance(node, ast.ClassDef):
      names[node.name] = f'{module}.{node.name}'
  return names


def _kind(annotation: ast.expr | None) -> str:
  return ast.unparse(annotation).replace('fields.Path', 'path') if annotation else ''


def _default(value: ast.expr | None) -> str | None:
  return None if value is None or isinstance(value, ast.Call) else ast.unparse(value)
