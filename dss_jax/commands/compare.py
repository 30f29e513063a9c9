"""`dss compare`: trains a student by each method from the same start, and scores them all."""

from collections.abc import Callable, Mapping, Sequence

from etils import epath

from dss_jax.experiments import comparison
from dss_jax.parallel import distributed
from dss_jax.runs import memory, run_config, training_loop
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import arguments, gin_files, statements

RUN_FILE = 'runs/compare.gin'


@memory.explained(memory.TRAINING)
def main(argv: Sequence[str]) -> int:
  """Runs `dss compare`; returns the exit code."""
  gin_files.parse(argv, RUN_FILE)
  compared: comparison.CompareConfig = gin_files.configured('comparison.CompareConfig')

  def run_of(method: str, macros: Mapping[str, str | int] | None = None) -> run_config.RunConfig:
    # Parsed anew for each run, since a run folder keeps the gin configuration as it is now.
    settings = [f'--{name.lower()}={value}' for name, value in (macros or {}).items()]
    gin_files.parse([*argv, _choice(method, argv), *settings], RUN_FILE)
    return gin_files.configured('run_config.RunConfig')

  entries = comparison.entries(compared, run_of)
  folder = RunFolder(compared.model_dir)
  if folder.settings_file.exists():
    raise ValueError(f'MODEL_DIR {folder} holds a run; name a folder for the comparison alone.')
  with folder.lock():
    for entry in entries:
      with RunFolder(str(entry.macros['MODEL_DIR'])).lock():
        pass  # a training that has one of them is found before anything is trained
    return _compare(compared, entries, run_of)


def _compare(
  compared: comparison.CompareConfig,
  entries: Sequence[comparison.Entry],
  run_of: Callable[..., run_config.RunConfig],
) -> int:
  """Trains and scores all entries, and prints the table; returns the exit code."""
  scores, last = [], None
  for entry in entries:
    run = run_of(entry.method, entry.macros)
    distributed.log(f'{entry.name}: training on {run.data.mixture_or_task_name}')
    result = training_loop.train(run)
    if not result.finished:
      distributed.log(f'stopped in {run.model_dir}; the same command continues it')
      return 0
    scores.append(comparison.score(entry, run, result.step, result.seconds, compared.split))
    last = run if entry.name == compared.methods[-1] else last
  if distributed.is_main():
    comparison.save(scores, compared.model_dir)
    comparison.print_table(scores, compared.split)
  if last is not None:
    comparison.print_answers(last, compared.split)
  if distributed.is_main():
    print(f'\nRuns, checkpoints, records and {comparison.FILE} are in {compared.model_dir}.')
  return 0


def _choice(method: str, argv: Sequence[str]) -> str:
  """The argument that chooses a method: its file in methods/ where there is one, else its name."""
  file = f'methods/{method}.gin'
  folders = ['', *arguments.split(argv).search_paths, statements.gin_root()]
  if any((epath.Path(folder) / file).is_file() for folder in folders):
    return f'--gin_file={file}'
  return f'--method={method}'
