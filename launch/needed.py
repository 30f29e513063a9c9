"""What the files that a command names need themselves: gin files that are included, and imports.

Owns finding them in the working directory, without running anything. Which files are shipped is
job.py's.
"""

import ast
import importlib.util
import os
import pathlib
import tokenize
from collections.abc import Iterator, Sequence

from dss_jax.settings import fields, statements

OURS = 'dss_jax'  # comes with the wheel, whatever the working directory has


def gin_files(
  names: Sequence[str], search_paths: Sequence[str], is_t5x: bool = False
) -> set[pathlib.Path]:
  """The gin files of the working directory that these names lead to, directly or by `include`.

  The modules of the working directory that such a file imports come with it.

  Args:
    names: of --gin_file; those in a bucket or shipped with dss_jax are left out.
    search_paths: of --gin_search_paths.
    is_t5x: the hosts have T5X, and thus its own files.

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
    if path is None and _is_on_hosts(name, is_t5x):
      continue
    if path is None:
      raise ValueError(
        f'--gin_file={name!r}: there is no such file in the working directory, in '
        f'--gin_search_paths, or among those of dss_jax{" and T5X" if is_t5x else ""}.'
      )
    if path.is_absolute():
      raise ValueError(
        f'--gin_file={path} is only on this machine: name it relative to the working directory, '
        'from where it is uploaded.'
      )
    if path not in found:
      found.add(path)
      text = _text(path)
      waiting += statements.of_text(text)[1]
      for module in statements.modules_of_text(text):
        found |= module_files(module)
  return found


def _is_on_hosts(name: str, is_t5x: bool) -> bool:
  """Whether a gin file comes with dss_jax or, for `dss t5x`, with T5X."""
  ours = statements.gin_root()
  roots = [ours] if is_t5x else [ours, ours / statements.FROM_T5X]
  if any(os.path.isfile(root / name) for root in roots):
    return True
  return is_t5x and name.startswith('t5x/') and _has_t5x_file(name)


def _has_t5x_file(name: str) -> bool:
  """Whether T5X has a gin file, as far as is known here, where it may not be installed."""
  installed = importlib.util.find_spec('t5x')
  places = list(installed.submodule_search_locations or ()) if installed else []
  return not places or any(os.path.isfile(os.path.join(place, '..', name)) for place in places)


def module_files(names: str) -> set[pathlib.Path]:
  """The files of modules in the working directory, and of what they import from there.

  Args:
    names: dotted, with commas between several, as --module takes them; no files if it is elsewhere.
  """
  found: set[pathlib.Path] = set()
  waiting = names.split(',')
  while waiting:
    for path in _files_of(waiting.pop()):
      if path not in found:
        found.add(path)
        waiting += _imported(path)
  return found


def _text(path: pathlib.Path) -> str:
  """A gin file's text; none of one that cannot be parsed, which is reported when it is."""
  try:
    text = path.read_text(encoding='utf-8-sig')
    statements.of_text(text, str(path))
  except (SyntaxError, tokenize.TokenError, UnicodeDecodeError):
    return ''
  return text


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
