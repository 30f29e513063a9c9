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
    choice = '' if method == TEACHER else _choice(method, argv)
    gin_files.parse([*argv, *([choice] if choice else []), *settings], run_file)
    _check_kept(choice, argv)
    return gin_files.configured('run_config.RunConfig')

  return run_of


def _check_kept(choice: str, argv: Sequence[str]) -> None:
  """Refuses settings that replace those of a method's file: its line would be of another method."""
  name = choice.removeprefix('--gin_file=')
  if not choice or name == choice:
    return
  folders = ['', *arguments.split(argv).search_paths, statements.gin_root()]
  file = next(path for folder in folders if (path := epath.Path(folder) / name).is_file())
  used = gin_files.macros()
  for one in statements.of_text(file.read_text(), name)[0]:
    if not one.configurable and one.name in used and repr(used[one.name]) != repr(one.value):
      raise ValueError(
        f'{name} sets {one.name} = {one.value!r}, which is part of that method, and it is replaced '
        f'by {used[one.name]!r}: leave {one.name} to it, or compare that method apart.'
      )


def _choice(method: str, argv: Sequence[str]) -> str:
  """The argument that chooses a method: its file in methods/ where there is one, else its name."""
  file = f'methods/{method}.gin'
  folders = ['', *arguments.split(argv).search_paths, statements.gin_root()]
  if any((epath.Path(folder) / file).is_file() for folder in folders):
    return f'--gin_file={file}'
  return f'--method={method}'
