"""`dss predict`: label and rationale for inputs of your own.

Owns reading the inputs and writing the answers. Inputs become tokens by the very preprocessors of
the tasks (tasks/preprocessors.py); decoding is evaluator.py's, loading the student student.py's.
"""

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from dss_jax import config, data, evaluate, evaluator, student
from dss_jax.tasks import LABEL, RATIONALE, TASK_NAMES, preprocessors, vocabulary


@dataclasses.dataclass(frozen=True)
class PredictConfig(student.StudentConfig):
  """Who answers.

  Attributes:
    output: file of JSON lines; None: standard output.
  """

  output: str | None = None


def main(argv: Sequence[str]) -> int:
  """Runs `dss predict`; returns the exit code."""
  sources, rest = _split_inputs(argv)
  config.parse(rest, 'runs/predict.gin')
  settings: PredictConfig = config.configured('predict.PredictConfig')
  answers = predict(settings, [text for source in sources for text in _read(*source)])
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
  prefixed = not pupil.task.endswith('_standard')
  labels = _answers(pupil, inputs, LABEL, prefixed)
  rationales = _answers(pupil, inputs, RATIONALE, prefixed) if prefixed else [None] * len(inputs)
  columns = zip(inputs, labels, rationales, strict=True)
  return [dict(zip(('input', 'label', 'rationale'), row, strict=True)) for row in columns]


def encode(inputs: Sequence[str], task_id: int, prefixed: bool) -> data.Examples:
  """Inputs as the task's examples, EOS included; their targets are placeholders."""
  feature = seqio.Feature(vocabulary.get_vocabulary(), add_eos=True)
  features = {'inputs': feature, 'targets': feature}
  rows = tf.data.Dataset.from_tensor_slices(
    {
      'input': list(inputs),
      'label': ['placeholder'] * len(inputs),  # rows with a blank target are left out
      'example_id': np.arange(len(inputs)),
    }
  )
  rows = preprocessors.make_rows([(task_id, 'label')], prefixed)(rows)
  rows = preprocessors.tokenize(rows, features)
  rows = seqio.preprocessors.append_eos_after_trim(
    rows, sequence_length=None, output_features=features
  )
  tokens = [row['inputs'] for row in rows.as_numpy_iterator()]
  offsets = np.cumsum([0, *map(len, tokens)])
  count = np.arange(len(inputs) + 1)
  return data.Examples(
    inputs=np.concatenate(tokens).astype(np.int32),
    input_offsets=offsets,
    targets=np.ones(len(inputs), np.int32),
    target_offsets=count,
    task_ids=np.full(len(inputs), task_id, np.int32),
    example_ids=count[:-1],
  )


def _answers(
  pupil: student.Student, inputs: Sequence[str], task_id: int, prefixed: bool
) -> list[str]:
  """The outputs of one of the two tasks; says on standard error how many inputs were cut."""
  examples = encode(inputs, task_id, prefixed)
  decoder = pupil.decoder(is_rationale=task_id == RATIONALE)
  cut = decoder.truncated(examples)
  if cut:
    print(
      f'warning: {TASK_NAMES[task_id]}: {cut} of {len(inputs)} inputs are cut at '
      f"{decoder.max_input_length} tokens, the run's TASK_FEATURE_LENGTHS['inputs']",
      file=sys.stderr,
    )
  with student.progress_bar(TASK_NAMES[task_id]) as progress:
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
