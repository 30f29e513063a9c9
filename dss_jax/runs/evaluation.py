"""The evaluation of a student on a split: its file of records, its summary, what is printed.

Owns the order of an evaluation. Decoding and scoring are inference/evaluator.py's, loading the
student is student.py's.
"""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from dss_jax.inference import evaluator
from dss_jax.inference.evaluator import Evaluation
from dss_jax.parallel import distributed
from dss_jax.runs import label_check, run_config, student
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import fields, whole_files
from dss_jax.tasks import plain_tasks, registration


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(student.StudentConfig):
  """What a student is scored on.

  Attributes:
    task: a task of one kind of rows; None: the one with gold labels that the student's method is
      judged by.
    split: of the task.
    num_examples: how many are scored, from the first of the split on; None for all.
    output: JSON lines, one an example; None: <model_dir>/<task>_<split>_<step>.jsonl, with the
      method of decoding at the end where it is not greedy, and a summary beside it, .json, which
      `dss export` puts into the model card.
    rationale_scores: a file; instead of decoding, a student of `rationale_input` says of every
      rationale of the split how likely it makes the gold label, for RATIONALE_SCORES of training.
  """

  task: str | None = None
  split: str = 'test'
  num_examples: int | None = None
  output: fields.Path | None = None
  rationale_scores: fields.Path | None = None


def evaluate(settings: EvaluateConfig) -> tuple[dict[str, Any], Sequence[Mapping[str, Any]]]:
  """Scores a student, writes the file of records, prints a summary for people.

  Returns:
    JSON values: task, split, examples (how many) and metrics (see `evaluator.Evaluation`). And the
    records, one an example.

  Raises:
    ValueError: the student, task or split does not exist; the message names near ones.
  """
  RunFolder(settings.model_dir).check_module(settings.module is not None)
  loaded = student.load(settings)
  run_config.set_up_tasks(loaded.run)
  task = settings.task or run_config.evaluation_task(loaded.run)
  examples = evaluator.load_examples(task, settings.split, settings.num_examples)
  row = None if plain_tasks.is_plain(task) else registration.row_of(task)
  decoder = loaded.decoder(row)
  if row is not None and row.has_label:
    _warn_of_labels(task, settings.split, examples.texts['label'], loaded.run, decoder)
  with student.progress_bar(task) as progress:
    evaluation = evaluator.evaluate(task, examples, decoder, loaded.params, progress)
  if evaluation.truncated:
    distributed.log(
      f'warning: {task}: {evaluation.truncated} of {len(examples)} inputs are cut at '
      f"{decoder.max_input_length} tokens, the run's TASK_FEATURE_LENGTHS['inputs']"
    )
  files = RunFolder(settings.model_dir).evaluation_files(
    task, settings.split, loaded.step, settings.decoding.method
  )
  output = epath.Path(settings.output or files.records)
  summary = {
    'task': task,
    'split': settings.split,
    'examples': len(examples),
    'metrics': evaluation.metrics,
  }
  if distributed.is_main():
    write_records(output, evaluation.records)
    if settings.output is None:
      decoding = dataclasses.asdict(decoder.decoding)
      content = {**summary, 'step': loaded.step, 'decoding': decoding}
      whole_files.write_text(files.summary, json.dumps(content, indent=2) + '\n')
    print(f'{task} {settings.split}: step {loaded.step}, {len(examples)} examples')
    print('\n'.join(_lines(evaluation)))
    print(f'  records: {output}')
  return summary, evaluation.records


def _warn_of_labels(
  task: str,
  split: str,
  labels: Sequence[str],
  run: run_config.RunConfig,
  decoder: evaluator.Decoder,
) -> None:
  """Logs which labels no answer can be right for."""
  report = label_check.report(
    collections.Counter(labels),
    f'labels of {task} {split}',
    registration.dataset_of(task).metric,
    registration.row_of(task),
    label_check.Limits(run.data.task_feature_lengths['targets'], decoder.decoding.max_length),
  )
  if report is not None:
    distributed.log(f'warning: {report.text}')


def write_records(path: epath.Path, records: Sequence[Mapping[str, Any]]) -> None:
  """Writes JSON lines, all or none; in ASCII, as some readers also split lines at U+2028 etc.

  Raises:
    OSError: they cannot be written; the message says why.
  """
  lines = [json.dumps(record) + '\n' for record in records]
  try:
    whole_files.write_text(path, ''.join(lines))
  except OSError as error:
    reason = error.strerror or error
    raise type(error)(f'OUTPUT {path} cannot be written: {reason}.') from error


def _lines(evaluation: Evaluation) -> list[str]:
  """One line per metric; the interval follows the accuracy."""
  metrics = dict(evaluation.metrics)
  low, high = metrics.pop('accuracy_low', None), metrics.pop('accuracy_high', None)
  lines = [f'  {name:12}{value:8.4f}' for name, value in metrics.items()]
  if low is not None:
    lines[0] += f'   95 % interval {low:.4f} to {high:.4f}'
  return lines
