"""Where a method reaches a goal: the data fraction at which it matches full standard finetuning.

Pure functions of arrays. The definition is ours: the paper reads such fractions off its figures
("12.5 % of the data") and gives neither a definition nor an interval.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from dss_jax.experiments.report.series import Panel, Point

DRAWS = 2_000
_CHUNK = 250  # draws of items at once, which bounds memory: 20 MB for 10,000 items


class Crossing(NamedTuple):
  """The fraction at which accuracy first reaches a goal.

  Attributes:
    fraction: -inf where the smallest fraction already reaches it, inf where none does.
    low: end of its 95 % interval, likewise.
    high: likewise.
  """

  fraction: float
  low: float
  high: float


def first_reached(fractions: Sequence[float], accuracies: np.ndarray, goal: np.ndarray):
  """Where accuracies, linear between fractions, first reach a goal.

  Args:
    fractions: rising, [f].
    accuracies: [draws, f].
    goal: [draws].

  Returns:
    Fractions, [draws]; -inf where the first accuracy is at least the goal, inf where none is.
  """
  reached = accuracies >= goal[:, None]
  place = np.argmax(reached, axis=1)
  rows = np.arange(len(goal))
  before = np.maximum(place - 1, 0)
  low, high = accuracies[rows, before], accuracies[rows, place]
  x = np.asarray(fractions, np.float64)
  rise = np.where(high > low, high - low, 1.0)
  found = x[before] + (x[place] - x[before]) * (goal - low) / rise
  found = np.where(place == 0, -math.inf, found)
  return np.where(reached.any(axis=1), found, math.inf)


def matching_fraction(
  fractions: Sequence[float], correct: np.ndarray, full: np.ndarray, draws: int = DRAWS
) -> Crossing:
  """The fraction at which a method first matches a baseline that has all data.

  Both mean accuracies are over seeds and items. Between the fractions of the sweep, accuracy is
  taken to be linear. The interval is of a bootstrap that draws seeds and items with replacement; a
  seed's students at all fractions stay together, and so do an item's answers. The ends are the 2.5
  and 97.5 % quantiles. With n > 1 seeds each drawn accuracy is moved from the mean, by
  sqrt(n / (n - 1)) and by the ratio of the quantiles of Student with n - 1 degrees to the normal's,
  as in `statistics.two_level_bootstrap`.

  Args:
    fractions: rising, [f].
    correct: which answers of the method are right, bool [seeds, f, items].
    full: of the baseline with all data, bool [seeds, items].
    draws: of the bootstrap.

  Source: ours; see the head of this file.
  """
  seeds, _, items = correct.shape
  answers = np.concatenate([correct, full[:, None]], axis=1).astype(np.float64)
  mean = answers.mean(axis=(0, 2))
  rng = np.random.default_rng(0)
  of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
  drawn = []
  for start in range(0, draws, _CHUNK):
    weights = of_seeds[start : start + _CHUNK]
    of_items = rng.multinomial(items, np.full(items, 1 / items), len(weights)) / items
    per_seed = (of_items @ answers.reshape(-1, items).T).reshape(len(weights), seeds, -1)
    drawn.append(np.einsum('ds,dsf->df', weights, per_seed))
  spread = 1.0
  if seeds > 1:
    ratio = scipy.stats.t.ppf(0.975, seeds - 1) / scipy.stats.norm.ppf(0.975)
    spread = math.sqrt(seeds / (seeds - 1)) * ratio
  moved = mean + (np.concatenate(drawn) - mean) * spread
  found = first_reached(fractions, moved[:, :-1], moved[:, -1])
  low, high = np.quantile(found, [0.025, 0.975], method='closest_observation')
  own = first_reached(fractions, mean[None, :-1], mean[-1:])
  return Crossing(float(own[0]), float(low), float(high))


class Match(NamedTuple):
  """A method that is compared with the baseline that has all data of the sweep."""

  panel: str
  name: str
  parameters: int | None
  seeds: int
  goal: float
  smallest: float
  largest: float
  crossing: Crossing


def matches(panel: Panel, baseline: str) -> list[Match]:
  """Where each method first matches the baseline at the largest fraction of the sweep.

  Seeds count that have every fraction of the method and the baseline; methods with one fraction are
  left out.
  """
  found = []
  for size in panel.sizes:
    base = panel.along_fractions(baseline, size)
    if not base or base[-1].fraction != panel.fractions[-1]:
      continue
    for name in panel.names:
      points = panel.along_fractions(name, size)
      shared = _shared_seeds([*points, base[-1]])
      if len(points) < 2 or not shared:
        continue
      correct = np.array([[p.by_seed[seed].correct for p in points] for seed in shared])
      full = np.array([base[-1].by_seed[seed].correct for seed in shared])
      fractions = [point.fraction for point in points]
      crossing = matching_fraction(fractions, correct, full)
      ends = fractions[0], fractions[-1]
      found.append(Match(panel.title, name, size, len(shared), float(full.mean()), *ends, crossing))
  return found


def _shared_seeds(points: Sequence[Point]) -> list:
  """Seeds that all points have, with the same questions."""
  first = points[0].by_seed
  return [
    seed
    for seed, run in first.items()
    if all(
      seed in point.by_seed and point.by_seed[seed].questions == run.questions for point in points
    )
  ]


class Least(NamedTuple):
  """The smallest student, and for it the least data, with which a method reaches the teacher.

  Attributes:
    name: of the method.
    parameters: of the student, or None where the teacher is not reached.
    fraction: of the data, likewise.
    accuracy: the mean over seeds there, likewise; the best of all where it is not reached.
  """

  name: str
  parameters: int | None
  fraction: float | None
  accuracy: float


def least_resources(panel: Panel, goal: float) -> list[Least]:
  """What each method needs at least for a goal, among what the sweep trained.

  Source: Hsieh et al. 2023, section 4.3, "minimum model size and training examples".
  """
  found = []
  for name in panel.names:
    points = [point for point in panel.points if point.name == name]
    enough = [point for point in points if point.mean >= goal]
    if enough:
      least = min(enough, key=lambda point: (point.parameters or 0, point.fraction))
      found.append(Least(name, least.parameters, least.fraction, least.mean))
    else:
      found.append(Least(name, None, None, max(point.mean for point in points)))
  return found
