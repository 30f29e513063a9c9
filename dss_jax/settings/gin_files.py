"""A job's configuration: gin files and command line in, frozen dataclasses out.

Owns parsing and the check of macros. The dataclasses are defined where they are used; none of them
knows gin.
"""

import difflib
import importlib.util  # noqa: F401  gin-config 0.5.0 uses it without importing it
import io
import logging
import pathlib
import re
import sys
import tokenize
from collections.abc import Sequence
from typing import Any

import gin
from etils import epath

import dss_jax
from dss_jax.settings import topologies
from dss_jax.settings.errors import ConfigError

GIN_SUFFIX = '.gin'
# Settings of T5X's partitioner, by their last name, and what says the same here.
T5X_PARTITIONER = {
  'num_partitions': 'MESH_TENSOR, with the same number',
  'model_parallel_submesh': 'MESH_TENSOR, with the product of its sizes',
  'activation_partitioning_dims': 'MESH_TENSOR; activations are divided by rows and by heads, mlp '
  'and vocabulary, never by embed',
  'parameter_partitioning_dims': 'MESH_FSDP: above 1 for 2 dimensions, 1 for 1',
}
USAGE = """
Configuration, as in T5X:
  --gin_file=FILE           a gin file; repeat for several, later ones win. Looked for in the
                            working directory, --gin_search_paths, and the files shipped here.
  --gin_search_paths=A,B    more folders to look in
  --topology=NAME           short for --gin_file=topologies/NAME.gin, read before other files:
                            the mesh of a machine, e.g. v5e-8
  --gin.MACRO=VALUE         override a macro or any binding, e.g. --gin.t5.T5Config.num_heads=4
  --macro=VALUE             short for --gin.MACRO=VALUE, e.g. --batch_size=32
A VALUE that is not a gin value is taken as a string: --model_dir=runs/a needs no quotes.
"""


def gin_root() -> pathlib.Path:
  """The folder of the gin files that ship with dss_jax."""
  package = pathlib.Path(dss_jax.__file__).parent
  installed = package / 'gin'
  return installed if installed.is_dir() else package.parent / 'gin'


def parse(argv: Sequence[str], run_file: str) -> None:
  """Parses a verb's command line into gin's state; `--help` prints the run file and exits.

  Args:
    argv: arguments after the verb.
    run_file: the verb's gin file, e.g. 'runs/train.gin'. It is read first, before all that the
      command line names, so that its defaults are always there.

  Raises:
    ConfigError: an unknown argument, file, macro or binding, or a required macro without value.
  """
  text = (gin_root() / run_file).read_text()
  if any(arg in ('--help', '-h') for arg in argv):
    print(_help(run_file, text))
    sys.exit(0)
  files, search_paths, overrides = _split_arguments(argv)
  gin.clear_config()
  # Set, not added to: gin keeps them from call to call, and its reader of files inside Python
  # packages takes a folder such as `runs/` for one and fails.
  gin.config._LOCATION_PREFIXES[:] = ['', *search_paths, str(gin_root())]
  gin.config._FILE_READERS[:] = [(_open, _is_file)]
  logging.disable(logging.ERROR)  # gin logs every folder in which it does not find a file
  try:
    for name in [run_file, *files]:
      _parse_file(name)
    for name, value in overrides:
      _override(name, value)
  except (OSError, ValueError, SyntaxError, NameError, ImportError, RuntimeError) as error:
    if isinstance(error, ConfigError):
      raise
    raise ConfigError(f'gin: {str(error).strip()}') from error
  finally:
    logging.disable(logging.NOTSET)
  _check_required(text)


def configured(selector: str) -> Any:
  """The object that gin builds for a configurable, e.g. 'train.TrainConfig'.

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
  """The gin configuration that was used, as a gin file that repeats it."""
  return gin.operative_config_str()


def _parse_file(name: str) -> None:
  try:
    gin.parse_config_file(name)
  except tokenize.TokenError as error:
    raise ConfigError(f'gin: {name}: a bracket or string that is opened is not closed.') from error


def _is_file(path: str) -> bool:
  """Whether gin may read a name; it puts a gs:// one, too, behind each folder that it looks in."""
  return not re.search(r'/\w+://', path) and epath.Path(path).is_file()


def _open(path: str):
  text = epath.Path(path).read_text()
  for name in re.findall(r'^\s*([\w./]+)\s*=', text, re.MULTILINE):
    _answer_t5x(name)
  file = io.StringIO(text)
  file.name = path  # which gin tells of a file that it cannot parse
  return file


def _answer_t5x(name: str) -> None:
  """Refuses a setting of T5X's partitioner with the name that it has here."""
  last = re.split(r'[./]', name)[-1].lower()
  if last in T5X_PARTITIONER:
    raise ConfigError(f"{name} is a setting of T5X's; here it is {T5X_PARTITIONER[last]}.")


def _split_arguments(argv: Sequence[str]):
  """gin files, search paths and (macro or binding, value) pairs of a command line."""
  files: list[str] = []
  paths: list[str] = []
  overrides: list[tuple[str, str]] = []
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
      files.append(value)
    elif name == 'topology':
      files.insert(0, f'topologies/{topologies.topology(value).name}.gin')
    elif name == 'gin_search_paths':
      paths += [path for path in value.split(',') if path]
    elif name.startswith('gin.'):
      overrides.append((name[4:], value))
    else:
      overrides.append((name.replace('-', '_').upper(), value))
  return files, paths, overrides


def _override(name: str, value: str) -> None:
  _answer_t5x(name)
  value = {'true': 'True', 'false': 'False', 'none': 'None'}.get(value.lower(), value)
  if '.' not in name and name not in macros():
    near = difflib.get_close_matches(name, macros(), n=3, cutoff=0.5)
    hint = f'did you mean {" or ".join(near)}?' if near else f'there are {", ".join(macros())}.'
    raise ConfigError(f'no gin file defines a macro {name}: {hint}')
  gin.parse_config(f'{name} = {value if _is_gin_value(value) else repr(value)}')


def _is_gin_value(value: str) -> bool:
  if value.lstrip('([{').startswith(('@', '%')):
    return True
  try:
    gin.config.parse_value(value)
  except tokenize.TokenError as error:
    if value.startswith(('(', '[', '{')):
      raise ConfigError(f'the value {value} opens a bracket that it does not close.') from error
    return False
  except (ValueError, SyntaxError):
    return False
  return True


def macros() -> dict[str, Any]:
  """The macros that the parsed files define, with their values."""
  bindings = gin.config._CONFIG.items()
  return {
    scope: values.get('value')
    for (scope, selector), values in sorted(bindings)
    if selector == 'gin.macro'
  }


def _check_required(text: str) -> None:
  missing = [name for name, value in macros().items() if repr(value) == '%gin.REQUIRED']
  for name in missing:
    comment = re.search(rf'^{name} = %gin\.REQUIRED *# *(.*)$', text, re.MULTILINE)
    how = comment[1] if comment else f'--{name.lower()}=...'
    raise ConfigError(f'{name} has no value; give {how}')


def _help(run_file: str, text: str) -> str:
  def included(match: re.Match) -> str:
    return re.sub(r"^include '(.*)'.*$", included, (gin_root() / match[1]).read_text(), flags=re.M)

  text = re.sub(r"^include '(.*)'.*$", included, text, flags=re.MULTILINE)
  body = '\n'.join(line for line in text.splitlines() if not line.startswith(('from', 'import')))
  return f'{USAGE}\nDefaults of this verb ({run_file}):\n\n{body.strip()}'
