"""`dss evaluate`: scores a student on a split, example by example.

Owns the order of an evaluation, its file of records and what it prints. Decoding and scoring are
evaluator.py's, loading the student is student.py's.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from dss_jax.inference import evaluator
from dss_jax.inference.evaluator import Evaluation
from dss_jax.parallel import distributed
from dss_jax.runs import student
from dss_jax.settings import fields, gin_files, whole_files


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(student.StudentConfig):
  """What a student is scored on.

  Attributes:
    task: a label, standard or rationale task; None: the one with gold labels of the student's data.
    split: of the task.
    num_examples: the first so many of the split; None for all.
    output: JSON lines, one an example; None: <model_dir>/<task>_<split>_<step>.jsonl, with the
      method of decoding at the end where it is not greedy, and a summary beside it, .json, which
      `dss export` puts into the model card.
  """

  task: str | None = None
  split: str = 'test'
  num_examples: int | None = None
  output: fields.Path | None = None


def main(argv: Sequence[str]) -> int:
  """Runs `dss evaluate`; returns the exit code."""
  gin_files.parse(argv, 'runs/evaluate.gin')
  found = evaluate(gin_files.configured('evaluate.EvaluateConfig'))
  if distributed.is_main():
    print(json.dumps(found))
  return 0


def evaluate(settings: EvaluateConfig) -> dict[str, Any]:
  """Scores a student, writes the file of records, prints a summary for people.

  Returns:
    JSON values: task, split, examples (how many) and metrics (see `evaluator.Evaluation`).

  Raises:
    ValueError: what is asked for does not exist; the message says what is near.
  """
  pupil = student.load(settings)
  task = settings.task or pupil.task
  examples = evaluator.load_examples(task, settings.split, settings.num_examples)
  decoder = pupil.decoder(is_rationale=evaluator.is_rationale(examples))
  with student.progress_bar(task) as progress:
    found = evaluator.evaluate(task, examples, decoder, pupil.params, progress)
  if found.truncated:
    distributed.say(
      f'warning: {task}: {found.truncated} of {len(examples)} inputs are cut at '
      f"{decoder.max_input_length} tokens, the run's TASK_FEATURE_LENGTHS['inputs']"
    )
  method = settings.decoding.method
  kind = '' if method == 'greedy' else f'_{method}'
  name = f'{task}_{settings.split}_{pupil.step}{kind}.jsonl'
  output = epath.Path(settings.output or epath.Path(settings.model_dir) / name)
  summary = {
    'task': task,
    'split': settings.split,
    'examples': len(examples),
    'metrics': found.metrics,
  }
  if distributed.is_main():
    write_records(output, found.records)
    if settings.output is None:
      decoding = dataclasses.asdict(decoder.decoding)
      content = {**summary, 'step': pupil.step, 'decoding': decoding}
      whole_files.write_text(output.with_suffix('.json'), json.dumps(content, indent=2) + '\n')
    print(f'{task} {settings.split}: step {pupil.step}, {len(examples)} examples')
    print('\n'.join(_lines(found)))
    print(f'  records: {output}')
  return summary


def write_records(path: epath.Path, records: Sequence[Mapping[str, Any]]) -> None:
  """Writes JSON lines, all or none; ASCII, as some readers also split lines at U+2028 and others.

  Raises:
    ValueError: the folder does not exist or cannot be written.
  """
  lines = [json.dumps(record) + '\n' for record in records]
  try:
    whole_files.write_text(path, ''.join(lines))
  except OSError as error:
    raise ValueError(f'OUTPUT {path} cannot be written: {error}.') from error


def _lines(found: Evaluation) -> list[str]:
  """One line a metric; the interval stands behind its accuracy."""
  metrics = dict(found.metrics)
  low, high = metrics.pop('accuracy_low', None), metrics.pop('accuracy_high', None)
  lines = [f'  {name:12}{value:8.4f}' for name, value in metrics.items()]
  if low is not None:
    lines[0] += f'   95 % interval {low:.4f} to {high:.4f}'
  return lines
