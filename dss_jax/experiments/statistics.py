"""Tests and intervals for students that answered the same questions.

Pure functions of arrays that say which answer is right. `correct` is bool or 0/1, [seeds, items].
Two students of one seed, and all students of one item, are paired: an unpaired test of two
accuracies would be wrong. All accuracies and gaps are fractions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

DRAWS = 10_000
FEW_SEEDS = 2
"""From as many seeds on there is an interval over seeds."""
POWER = 0.8
DISCORDANCE = 0.2
"""Share of the answers in which exactly one of two students is right, where it is not known."""


class Gap(NamedTuple):
  """The difference of two mean accuracies.

  Attributes:
    mean: over seeds and items.
    low: end of its 95 % interval.
    high: likewise.
    p: two-sided, of no difference; at least 1 / DRAWS.
    error: standard error of the mean.
  """

  mean: float
  low: float
  high: float
  p: float
  error: float


def seed_interval(accuracies: Sequence[float]) -> tuple[float, float]:
  """The 95 % interval of a mean over at least two seeds, by Student's t."""
  half = scipy.stats.sem(accuracies) * scipy.stats.t.ppf(0.975, len(accuracies) - 1)
  return float(np.mean(accuracies) - half), float(np.mean(accuracies) + half)


def two_level_bootstrap(correct: np.ndarray, baseline: np.ndarray, draws: int = DRAWS) -> Gap:
  """The mean gap to a baseline, with an interval and a p value that are of seeds and of test items.

  Each draw takes seeds and items with replacement; a seed's two students and an item's answers stay
  together. With one seed the interval is that of the draws, of the items alone. With n seeds, a
  draw's spread is too small by the factor sqrt((n - 1) / n), and is itself known from n values
  only: it is widened by that factor, and interval and p are Student's with n - 1 degrees.

  Source: Davison and Hinkley 1997, section 3.8, for the draws of two levels.
  """
  gaps = correct.astype(np.float64) - baseline
  seeds, items = gaps.shape
  rng = np.random.default_rng(0)
  # Items with the same gaps at all seeds are alike: only their numbers have to be drawn.
  patterns, counts = np.unique(gaps.T, axis=0, return_counts=True)
  of_items = rng.multinomial(items, counts / items, draws)
  of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws)
  drawn = np.sum((of_items @ patterns) * of_seeds, axis=1) / (items * seeds)
  mean, least = float(gaps.mean()), 1 / draws
  if seeds == 1:
    error = float(drawn.std())
    low, high = np.quantile(drawn, [0.025, 0.975])
    p = 2 * min(float(np.mean(drawn <= 0)), float(np.mean(drawn >= 0)))
  else:
    error = float(drawn.std()) * np.sqrt(seeds / (seeds - 1))
    half = error * scipy.stats.t.ppf(0.975, seeds - 1)
    low, high = mean - half, mean + half
    p = 2 * float(scipy.stats.t.sf(abs(mean) / error, seeds - 1)) if error else float(not mean)
  return Gap(mean, float(low), float(high), min(1.0, max(p, least)), float(error))


def mcnemar(correct: np.ndarray, baseline: np.ndarray) -> float:
  """Exact p of one student [items] against another: two-sided binomial of the discordant items.

  Source: McNemar 1947.
  """
  better = int(np.sum(correct > baseline))
  worse = int(np.sum(correct < baseline))
  if not better + worse:
    return 1.0
  return float(scipy.stats.binomtest(better, better + worse, 0.5).pvalue)


def paired(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Gap, float]:
  """The gap of two methods, and the median over seeds of McNemar's exact p.

  Args:
    pairs: for each seed which answers of the method and of its baseline are right, [items] both.
  """
  correct, baseline = (np.array(side) for side in zip(*pairs, strict=True))
  p = float(np.median([mcnemar(*pair) for pair in pairs]))
  return two_level_bootstrap(correct, baseline), p


def holm(p_values: Sequence[float]) -> list[float]:
  """The p values of one table, corrected for their number.

  Source: Holm 1979, the step-down form.
  """
  adjusted, largest = [0.0] * len(p_values), 0.0
  for rank, place in enumerate(np.argsort(p_values, kind='stable')):
    largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
    adjusted[place] = largest
  return adjusted


def least_error(items: int, seeds: int, discordance: float = DISCORDANCE) -> float:
  """The error that `two_level_bootstrap` finds at least, where seeds differ by chance alone.

  Of one seed it is sqrt(discordance / items). With n seeds, draws of two levels see the chance of
  an answer three times, which makes the interval a careful one: its variance is
  discordance / items / n, times (3 n - 2) / (n - 1) with the widening.

  Source: McNemar 1947, the variance of a difference of paired proportions, its own square left out;
  Owen 2007, The pigeonhole bootstrap, theorem 3, for the draws.

  Args:
    items: test examples.
    seeds: students of each method.
    discordance: the share of the answers in which exactly one of two students is right.
  """
  levels = (3 * seeds - 2) / (seeds - 1) if seeds > 1 else 1
  return float(np.sqrt(levels * discordance / (items * seeds)))


def detectable_gap(error: float, seeds: int, tests: int = 1) -> float:
  """The smallest gap that is found with a probability of POWER, by a two-sided test at 5 %.

  Args:
    error: standard error of the mean gap.
    seeds: students of each method; with more than one, quantiles are Student's with one degree of
      freedom less, as in `two_level_bootstrap`.
    tests: gaps of a table, of which this one is to pass Holm's first and hardest step.
  """
  law = scipy.stats.t(seeds - 1) if seeds > 1 else scipy.stats.norm
  return float((law.ppf(1 - 0.025 / tests) + law.ppf(POWER)) * error)
