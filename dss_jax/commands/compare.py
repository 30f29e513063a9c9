"""`dss compare`: trains a student by each method from the same start, and scores them all."""

import json
from collections.abc import Sequence

from dss_jax.experiments import cells, comparison, configuration, tables
from dss_jax.experiments.comparison import Cell, CompareConfig, RunOf
from dss_jax.parallel import distributed
from dss_jax.runs import memory, run_config, student
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import gin_files, whole_files
from dss_jax.settings.printable import printable
from dss_jax.tasks import registration

RUN_FILE = 'runs/compare.gin'
FILE = 'comparison.json'
QUESTIONS = 3


@memory.explained(memory.TRAINING)
def main(argv: Sequence[str]) -> int:
  """Runs `dss compare`; returns the exit code."""
  gin_files.parse(argv, RUN_FILE)
  compared: CompareConfig = gin_files.configured('comparison.CompareConfig')
  run_of = configuration.reader(argv, RUN_FILE)
  entries = comparison.cells(compared, run_of)
  folder = RunFolder(compared.model_dir)
  if folder.settings_file.exists():
    raise ValueError(f'MODEL_DIR {folder} holds a run; name a folder for the comparison alone.')
  with folder.lock():
    for entry in entries:
      with RunFolder(entry.folder).lock():
        pass  # a training that has one of them is found before anything is trained
    return _compare(compared, entries, run_of)


def _compare(compared: CompareConfig, entries: Sequence[Cell], run_of: RunOf) -> int:
  """Trains and scores all entries, and prints the table; returns the exit code."""
  scores, last = [], None
  for entry in entries:
    run = run_of(entry.method, entry.macros)
    outcome, stops = cells.train(entry, run, compared.split)
    if outcome is None or (stops and entry is not entries[-1]):
      return 0
    scores.append(outcome.score)
    last = run if entry.name == entry.method != comparison.TEACHER else last
  if distributed.is_main():
    lines = json.dumps([vars(score) for score in scores], indent=2) + '\n'
    whole_files.write_text(whole_files.absolute(compared.model_dir) / FILE, lines)
    tables.print_comparison(scores, compared.split)
  if last is not None:
    _print_answers(last, compared.split)
  if distributed.is_main():
    print(f'\nRuns, checkpoints, records and {FILE} are in {compared.model_dir}.')
  return 0


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
