"""The settings of a cell's run, from the command line of a comparison or sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from dss_jax.experiments.comparison import TEACHER, RunOf
from dss_jax.runs import run_config
from dss_jax.settings import arguments, gin_files, statements


def reader(argv: Sequence[str], run_file: str) -> RunOf:
  """The function from a method's name and macros to a run's settings.

  Each call parses the command line anew, since a run folder keeps the gin configuration as it is
  then.

  Args:
    argv: arguments after the verb.
    run_file: the verb's gin file.
  """

  def run_of(method: str, macros: Mapping[str, Any]) -> run_config.RunConfig:
    settings = [f'--{name.lower()}={value}' for name, value in macros.items()]
    choice = [] if method == TEACHER else [_choice(method, argv)]
    gin_files.parse([*argv, *choice, *settings], run_file)
    return gin_files.configured('run_config.RunConfig')

  return run_of


def _choice(method: str, argv: Sequence[str]) -> str:
  """The argument that chooses a method: its file in methods/ where there is one, else its name."""
  file = f'methods/{method}.gin'
  folders = ['', *arguments.split(argv).search_paths, statements.gin_root()]
  if any((epath.Path(folder) / file).is_file() for folder in folders):
    return f'--gin_file={file}'
  return f'--method={method}'
