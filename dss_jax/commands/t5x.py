"""`dss t5x`: T5X's own trainer on our data sets, methods and loss.

Owns what has to be there before T5X starts: T5X itself, where gin finds our files, where prepared
data is. The command line is that of `python -m t5x.train`, unchanged. What is bound is in gin/t5x/,
and what those files name is in dss_jax/t5x/.
"""

import importlib.util
import logging
import os
import runpy
import sys
from collections.abc import Sequence

from dss_jax.settings import arguments, fields, gin_files, statements, whole_files
from dss_jax.settings.errors import ConfigError

PROGRAM = 't5x.train'
USAGE = """usage: dss t5x --gin_file=t5x/models/base.gin --gin_file=t5x/train.gin [flags]

T5X's own trainer with our data sets, methods and loss. Flags are those of `python -m t5x.train`:

  --gin_file=FILE           repeat for several, later ones win. t5x/models/SIZE.gin (base large xl
                            xxl), t5x/train.gin, then datasets/NAME.gin and methods/NAME.gin
  --gin.NAME=VALUE          a macro or binding, e.g. --gin.MODEL_DIR=\\"gs://b/cqa\\"
  --gin_search_paths=A,B    more folders to look in, before those of T5X and of dss_jax
  --tfds_data_dir=DIR       where `dss prepare` wrote the data sets

example:
  dss t5x --gin_file=t5x/models/base.gin --gin_file=t5x/train.gin --gin_file=datasets/cqa.gin \\
    --gin_file=methods/dss.gin --tfds_data_dir=data --gin.MODEL_DIR=\\"runs/cqa\\"

Needs T5X: `make t5x` in a clone, else python -m dss_jax.launch.t5x_source. See docs/t5x.md."""
USAGE_ERROR = 1  # absl's exit code for a flag that it does not know
SEARCH_PATHS, DATA_DIR = 'gin_search_paths', 'tfds_data_dir'


def main(argv: Sequence[str]) -> int:
  """Runs `dss t5x`; returns the exit code.

  Raises:
    ImportError: there is no T5X.
  """
  if {'--help', '-h'} & set(argv):
    print(USAGE)
    return 0
  _check_installed()
  if data_dir := _last_value(argv, DATA_DIR):
    os.environ['TFDS_DATA_DIR'] = absolute(data_dir)
  gin_files.read_plainly()
  arguments.search_working_directory()  # T5X's users keep their tasks there
  logging.getLogger('absl').setLevel(logging.INFO)  # T5X tells how it goes by nothing else
  sys.argv = [PROGRAM, *argv, f'--{SEARCH_PATHS}={_search_paths(argv)}']
  try:
    runpy.run_module(PROGRAM, run_name='__main__', alter_sys=True)
  except SystemExit as end:
    return _exit_code(end)
  return 0


def absolute(path: str) -> str:
  """MODEL_DIR for T5X, whose checkpoints take no path from the working directory; for gin."""
  return str(whole_files.absolute(fields.expanded(path)))


def _check_installed() -> None:
  try:
    found = importlib.util.find_spec(PROGRAM)
  except ModuleNotFoundError:
    found = None
  if found is None:
    raise ImportError(
      'T5X is not installed. It is on no package index: `make t5x` in a clone, else `pip install '
      "'dss_jax[t5x]'` and `python -m dss_jax.launch.t5x_source`, install the commits that this is "
      'tested with.'
    )


def _last_value(argv: Sequence[str], flag: str) -> str | None:
  """The value of a flag of T5X's, as absl takes it: --flag=VALUE or --flag VALUE, the last one."""
  value = None
  for index, argument in enumerate(argv):
    name, equals, text = argument.partition('=')
    if name.lstrip('-') == flag and name.startswith('-'):
      value = text if equals else next(iter(argv[index + 1 : index + 2]), None)
  return value.strip('\'"') if value else value


def _search_paths(argv: Sequence[str]) -> str:
  """The folders that the command line names, then that of our gin files; T5X adds its own.

  Raises:
    ConfigError: our folder has a comma in its path, by which T5X separates folders.
  """
  ours = str(statements.gin_root())
  if ',' in ours:
    raise ConfigError(f'dss_jax is in {ours}, and T5X takes no folder with a comma: move it.')
  return f'{_last_value(argv, SEARCH_PATHS) or "."},{ours}'


def _exit_code(end: SystemExit) -> int:
  """Ours for an end of T5X's: a flag that absl refuses is a mistake of the command line."""
  if isinstance(end.code, str):
    print(end.code, file=sys.stderr)
    return 1
  return 2 if end.code == USAGE_ERROR else end.code or 0
