"""What a run answered to each question: the records that its evaluation left.

Owns finding and reading them, one run at a time, as a sweep has many. Which files there are is
RunFolder's, what is in them is inference/evaluator.py's.
"""

import math
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from dss_jax.experiments.report.folder import Run
from dss_jax.settings import json_form
from dss_jax.settings.errors import ConfigError

_NO_CHARACTER = re.compile('[\0\ud800-\udfff]')  # a student may write anything
_OF_SUMMARY = {'task': str, 'split': str, 'step': int, 'metrics': dict}


class Answers(NamedTuple):
  """A student, or the teacher, on every question of a split, n in all.

  Attributes:
    task: as which it was scored.
    file: of the records.
    ids: numbers of the examples.
    inputs: what was asked.
    targets: the gold labels.
    predictions: the labels that were answered.
    correct: bool [n].
    confidences: float64 [n], the mean log probability of the answer's tokens; None if not stored.
    rationales: what was written beside the label; '' where nothing was.
  """

  task: str
  file: epath.Path
  ids: tuple[int, ...]
  inputs: tuple[str, ...]
  targets: tuple[str, ...]
  predictions: tuple[str, ...]
  correct: np.ndarray
  confidences: np.ndarray | None
  rationales: tuple[str, ...]


class Rationales(NamedTuple):
  """What a student wrote when it was asked for rationales, and the teacher's, by example."""

  own: Mapping[int, str]
  teacher: Mapping[int, str]


def answers(run: Run) -> Answers | None:
  """The records behind a run's score; None where they are not there, or are of another score.

  Raises:
    ConfigError: a file is damaged.
  """
  for summary, file in _evaluations(run, 'accuracy'):
    if summary.get('examples') not in (None, len(run.correct)) or not file.exists():
      continue
    found = _answers(str(summary['task']), file)
    if np.array_equal(found.correct, run.correct):
      return found
  return None


def rationales(run: Run) -> Rationales:
  """What `dss evaluate` of the task of rationales left for a run's split; empty where it did not.

  Raises:
    ConfigError: a file is damaged.
  """
  for _, file in _evaluations(run, 'rouge_l'):
    if file.exists():
      parts = [(_number(row), row) for _, row in _rows(file)]
      own = {number: _text(row, 'prediction') for number, row in parts}
      return Rationales(own, {number: _text(row, 'target') for number, row in parts})
  return Rationales({}, {})


def has_rationales(run: Run) -> bool:
  """Whether a run has the records of an evaluation of rationales."""
  return any(file.exists() for _, file in _evaluations(run, 'rouge_l'))


def _evaluations(run: Run, metric: str) -> Iterator[tuple[Mapping[str, Any], epath.Path]]:
  """Summaries of a run's split that have a metric, with the files of their records."""
  if run.path is None:
    return
  for path in sorted(run.path.iterdir(), key=lambda one: one.name):
    if path.suffix != '.json':
      continue
    values = json_form.parse(json_form.read_text(path), str(path))
    is_summary = isinstance(values, dict) and all(
      isinstance(values.get(name), kind) for name, kind in _OF_SUMMARY.items()
    )
    if is_summary and values['split'] == run.split and metric in values['metrics']:
      yield values, path.with_suffix('.jsonl')


def _answers(task: str, file: epath.Path) -> Answers:
  ids, inputs, targets, predictions, correct, scores, written = [], [], [], [], [], [], []
  for line, row in _rows(file):
    right = row.get('correct')
    if not isinstance(right, bool):
      raise ConfigError(f'{file}, line {line}: expected true or false in "correct".')
    ids.append(_number(row))
    inputs.append(_text(row, 'input'))
    targets.append(sys.intern(_text(row, 'target')))
    predictions.append(sys.intern(_text(row, 'prediction')))
    correct.append(right)
    scores.append(row.get('score'))
    written.append(_text(row, 'rationale') or _text(row, 'output'))
  known = all(isinstance(score, float) and math.isfinite(score) for score in scores)
  return Answers(
    task,
    file,
    tuple(ids),
    tuple(inputs),
    tuple(targets),
    tuple(predictions),
    np.array(correct, bool),
    np.array(scores, np.float64) if known else None,
    tuple(written),
  )


def _rows(file: epath.Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
  """The records of a file, with the numbers of their lines."""
  for number, line in enumerate(json_form.read_text(file).split('\n'), start=1):
    if line:
      yield number, json_form.parse_object(line, f'{file}, line {number}')


def _number(row: Mapping[str, Any]) -> int:
  value = row.get('id')
  return value if isinstance(value, int) else -1


def _text(row: Mapping[str, Any], name: str) -> str:
  value = row.get(name)
  return _NO_CHARACTER.sub('\ufffd', value) if isinstance(value, str) else ''
