"""The command line of a verb that gin files configure: files, search paths and overrides.

Owns its grammar and its short forms. Verbs without gin files take the short form for a user's own
modules too.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dss_jax.settings import fields, topologies
from dss_jax.settings.errors import ConfigError

USAGE = """\
  --name=VALUE              a setting, e.g. --batch_size=32
  --gin_file=FILE           a gin file; repeat for several, later ones win. Looked for in the
                            working directory, --gin_search_paths, and the files shipped here.
  --gin_search_paths=A,B    more folders to look in
  --topology=NAME           short for --gin_file=topologies/NAME.gin, read before other files:
                            the mesh of a machine, e.g. v5e-8
  --gin.NAME=VALUE          the same as --name=VALUE, as in T5X; also any binding, e.g.
                            --gin.t5.T5Config.num_heads=4
A VALUE has the setting's type, so --model_dir=runs/a needs no quotes. @name() and %NAME are gin
references."""
MODULE = 'MIXTURE_OR_TASK_MODULE'
SHORT_FORMS = {'MODULE': MODULE}


class Arguments(NamedTuple):
  """A parsed command line.

  Attributes:
    files: gin files in the order in which they are read.
    search_paths: folders to search for them.
    overrides: pairs of a macro or binding and its value's text; later ones win.
  """

  files: list[str]
  search_paths: list[str]
  overrides: list[tuple[str, str]]


def split(argv: Sequence[str]) -> Arguments:
  """Parses a command line.

  Raises:
    ConfigError: an argument without -- or without a value.
    ValueError: there is no such topology.
  """
  arguments = Arguments([], [], [])
  rest = list(argv)
  while rest:
    argument = rest.pop(0)
    name, equals, value = argument.partition('=')
    if not name.startswith('--'):
      raise ConfigError(f'expected --name=value, not {argument!r}; see --help.')
    if not equals:
      if not rest or rest[0].startswith('--'):
        raise ConfigError(f'{name} needs a value: {name}=VALUE; see --help.')
      value = rest.pop(0)
    name = name[2:]
    if name == 'gin_file':
      arguments.files.append(value)
    elif name == 'topology':
      arguments.files.insert(0, f'topologies/{topologies.topology(value).name}.gin')
    elif name == 'gin_search_paths':
      arguments.search_paths.extend(fields.expanded(path) for path in value.split(',') if path)
    elif name.startswith('gin.'):
      arguments.overrides.append((name[4:], value))
    else:
      macro = name.replace('-', '_').upper()
      arguments.overrides.append((SHORT_FORMS.get(macro, macro), value))
  return arguments


def add_module_flag(parser: argparse.ArgumentParser) -> None:
  """Adds --mixture_or_task_module, and its short form, to a verb without gin files."""
  parser.add_argument(
    f'--{MODULE.lower()}',
    *(f'--{short.lower()}' for short, name in SHORT_FORMS.items() if name == MODULE),
    dest='modules',
    action='append',
    default=[],
    metavar='MODULE',
    help='import this module of your own first, which registers tasks (repeatable)',
  )


def import_modules(names: Iterable[str]) -> None:
  """Imports the modules that a command line names, which register tasks; nothing else may name one.

  Raises:
    ConfigError: a name that no `import` statement could have.
    ImportError: there is no such module.
  """
  for name in names:
    if not all(part.isidentifier() for part in name.split('.')):
      raise ConfigError(
        f'{MODULE} is the name of a module, as `import` takes it (my_module for my_module.py), '
        f'not {name!r}.'
      )
    search_working_directory()
    importlib.import_module(name)


def search_working_directory() -> None:
  """Makes modules of the working directory importable, for a command line that names one.

  They are searched last: a file there that is named like a library does not replace it.
  """
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())
