"""`dss compare`: trains a student by each method from the same start, and scores them all."""

from collections.abc import Sequence

from dss_jax.experiments import comparison
from dss_jax.parallel import distributed
from dss_jax.runs import run_config, training_loop
from dss_jax.settings import gin_files

RUN_FILE = 'runs/compare.gin'


def main(argv: Sequence[str]) -> int:
  """Runs `dss compare`; returns the exit code."""
  gin_files.parse(argv, RUN_FILE)
  compared: comparison.CompareConfig = gin_files.configured('comparison.CompareConfig')

  def run_of(method: str) -> run_config.RunConfig:
    gin_files.parse([*argv, f'--gin_file=methods/{method}.gin'], RUN_FILE)
    return gin_files.configured('run_config.RunConfig')

  scores = []
  runs = list(comparison.entries(compared, run_of))
  for entry in runs:
    distributed.log(f'{entry.name}: training on {entry.run.data.mixture_or_task_name}')
    result = training_loop.train(entry.run)
    if not result.finished:
      distributed.log(f'stopped in {entry.run.model_dir}; the same command continues it')
      return 0
    scores.append(comparison.score(entry, result.step, result.seconds, compared.split))
  if distributed.is_main():
    comparison.save(scores, compared.model_dir)
    comparison.print_table(scores, compared.split)
  comparison.print_answers(runs[len(compared.methods) - 1].run, compared.split)
  if distributed.is_main():
    print(f'\nRuns, checkpoints, records and {comparison.FILE} are in {compared.model_dir}.')
  return 0
