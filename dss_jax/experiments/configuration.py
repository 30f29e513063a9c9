"""The settings of a cell's run, from the command line of a comparison or sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from dss_jax.experiments.comparison import TEACHER, RunOf
from dss_jax.runs import run_config
from dss_jax.settings import arguments, gin_files, statements
from dss_jax.settings.errors import ConfigError


def reader(argv: Sequence[str], run_file: str) -> RunOf:
  """The function from a method's name and macros to a run's settings.

  Each call parses the command line anew, since a run folder keeps the gin configuration as it is
  then.

  Args:
    argv: arguments after the verb.
    run_file: the verb's gin file.
  """

  def run_of(method: str, macros: Mapping[str, Any]) -> run_config.RunConfig:
    if method.strip().lower() in ('', 'none'):
      raise ConfigError(f'METHODS are names, such as standard,dss, not {method!r}.')
    file = _file_of(method, argv)
    settings = [f'--{name.lower()}={value}' for name, value in macros.items()]
    if file is not None:
      settings = [f'--gin_file={_name_of(method)}', *settings]
    elif method != TEACHER:
      settings = [f'--method={method}', *settings]
    gin_files.parse([*argv, *settings], run_file)
    if file is not None:
      _check_kept(file)
    return gin_files.configured('run_config.RunConfig')

  return run_of


def _check_kept(file: epath.Path) -> None:
  """Refuses settings that replace those of a method's file: its line would be of another method."""
  used = gin_files.macros()
  for one in statements.of_text(file.read_text(), str(file))[0]:
    if not one.configurable and one.name in used and repr(used[one.name]) != repr(one.value):
      raise ValueError(
        f'{file} sets {one.name} = {one.value!r}, which is part of that method, and it is replaced '
        f'by {used[one.name]!r}: leave {one.name} to it, or compare that method apart.'
      )


def _file_of(method: str, argv: Sequence[str]) -> epath.Path | None:
  """The file in methods/ by which a method is chosen; None where its name does it."""
  folders = ['', *arguments.split(argv).search_paths, statements.gin_root()]
  paths = (epath.Path(folder) / _name_of(method) for folder in folders)
  return next((path for path in paths if path.is_file()), None)


def _name_of(method: str) -> str:
  return f'methods/{method}.gin'
