"""`dss predict`: label and rationale for inputs of your own.

Owns reading the inputs and writing the answers. Decoding the answers is inference/predictor.py's,
loading the student runs/student.py's.
"""

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence

from etils import epath

from dss_jax.inference.predictor import Question
from dss_jax.parallel import distributed
from dss_jax.runs import evaluation, memory, student
from dss_jax.settings import fields, gin_files


@dataclasses.dataclass(frozen=True)
class PredictConfig(student.StudentConfig):
  """Which student answers, and where the answers go.

  Attributes:
    output: file of JSON lines; None: standard output.
  """

  output: fields.Path | None = None


@memory.explained(memory.DECODING)
def main(argv: Sequence[str]) -> int:
  """Runs `dss predict`; returns the exit code."""
  sources, rest = _split_inputs(argv)
  gin_files.parse(rest, 'runs/predict.gin')
  settings: PredictConfig = gin_files.configured('predict.PredictConfig')
  answers = predict(settings, [text for source in sources for text in _read(*source)])
  if not distributed.is_main():
    return 0
  if settings.output is not None:
    evaluation.write_records(epath.Path(settings.output), answers)
  else:
    for answer in answers:
      print(json.dumps(answer))
  return 0


def predict(
  settings: student.StudentConfig, questions: Sequence[Question]
) -> list[dict[str, str | None]]:
  """A student's answers to inputs without prefix, the parts of one input joined by `</s>`.

  Args:
    settings: which student.
    questions: inputs, or dicts of `input` and the other fields that the student's method needs.

  Returns:
    A dict per question, in order: input, label, rationale. The rationale is None where the student
    was not trained to write one (method `standard`).

  Raises:
    ValueError: no inputs, a blank one, or no such student.
  """
  if not questions:
    raise ValueError(
      'no input; give --input="TEXT", --input=FILE.jsonl, or --input=- (see --help).'
    )
  inputs = [question if isinstance(question, str) else question['input'] for question in questions]
  blank = [number for number, text in enumerate(inputs, start=1) if not text.strip()]
  if blank:
    raise ValueError(f'input {blank[0]} of {len(inputs)} is blank; each needs some text.')
  predictor = student.load(settings).predictor()
  for row in predictor.rows(questions):
    if cut := predictor.truncated(row, questions):
      limit = predictor.decoder(row).max_input_length
      distributed.log(
        f'warning: {row.task}: {cut} of {len(inputs)} inputs are cut at {limit} tokens, the '
        "run's TASK_FEATURE_LENGTHS['inputs']"
      )
  with student.progress_bar('decoding') as progress:
    return predictor.answers(questions, progress)


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


def _read(kind: str, value: str) -> Iterable[Question]:
  """The inputs that one argument gives."""
  if value == '-':
    if distributed.is_multiprocess():
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


def _parse(lines: Iterable[str], name: str) -> Iterable[Question]:
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    try:
      fields = json.loads(line)
    except ValueError:
      fields = None
    if not isinstance(fields, dict) or not isinstance(fields.get('input'), str):
      raise ValueError(f'{name}, line {number}: expected {{"input": "TEXT"}}, not {line[:80]!r}.')
    yield {key: text for key, text in fields.items() if isinstance(text, str)}
