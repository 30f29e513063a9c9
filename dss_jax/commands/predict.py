"""`dss predict`: label and rationale for inputs of your own.

Owns reading the inputs and writing the answers. Decoding the answers is inference/predictor.py's,
loading the student runs/student.py's.
"""

import dataclasses
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import BinaryIO

from etils import epath

from dss_jax.datasets import rows
from dss_jax.inference.predictor import Question
from dss_jax.parallel import distributed
from dss_jax.runs import evaluation, memory, student
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import fields, gin_files
from dss_jax.settings.printable import one_line


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
  _check_output(settings.output, sources, settings.model_dir)
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
  asked = [{'input': given} if isinstance(given, str) else given for given in questions]
  for number, question in enumerate(asked, start=1):
    with rows.at(f'input {number} of {len(asked)}'):
      rows.text(question, 'input')
      rows.refuse_broken(question)
  inputs = [question['input'] for question in asked]
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


def _read(kind: str, value: str) -> list[Question]:
  """The inputs that one argument gives."""
  if value == '-':
    if distributed.is_multiprocess():
      raise ValueError(
        '--input=- is read once, and this is one of several processes: give --input=FILE.jsonl.'
      )
    stream = getattr(sys.stdin, 'buffer', None) or io.BytesIO(sys.stdin.read().encode())
    return _questions('standard input', '.jsonl', stream)
  if kind == 'input_file':
    return _questions(value, rows.format_of(value) or '.jsonl')
  return _questions(value) if _is_path(value) else [value]


def _questions(
  path: str, form: str | None = None, stream: BinaryIO | None = None
) -> list[Question]:
  texts = rows.read_texts(path, ('input',), form=form, stream=stream)
  return [{key: text for key, text in row.items() if isinstance(text, str)} for row in texts]


def _is_path(value: str) -> bool:
  """Whether `--input=VALUE` is a file rather than a text: it exists, or is named like one.

  Raises:
    ValueError: it exists, and is no file of rows.
  """
  shown = one_line(value)
  if value.startswith('@') and os.path.lexists(os.path.expanduser(value[1:])):
    raise ValueError(f'--input={shown}: leave out the @: --input={shown[1:]}.')
  if not rows.is_path(value):
    return False
  if rows.format_of(value) is None:
    raise ValueError(
      f'--input={shown} is a file or folder, not a text; {rows.EXPECTED}. JSON lines in a file of '
      'another name: --input_file. To ask this text itself: --input=- reads lines '
      '{"input": "TEXT"}.'
    )
  return True


def _check_output(output: str | None, sources: Sequence[tuple[str, str]], model_dir: str) -> None:
  """Refuses, before anything is decoded, an output that cannot be written or would be an input."""
  if output is None or '://' in output:
    return
  inputs = [os.path.realpath(os.path.expanduser(value)) for _, value in sources]
  if os.path.exists(output) and os.path.realpath(output) in inputs:
    raise ValueError(f'OUTPUT {output} is one of the inputs; write the answers to another file.')
  if os.path.exists(output) and not os.path.isfile(output):
    raise ValueError(f'OUTPUT {output} is no file; give the name of one, such as answers.jsonl.')
  if RunFolder(model_dir).owns(output):
    raise ValueError(f'OUTPUT {output} is a file of the run; write the answers to another file.')
  if not os.path.isdir(os.path.dirname(output) or '.'):
    raise ValueError(f'OUTPUT {output} is in a folder that does not exist.')
