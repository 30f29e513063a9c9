"""`dss compare`: a sweep of one student for each method, with a table and answers for people."""

import json
from collections.abc import Sequence

from dss_jax.data import shared_tables
from dss_jax.experiments import sweeping, tables
from dss_jax.experiments.results import TEACHER
from dss_jax.experiments.sweeping import Sweep
from dss_jax.parallel import distributed
from dss_jax.runs import memory, run_config, student
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import whole_files
from dss_jax.settings.printable import printable
from dss_jax.tasks import registration

RUN_FILE = 'runs/compare.gin'
FILE = 'comparison.json'
QUESTIONS = 3


@memory.explained(memory.TRAINING)
def main(argv: Sequence[str]) -> int:
  """Runs `dss compare`; returns the exit code."""
  with shared_tables.keeping():
    sweep = sweeping.read(argv, RUN_FILE)
    with RunFolder(sweep.settings.model_dir).lock():
      for cell in sweep.cells:
        with RunFolder(cell.folder).lock():
          pass  # a training that has one of them is found before anything is trained
      sweeping.note(sweep)
      if sweeping.work(sweep, is_failure_raised=True):
        return 0
      if missing := sweep.missing():
        names = '; '.join(cell.folder.name for cell in missing)
        raise ValueError(f'another process trains {names} of {sweep.settings.model_dir}: wait.')
      _report(sweep)
  return 0


def _report(sweep: Sweep) -> None:
  """Writes and prints the scores of all cells, which are done, and answers of the last method."""
  settings = sweep.settings
  if distributed.is_main():
    scores = [outcome.score for outcome in sweep.outcomes() if outcome is not None]
    lines = json.dumps([vars(score) for score in scores], indent=2) + '\n'
    whole_files.write_text(whole_files.absolute(settings.model_dir) / FILE, lines)
    tables.print_comparison(scores, settings.split)
  own = [cell for cell in sweep.cells if cell.name == cell.method != TEACHER]
  _print_answers(sweep.run_of(own[-1].method, own[-1].macros), settings.split)
  if distributed.is_main():
    print(f'\nRuns, checkpoints, records and {FILE} are in {settings.model_dir}.')


def _print_answers(run: run_config.RunConfig, split: str) -> None:
  """Prints the first questions of a split with a student's answers to them."""
  settings = student.StudentConfig(
    model_dir=run.model_dir, mesh=run.mesh, batch_size=run.eval.batch_size
  )
  predictor = student.load(settings).predictor()
  rows = registration.first_examples(run.data.mixture_or_task_name, split, QUESTIONS)
  answers = predictor.answers(rows)
  if not distributed.is_main():
    return
  for answer, row in zip(answers, rows, strict=True):
    print(printable(f'\nquestion   {answer["input"]}'))
    print(printable(f'label      {answer["label"]}   (gold: {row["label"]})'))
    print(printable(f'rationale  {answer["rationale"]}'))
