"""What the files that a command names need themselves: gin files that are included, and imports.

Owns finding them in the working directory, without running anything. Which files are shipped is
job.py's.
"""

import ast
import os
import pathlib
import tokenize
from collections.abc import Iterator, Sequence

from dss_jax.settings import fields, statements

OURS = 'dss_jax'  # comes with the wheel, whatever the working directory has


def gin_files(names: Sequence[str], search_paths: Sequence[str]) -> set[pathlib.Path]:
  """The gin files of the working directory that these names lead to, directly or by `include`.

  Args:
    names: of --gin_file; those in a bucket or shipped with dss_jax are left out.
    search_paths: of --gin_search_paths.

  Raises:
    ValueError: a file is nowhere, or not below the working directory.
  """
  found: set[pathlib.Path] = set()
  waiting = list(names)
  while waiting:
    name = waiting.pop()
    if '://' in name:
      continue
    name = fields.expanded(name)
    candidates = (pathlib.Path(folder) / name for folder in ('', *search_paths))
    path = next((path for path in candidates if os.path.isfile(path)), None)
    if path is None and os.path.isfile(statements.gin_root() / name):
      continue
    if path is None:
      raise ValueError(
        f'--gin_file={name!r}: there is no such file in the working directory, in '
        '--gin_search_paths, or among those of dss_jax.'
      )
    if path.is_absolute():
      raise ValueError(
        f'--gin_file={path} is only on this machine: name it relative to the working directory, '
        'from where it is uploaded.'
      )
    if path not in found:
      found.add(path)
      waiting += _included(path)
  return found


def module_files(name: str) -> set[pathlib.Path]:
  """The files of a module in the working directory, and of what it imports from there.

  Args:
    name: dotted, as --module takes it; no files if it is elsewhere.
  """
  found: set[pathlib.Path] = set()
  waiting = [name]
  while waiting:
    for path in _files_of(waiting.pop()):
      if path not in found:
        found.add(path)
        waiting += _imported(path)
  return found


def _included(path: pathlib.Path) -> list[str]:
  try:
    return statements.of_text(path.read_text(encoding='utf-8-sig'), str(path))[1]
  except (SyntaxError, tokenize.TokenError, UnicodeDecodeError):  # reported when it is parsed
    return []


def _files_of(module: str) -> Iterator[pathlib.Path]:
  """The module's file, and those of the packages around it."""
  parts = module.split('.')
  if parts[0] == OURS or not all(parts):
    return
  for number in range(1, len(parts) + 1):
    folder = pathlib.Path(*parts[:number])
    candidates = [folder / '__init__.py']
    if number == len(parts):
      candidates.append(folder.with_suffix('.py'))
    yield from (path for path in candidates if path.is_file())


def _imported(path: pathlib.Path) -> list[str]:
  """The names that a file imports, each as if it were a module."""
  try:
    tree = ast.parse(path.read_text(encoding='utf-8-sig'), str(path))
  except (SyntaxError, UnicodeDecodeError):  # reported when it is imported
    return []
  names: list[str] = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      parts = path.parent.parts
      around = parts[: len(parts) - node.level + 1] if node.level else ()
      base = '.'.join([*around, *([node.module] if node.module else [])])
      names += [base, *(f'{base}.{alias.name}'.lstrip('.') for alias in node.names)]
  return [name.replace(os.sep, '.') for name in names if name]
