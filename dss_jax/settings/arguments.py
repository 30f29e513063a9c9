"""The command line of a verb that gin files configure: files, search paths and overrides.

Owns its grammar and its short forms. Verbs without gin files take the short form for a user's own
modules too.
"""

import argparse
import importlib
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
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
  --explain_t5x=FILE        what each line of a gin file of T5X's becomes; trains nothing
A VALUE has the setting's type, so --model_dir=runs/a needs no quotes. @name() and %NAME are gin
references."""
MODULE = 'MIXTURE_OR_TASK_MODULE'
SHORT_FORMS = {'MODULE': MODULE}
DATA_DIR = 'DATA_DIR'
T5X_MACROS = {'tfds_data_dir': DATA_DIR}  # flags of T5X's programs that are macros here
# Flags of T5X's programs, and of absl's, that need nothing here; the switches come without a value.
T5X_SWITCHES = ('alsologtostderr', 'logtostderr', 'nologtostderr', 'noalsologtostderr')
T5X_UNNEEDED = (
  *T5X_SWITCHES, 'run_mode', 'verbosity', 'v', 'stderrthreshold', 'log_dir',
  'seqio_additional_cache_dirs',
)  # fmt: skip
T5X_REFUSED = {
  'multiprocess_gpu': 'DSS_COORDINATOR and its like in the environment start several processes',
  'coordinator_address': 'DSS_COORDINATOR in the environment is the address',
  'process_count': 'DSS_NUM_PROCESSES in the environment is the number of processes',
  'process_index': 'DSS_PROCESS_ID in the environment is the number of this process',
  'dry_run': '`dss plan` compiles a run, and --explain_t5x=FILE shows what a file becomes',
}


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
    if not equals and name[2:] in T5X_SWITCHES:
      continue
    if name[2:] in T5X_REFUSED:
      raise ConfigError(f'{name} is a flag of T5X; here {T5X_REFUSED[name[2:]]}.')
    if not equals:
      if not rest or rest[0].startswith('--'):
        raise ConfigError(f'{name} needs a value: {name}=VALUE; see --help.')
      value = rest.pop(0)
    name = name[2:]
    _check_t5x_flag(name, value)
    if name in T5X_UNNEEDED:
      continue
    if name == 'gin_file':
      arguments.files.append(_unquoted(value))
    elif name == 'gin_bindings':
      bound, _, text = value.partition('=')
      arguments.overrides.append((bound.strip(), text.strip()))
    elif name == 'topology':
      arguments.files.insert(0, f'topologies/{topologies.topology(value).name}.gin')
    elif name == 'gin_search_paths':
      paths = filter(None, _unquoted(value).split(','))
      arguments.search_paths.extend(fields.expanded(path) for path in paths)
    elif name.startswith('gin.'):
      arguments.overrides.append((name[4:], value))
    else:
      macro = T5X_MACROS.get(name, name.replace('-', '_').upper())
      arguments.overrides.append((SHORT_FORMS.get(macro, macro), value))
  return arguments


def _check_t5x_flag(name: str, value: str) -> None:
  """Raises ConfigError for a flag of T5X's programs that has another form here."""
  if name == 'run_mode' and value != 'train':
    raise ConfigError(
      f'--run_mode={value} is a flag of T5X; here `dss evaluate`, `dss predict` and `dss export` '
      'are programs of their own.'
    )
  if name == 'gin_bindings' and '=' not in value:
    raise ConfigError(f"expected --gin_bindings='NAME = VALUE', not {value!r}.")


def _unquoted(path: str) -> str:
  """A path without the quotes that a shell script may have left around it."""
  is_quoted = len(path) > 1 and path[0] == path[-1] and path[0] in '\'"'
  return path[1:-1] if is_quoted else path


def verb_parser(verb: str, description: str, examples: str) -> argparse.ArgumentParser:
  """The parser of a verb without gin files, to which it adds its flags.

  Args:
    verb: its name.
    description: what it does.
    examples: command lines, one or more.
  """
  return argparse.ArgumentParser(
    prog=f'dss {verb}',
    description=description,
    epilog='examples:\n' + textwrap.indent(examples.rstrip(), '  '),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )


def number(least: float = -math.inf) -> Callable[[str], float]:
  """The type of a flag that is a finite number, at least `least`."""

  def read(text: str) -> float:
    try:
      value = float(text)
    except ValueError:
      value = math.nan
    if not math.isfinite(value) or value < least:
      what = 'a number' if least == -math.inf else f'a number, {least:g} or more'
      raise argparse.ArgumentTypeError(f'expected {what}, got {text!r}')
    return value

  return read


def whole(least: int = 1) -> Callable[[str], int]:
  """The type of a flag that is a whole number, at least `least`; 1e4 is one."""

  def read(text: str) -> int:
    try:
      value = int(text) if text.strip().lstrip('+-').isdecimal() else float(text)
      is_whole = value == int(value) and value >= least
    except (ValueError, OverflowError):
      is_whole = False
    if not is_whole:
      raise argparse.ArgumentTypeError(f'expected a whole number, {least} or more, got {text!r}')
    return int(value)

  return read


def given(text: str) -> str:
  """The type of a flag that is a name or path: refuses an empty text, and None."""
  if text.strip().lower() in ('', 'none'):
    raise argparse.ArgumentTypeError(f'expected a value, got {text!r}; or leave the flag out')
  return text


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
  for name in (name for several in names for name in several.split(',')):
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
