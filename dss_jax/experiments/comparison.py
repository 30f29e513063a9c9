"""Several methods on one data set: a student of each from the same start, scored on one split.

Owns the protocol and the table. A run is training's, its score runs/evaluation.py's.

The protocol is the paper's: every method sees the same number of labels a step. A batch of B
examples is B label rows for each method, and B more rationale rows for one that learns rationales
too. Such a method computes more, and the table says how much. The table also has the first method
trained for more steps, with the compute of the costliest one.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import rich.box
import rich.console
import rich.table
from etils import epath

from dss_jax import methods
from dss_jax.parallel import distributed
from dss_jax.runs import evaluation, run_config, student
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import fields, whole_files
from dss_jax.settings.printable import printable
from dss_jax.tasks import registration

FILE = 'comparison.json'
QUESTIONS = 3
WIDTH = 100  # columns of the table where no terminal says how many there are


@dataclasses.dataclass(frozen=True)
class CompareConfig:
  """Which methods are compared, and on what.

  Attributes:
    model_dir: folder of the comparison; each method's run is a folder below it.
    methods: names of methods, or of files in methods/. All start from the same parameters: the
      seed's, or INITIAL_CHECKPOINT_PATH's. BATCH_SIZE is the number of rows for a method with one
      row an example; one with two gets twice as many.
    equal_compute: whether the first method is also trained for more steps, until its compute is
      that of the costliest one.
    split: what the students are scored on.
  """

  model_dir: fields.Path
  methods: Sequence[str] = ('standard', 'dss')
  equal_compute: bool = True
  split: str = 'test'

  def __post_init__(self):
    fields.check(self)
    if not self.methods:
      raise ValueError('CompareConfig.methods (METHODS) names at least one method; it is empty.')
    if len(set(self.methods)) < len(self.methods):
      raise ValueError(
        f'CompareConfig.methods (METHODS) names each method once, not {list(self.methods)}.'
      )


class Score(NamedTuple):
  """One line of the table.

  Attributes:
    name: of the method, and how it was trained if that differs.
    folder: of its run, below the comparison's.
    accuracy: with the ends of its 95 % interval, accuracy_low and accuracy_high.
    examples: scored.
    labels_per_step: rows with a label in a batch, on average.
    steps: updates.
    compute: of training, as a multiple of the first line's.
    seconds: of training steps alone.
  """

  name: str
  folder: str
  accuracy: float
  accuracy_low: float
  accuracy_high: float
  examples: int
  labels_per_step: float
  steps: int
  compute: float
  seconds: float


class Entry(NamedTuple):
  """A run to train.

  Attributes:
    name: of its line in the table.
    method: whose run it is.
    macros: settings that differ from those of the method's run, by macro.
    compute: of its training, as a multiple of the first entry's.
  """

  name: str
  method: str
  macros: Mapping[str, str | int]
  compute: float


def entries(compared: CompareConfig, run_of: Callable[[str], run_config.RunConfig]) -> list[Entry]:
  """The runs of a comparison, in the order of the table.

  Args:
    compared: what is compared.
    run_of: from the name of a method to the settings of its run, before any protocol.
  """
  runs = {name: run_of(name) for name in compared.methods}
  rows = {
    name: run.data.batch_size * run_config.rows_per_example(run) for name, run in runs.items()
  }
  passes = {name: (run.method or methods.get(methods.DEFAULT)).passes for name, run in runs.items()}
  work = {name: rows[name] * passes[name] * run.train_steps for name, run in runs.items()}
  first = compared.methods[0]
  listed = [
    Entry(name, name, _macros(compared, name, BATCH_SIZE=rows[name]), work[name] / work[first])
    for name in compared.methods
  ]
  ratio = max(work.values()) / work[first]
  if compared.equal_compute and ratio > 1.0:
    steps = round(runs[first].train_steps * ratio)
    macros = _macros(
      compared, f'{first}_equal_compute', BATCH_SIZE=rows[first], TRAIN_STEPS_RELATIVE=steps
    )
    listed.append(Entry(f'{first}, equal compute', first, macros, ratio))
  return listed


def _macros(compared: CompareConfig, folder: str, **macros: int) -> dict[str, str | int]:
  return {'MODEL_DIR': str(epath.Path(compared.model_dir) / folder), **macros}


def score(entry: Entry, run: run_config.RunConfig, steps: int, seconds: float, split: str) -> Score:
  """Scores the best checkpoint of an entry's run, which is trained."""
  settings = evaluation.EvaluateConfig(
    model_dir=run.model_dir,
    split=split,
    mesh=run.mesh,
    batch_size=run.eval.batch_size,
    module=run.module,
  )
  summary = evaluation.evaluate(settings)
  metrics = summary['metrics']
  return Score(
    entry.name,
    epath.Path(run.model_dir).name,
    metrics['accuracy'],
    metrics['accuracy_low'],
    metrics['accuracy_high'],
    summary['examples'],
    _labels_per_step(run),
    steps,
    entry.compute * steps / run.train_steps,  # fewer where PATIENCE stopped it
    seconds,
  )


def _labels_per_step(run: run_config.RunConfig) -> float:
  """Rows of the answer's task in a training batch, on average over those that were logged."""
  assert run.method is not None
  name = f'{run.method.answer.task}/rows'
  rows = [row for row in RunFolder(run.model_dir).metric_rows() if row['kind'] == 'train']
  counts = [row[name] for row in rows if name in row]
  return sum(counts) / len(counts) if counts else 0.0


def save(scores: Sequence[Score], folder: str) -> None:
  """Writes the table as JSON."""
  lines = json.dumps([line._asdict() for line in scores], indent=2) + '\n'
  whole_files.write_text(epath.Path(folder) / FILE, lines)


def print_table(scores: Sequence[Score], split: str) -> None:
  """Prints the comparison for people."""
  table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
  table.add_column('method')
  names = ('accuracy', '95 % interval', 'labels/step', 'steps', 'compute', 'seconds')
  for name in names:
    table.add_column(name, justify='right')
  for line in scores:
    table.add_row(
      line.name,
      f'{line.accuracy:.1%}',
      f'{100 * line.accuracy_low:.1f} to {100 * line.accuracy_high:.1f}',
      f'{line.labels_per_step:.0f}',
      str(line.steps),
      f'{line.compute:.1f} x',
      f'{line.seconds:.0f}',
    )
  console = rich.console.Console()
  if not console.is_terminal:
    console.width = WIDTH
  console.print(table)
  console.print(
    f'Label accuracy on {scores[0].examples} examples of {split}, one seed. The interval is of '
    'the examples alone.',
    highlight=False,
  )


def print_answers(run: run_config.RunConfig, split: str) -> None:
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
