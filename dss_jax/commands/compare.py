"""`dss compare`: trains a student by each method from the same start, and scores them all.

Owns the order of the runs and the table. A run is train.py's, its score evaluate.py's.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import NamedTuple

import rich.box
import rich.console
import rich.table
from etils import epath

from dss_jax.commands import evaluate, predict, train
from dss_jax.inference import evaluator
from dss_jax.parallel import distributed
from dss_jax.runs import run_config
from dss_jax.settings import fields, gin_files, whole_files
from dss_jax.tasks import dataset_of, preprocessors

FILE = 'comparison.json'
QUESTIONS = 3


@dataclasses.dataclass(frozen=True)
class CompareConfig:
  """Which methods are compared, and on what.

  Attributes:
    model_dir: folder of the comparison; each method's run is a folder below it.
    methods: names of files in methods/. All start from the same parameters: the seed's, or
      INITIAL_CHECKPOINT_PATH's.
    split: what the students are scored on.
  """

  model_dir: fields.Path
  methods: Sequence[str] = ('standard', 'dss')
  split: str = 'test'

  def __post_init__(self):
    fields.check(self)
    if not self.methods:
      raise ValueError('CompareConfig.methods (METHODS) names at least one method; it is empty.')


class Row(NamedTuple):
  """One line of the table: accuracy with its 95 % interval, and what training took."""

  method: str
  accuracy: float
  accuracy_low: float
  accuracy_high: float
  examples: int
  steps: int
  seconds: float
  examples_per_second: float


def main(argv: Sequence[str]) -> int:
  """Runs `dss compare`; returns the exit code."""
  gin_files.parse(argv, 'runs/compare.gin')
  compared: CompareConfig = gin_files.configured('compare.CompareConfig')
  rows = []
  for method in compared.methods:
    gin_files.parse([*argv, f'--gin_file=methods/{method}.gin'], 'runs/compare.gin')
    run: run_config.RunConfig = gin_files.configured('run_config.RunConfig')
    run = dataclasses.replace(run, model_dir=str(epath.Path(compared.model_dir) / method))
    row = train_and_score(method, run, compared.split)
    if row is None:
      distributed.say(f'stopped in {run.model_dir}; the same command continues it')
      return 0
    rows.append(row)
  if distributed.is_main():
    lines = json.dumps([row._asdict() for row in rows], indent=2) + '\n'
    whole_files.write_text(epath.Path(compared.model_dir) / FILE, lines)
    print_table(rows, compared.split)
  print_answers(run, compared.split)
  return 0


def train_and_score(method: str, run: run_config.RunConfig, split: str) -> Row | None:
  """Trains (or continues, or finds finished) a run and scores its best checkpoint on `split`.

  Returns:
    None where a signal ended training early.
  """
  distributed.say(f'{method}: training on {run.data.mixture_or_task_name}')
  result = train.train(run)
  if not result.finished:
    return None
  scored = evaluate.EvaluateConfig(
    model_dir=run.model_dir, split=split, mesh=run.mesh, batch_size=run.eval.batch_size
  )
  found = evaluate.evaluate(scored)
  metrics = found['metrics']
  return Row(
    method,
    metrics['accuracy'],
    metrics['accuracy_low'],
    metrics['accuracy_high'],
    found['examples'],
    result.step,
    result.seconds,
    result.sequences / result.seconds if result.seconds else 0.0,
  )


def print_table(rows: Sequence[Row], split: str) -> None:
  """The comparison for people."""
  table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
  table.add_column('method')
  for name in ('label accuracy', '95 % interval', f'{split} examples', 'steps', 'seconds', 'ex/s'):
    table.add_column(name, justify='right')
  for row in rows:
    table.add_row(
      row.method,
      f'{row.accuracy:.1%}',
      f'{row.accuracy_low:.1%} to {row.accuracy_high:.1%}',
      str(row.examples),
      str(row.steps),
      f'{row.seconds:.1f}',
      f'{row.examples_per_second:.0f}',
    )
  console = rich.console.Console()
  console.print(table)
  console.print(
    f'Scored on {split}. seconds, and ex/s (rows of label or rationale), are of training steps '
    'alone.',
    highlight=False,
  )


def print_answers(run: run_config.RunConfig, split: str) -> None:
  """The first questions of a split with what a student says to them."""
  task = dataset_of(run.data.mixture_or_task_name).evaluation_task
  examples = evaluator.load_examples(task, split, QUESTIONS)
  prefix = preprocessors.PREFIXES[preprocessors.LABEL]
  inputs = [text.removeprefix(prefix) for text in examples.texts['inputs_pretokenized']]
  student = predict.PredictConfig(
    model_dir=run.model_dir, mesh=run.mesh, batch_size=run.eval.batch_size
  )
  answers = predict.predict(student, inputs)
  if not distributed.is_main():
    return
  for answer, gold in zip(answers, examples.texts['label'], strict=True):
    print(f'\nquestion   {answer["input"]}')
    print(f'label      {answer["label"]}   (gold: {gold})')
    print(f'rationale  {answer["rationale"]}')
