"""SeqIO tasks of a user's own, which `register_dataset` did not make: how they are scored.

Owns which of them judges a student, and scoring by its own postprocessor and metric functions, as
SeqIO's evaluator does. Does not own reading their tokens (data/examples.py) or decoding.
"""

import functools
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio

from dss_jax.parallel import distributed
from dss_jax.tasks import metrics, registration, vocabulary

PREFIX = 'task/'  # of the task's own metrics, whose scale is its own


class Scored(NamedTuple):
  """Outputs of a task, scored.

  Attributes:
    metrics: accuracy, the fraction of predictions that are equal to their targets, with the ends of
      its 95 % interval; and the numbers that the task's metric functions return, by their names
      after PREFIX.
    targets: after the task's postprocessor.
    predictions: likewise.
    correct: which are equal.
  """

  metrics: dict[str, float]
  targets: list[Any]
  predictions: list[Any]
  correct: list[bool]


def judge_of(name: str) -> str | None:
  """The task that judges a student of a task or mixture that `register_dataset` did not make.

  Of a mixture it is the first member with metric functions, or the first of all.

  Returns:
    Its name; None if `register_dataset` made the name or the first member of the mixture, or if
    there is no such name.
  """
  try:
    registration.dataset_of(name)
  except ValueError:
    if name not in registration.all_names():
      return None
    provider = seqio.get_mixture_or_task(name)
    members = provider.tasks if isinstance(provider, seqio.Mixture) else [provider]
    return next((one.name for one in members if one.predict_metric_fns), members[0].name)
  return None


def is_plain(task: str) -> bool:
  """Whether a task is somebody else's."""
  return judge_of(task) == task


def check_vocabulary(name: str) -> None:
  """Refuses a task or mixture of somebody else's with another vocabulary than the process's.

  Raises:
    ValueError: it has another one.
  """
  if judge_of(name) is None:
    return
  provider = seqio.get_mixture_or_task(name)
  for task in provider.tasks if isinstance(provider, seqio.Mixture) else [provider]:
    for feature in task.output_features.values():
      if feature.vocabulary != vocabulary.get_vocabulary():
        kind = type(feature.vocabulary).__name__
        model = getattr(feature.vocabulary, 'sentencepiece_model_file', '')
        raise ValueError(
          f'the task {task.name!r} has another vocabulary than VOCABULARY, a '
          f"{f'{kind} {model}'.rstrip()}: set VOCABULARY to the task's."
        )


def read(task: str, split: str, count: int | None) -> list[dict[str, Any]]:
  """The first rows of a task, or all, as its postprocessor takes them."""
  rows = seqio.TaskRegistry.get(task).get_dataset(
    None, split, shuffle=False, seed=0, trim_output_features=False, try_in_mem_cache=False
  )
  return list(rows.take(-1 if count is None else count).as_numpy_iterator())


def score(task: str, rows: Sequence[dict[str, Any]], outputs: Sequence[str]) -> Scored:
  """Scores the texts that a student wrote for the rows of a task.

  Args:
    task: its name.
    rows: from `read`.
    outputs: a text for each.
  """
  provider = seqio.TaskRegistry.get(task)
  targets, predictions = [], []
  for row, output in zip(rows, outputs, strict=True):
    target = provider.postprocess_fn(_target(provider, row), example=row, is_target=True)
    targets.append(target)
    predictions.append(provider.postprocess_fn(output, example=row, is_target=False))
  pairs = zip(targets, predictions, strict=True)
  correct = [is_equal(target, prediction) for target, prediction in pairs]
  _check_types(task, targets, predictions)
  low, high = metrics.wilson_interval(sum(correct), len(correct))
  scores: dict[str, float] = {
    'accuracy': sum(correct) / len(correct),
    'accuracy_low': low,
    'accuracy_high': high,
  }
  for function in provider.predict_metric_fns:
    for name, value in function(targets, predictions).items():
      value = getattr(value, 'value', value)  # of seqio.metrics.Scalar
      if isinstance(value, numbers.Real):
        scores[f'{PREFIX}{name}'] = float(value)
  return Scored(scores, targets, predictions, correct)


def is_equal(target: Any, prediction: Any) -> bool:
  """Whether a postprocessed prediction is its target; arrays are compared number by number."""
  if isinstance(target, np.ndarray) or isinstance(prediction, np.ndarray):
    return bool(np.array_equal(target, prediction))
  if isinstance(target, dict) and isinstance(prediction, dict):
    same_keys = target.keys() == prediction.keys()
    return same_keys and all(is_equal(target[key], prediction[key]) for key in target)
  if isinstance(target, list | tuple) and type(target) is type(prediction):
    same_length = len(target) == len(prediction)
    return same_length and all(map(is_equal, target, prediction))
  return bool(target == prediction)


def _check_types(task: str, targets: Sequence[Any], predictions: Sequence[Any]) -> None:
  """Says so where no prediction can be equal to its target, as with several right answers."""
  pairs = zip(targets, predictions, strict=True)
  different = [(target, prediction) for target, prediction in pairs
               if not _are_comparable(target, prediction)]  # fmt: skip
  if different and len(different) == len(targets):
    first, second = (type(one).__name__ for one in different[0])
    _say_once(
      f'the postprocessor of {task} makes a {first} of a target and a {second} of a prediction, so '
      'its accuracy is not defined: it is 0 throughout, and the best checkpoint is the first. The '
      f"numbers called {PREFIX}NAME are the task's own."
    )


def _are_comparable(target: Any, prediction: Any) -> bool:
  kinds = (numbers.Number, np.ndarray | np.generic | list | tuple)
  return (
    target is None
    or prediction is None
    or isinstance(prediction, type(target))
    or isinstance(target, type(prediction))
    or any(isinstance(target, kind) and isinstance(prediction, kind) for kind in kinds)
  )


@functools.cache  # every validation scores
def _say_once(text: str) -> None:
  distributed.log(text)


def _target(provider: seqio.Task, row: dict[str, Any]) -> str:
  """The text of a row's target."""
  text = row.get('targets_pretokenized')
  if isinstance(text, bytes):
    return text.decode()
  return provider.output_features['targets'].vocabulary.decode(row['targets'].tolist())
