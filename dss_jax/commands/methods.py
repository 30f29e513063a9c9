"""`dss methods`: lists every method that a student can be trained with, from the objects.

Owns the layout. What a method is, dss_jax/methods says; some files of gin/methods/ are a method
with other settings, and are listed by their comment.
"""

import argparse
from collections.abc import Iterator

from dss_jax import methods
from dss_jax.settings import arguments, statements
from dss_jax.settings.printable import printable

_DESCRIPTION = """\
Lists every method: what it is, what an example becomes, its loss, its source, and how to choose it.
`dss compare --methods=NAME,NAME` takes the same names.
"""
_EXAMPLES = """\
dss methods
dss methods dss pinto
dss methods --module=my_methods my_method
"""


def main(argv: list[str]) -> int:
  """Runs the command.

  Args:
    argv: arguments after the verb.

  Returns:
    Exit status 0; wrong options exit with 2.

  Raises:
    ImportError, ValueError: there is no such module, or no such method.
  """
  options = parser().parse_args(argv)
  arguments.import_modules(options.modules)
  files = _files()
  known = {method.name: list(_described(method, files)) for method in methods.registered()}
  known |= {name: lines for name, lines in files.items() if name not in known}
  for name in options.names:
    if name not in known:
      methods.get(name)  # raises, with near names
  for name in options.names or known:
    print(printable('\n'.join([name, *(f'  {line}' for line in known[name])])), end='\n\n')
  return 0


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  made = arguments.verb_parser('methods', _DESCRIPTION, _EXAMPLES)
  made.add_argument('names', nargs='*', metavar='NAME', help='methods to list; default: all')
  arguments.add_module_flag(made)
  return made


def _described(method: methods.Method, files: dict[str, list[str]]) -> Iterator[str]:
  yield method.summary
  for row in method.rows:
    kept = row.weight_if_wrong
    note = '' if kept == 1 else f'  (weight {kept:g} where the teacher is wrong)'
    yield f'{row.input} -> {row.target}{note}'
  if method.answer not in method.rows:
    yield f'asked with {method.answer.input}'
  yield f'loss: {methods.formula(method.tasks, [term.weight for term in method.loss])}'
  if method.source:
    yield f'source: {method.source}'
  yield f'dss train {_choice(method.name, method.name in files)} ...'


def _files() -> dict[str, list[str]]:
  """The shipped files of methods/, each with its comment and how to choose it."""
  found = {}
  for path in sorted((statements.gin_root() / 'methods').glob('*.gin')):
    lines = path.read_text(encoding='utf-8').splitlines()
    comment = [line.removeprefix('#').strip() for line in lines if line.startswith('#')]
    found[path.stem] = [*comment, f'dss train {_choice(path.stem, True)} ...']
  return found


def _choice(name: str, has_file: bool) -> str:
  return f'--gin_file=methods/{name}.gin' if has_file else f'--method={name}'
