"""Nested samples of a data set: the 12.5 % lie within the 25 %, each with the classes of the whole.

Owns which examples a fraction keeps. Does not own reading their labels (tasks/registration.py).
"""

import collections
from collections.abc import Hashable, Sequence

import numpy as np

from dss_jax.data.examples import TaskExamples

_STREAM = 0x5B5E7  # sets these draws apart from other uses of the same seed


def chosen(labels: Sequence[Hashable], fraction: float, seed: int) -> np.ndarray:
  """Which examples belong to a sample, bool [n]; a smaller sample lies within a larger one.

  Each class is put in a random order, and all examples are ordered by their place in their class,
  as a share of the class. A sample is the beginning of that order, so it has as many examples of
  each class as its share of the whole gives, up to one. Labels that occur once are drawn at random.

  Args:
    labels: of all n examples, in the order of the data set.
    fraction: in (0, 1].
    seed: another seed gives another sample.
  """
  rng = np.random.default_rng([_STREAM, seed])
  members = collections.defaultdict(list)
  for number, label in enumerate(labels):
    members[label].append(number)
  places = np.empty(len(labels))
  for numbers in members.values():
    places[rng.permutation(numbers)] = (np.arange(len(numbers)) + rng.random()) / len(numbers)
  kept = np.zeros(len(labels), bool)
  kept[np.argsort(places, kind='stable')[: max(1, round(fraction * len(labels)))]] = True
  return kept


def take(task: TaskExamples, kept: np.ndarray) -> TaskExamples:
  """The rows of a task that are made of the kept source examples.

  Args:
    task: whose `example_ids` number the source examples.
    kept: bool [source examples].

  Raises:
    ValueError: no row is left.
  """
  rows = np.flatnonzero(kept[task.examples.example_ids])
  if not len(rows):
    raise ValueError(
      f'none of the {len(task.examples)} examples of {task.name} is in the sample of '
      f'{int(kept.sum())}: raise TRAIN_FRACTION.'
    )
  return task._replace(examples=task.examples.take(rows))
