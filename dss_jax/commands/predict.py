"""`dss predict`: label and rationale for inputs of your own.

Owns reading the inputs and writing the answers. Inputs become tokens by the preprocessors of the
tasks that the student was trained on; decoding is evaluator.py's, loading the student student.py's.
"""

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from dss_jax.commands import evaluate
from dss_jax.data import pipeline
from dss_jax.inference import evaluator
from dss_jax.parallel import distributed
from dss_jax.runs import student
from dss_jax.settings import fields, gin_files
from dss_jax.tasks import dataset_of

TARGETS = ('label', 'rationale', 'teacher_label')


@dataclasses.dataclass(frozen=True)
class PredictConfig(student.StudentConfig):
  """Who answers.

  Attributes:
    output: file of JSON lines; None: standard output.
  """

  output: fields.Path | None = None


def main(argv: Sequence[str]) -> int:
  """Runs `dss predict`; returns the exit code."""
  sources, rest = _split_inputs(argv)
  gin_files.parse(rest, 'runs/predict.gin')
  settings: PredictConfig = gin_files.configured('predict.PredictConfig')
  answers = predict(settings, [text for source in sources for text in _read(*source)])
  if not distributed.is_main():
    return 0
  if settings.output is not None:
    evaluate.write_records(epath.Path(settings.output), answers)
  else:
    for answer in answers:
      print(json.dumps(answer))
  return 0


def predict(settings: student.StudentConfig, inputs: Sequence[str]) -> list[dict[str, str | None]]:
  """A student's answers to inputs without prefix, the parts of one input joined by `</s>`.

  Returns:
    A dict an input, in order: input, label, rationale. The rationale is None where the student was
    trained without the tasks' prefixes (method `standard`).

  Raises:
    ValueError: no inputs, a blank one, or no such student.
  """
  if not inputs:
    raise ValueError(
      'no input; give --input="TEXT", --input=FILE.jsonl, or --input=- (see --help).'
    )
  blank = [number for number, text in enumerate(inputs, start=1) if not text.strip()]
  if blank:
    raise ValueError(f'input {blank[0]} of {len(inputs)} is blank; each needs some text.')
  pupil = student.load(settings)
  labels = _answers(pupil, pupil.task, inputs)
  rationales: Sequence[str | None] = [None] * len(inputs)
  if not pupil.task.endswith('_standard'):
    rationales = _answers(pupil, f'{dataset_of(pupil.task).name}_rationale', inputs)
  columns = zip(inputs, labels, rationales, strict=True)
  return [dict(zip(('input', 'label', 'rationale'), row, strict=True)) for row in columns]


def encode(task_name: str, inputs: Sequence[str]) -> pipeline.Examples:
  """Inputs as a registered task's examples, through its own preprocessors; targets are dummies."""
  task = seqio.TaskRegistry.get(task_name)
  texts = {
    'input': list(inputs),
    'example_id': np.arange(len(inputs)),
    **dict.fromkeys(TARGETS, ['dummy'] * len(inputs)),  # a task leaves out rows of blank targets
  }
  rows = task.preprocess_postcache(tf.data.Dataset.from_tensor_slices(texts), sequence_length=None)
  columns = [(row['inputs'].numpy(), int(row['task_id'])) for row in rows]
  tokens, task_ids = zip(*columns, strict=True)
  count = np.arange(len(inputs) + 1)
  return pipeline.Examples(
    inputs=np.concatenate(tokens).astype(np.int32),
    input_offsets=np.cumsum([0, *map(len, tokens)]),
    targets=np.ones(len(inputs), np.int32),
    target_offsets=count,
    task_ids=np.array(task_ids, np.int32),
    example_ids=count[:-1],
  )


def _answers(pupil: student.Student, task_name: str, inputs: Sequence[str]) -> list[str]:
  """The outputs of a task; says on standard error how many inputs were cut."""
  examples = encode(task_name, inputs)
  decoder = pupil.decoder(evaluator.is_rationale(examples))
  cut = decoder.truncated(examples)
  if cut:
    distributed.say(
      f'warning: {task_name}: {cut} of {len(inputs)} inputs are cut at '
      f"{decoder.max_input_length} tokens, the run's TASK_FEATURE_LENGTHS['inputs']"
    )
  with student.progress_bar(task_name) as progress:
    outputs = decoder(pupil.params, examples, progress)
  return [evaluator.to_text(row) for row in outputs.tokens]


def _split_inputs(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
  """The (`input` or `input_file`, value) pairs of a command line, and the other arguments."""
  sources, rest, arguments = [], [], list(argv)
  while arguments:
    argument = arguments.pop(0)
    name, equals, value = argument.partition('=')
    if name not in ('--input', '--input_file'):
      rest.append(argument)
      continue
    if not equals:
      if not arguments:
        raise ValueError(f'{name} needs a value: {name}=VALUE; see --help.')
      value = arguments.pop(0)
    sources.append((name.removeprefix('--'), value))
  return sources, rest


def _read(kind: str, value: str) -> Iterable[str]:
  """The inputs that one argument stands for."""
  if value == '-':
    if distributed.several():
      raise ValueError(
        '--input=- is read once, and this is one of several processes: give --input=FILE.jsonl.'
      )
    return _parse(sys.stdin, 'standard input')
  if kind == 'input' and not value.endswith('.jsonl'):
    return [value]
  path = epath.Path(value)
  if not path.is_file():
    raise ValueError(f'--{kind}={value}: no such file; expected JSON lines {{"input": "TEXT"}}.')
  return _parse(path.read_text(encoding='utf-8').split('\n'), value)


def _parse(lines: Iterable[str], name: str) -> Iterable[str]:
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    try:
      text = json.loads(line)['input']
    except (ValueError, TypeError, KeyError):
      text = None
    if not isinstance(text, str):
      raise ValueError(f'{name}, line {number}: expected {{"input": "TEXT"}}, not {line[:80]!r}.')
    yield text
