"""Paired statistics, against hand-computed values and known coverage."""

import numpy as np
import pytest

from dss_jax.experiments import statistics


def test_the_gap_is_the_mean_of_paired_differences():
  better = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
  worse = np.array([[1, 0, 0, 0], [1, 1, 0, 1]])
  assert statistics.two_level_bootstrap(better, worse, 500).mean == pytest.approx(1 / 8)


def test_students_that_answer_alike_have_no_gap():
  same = np.array([[1, 0, 1]])
  assert statistics.two_level_bootstrap(same, same, 500) == (0, 0, 0, 1.0)


def test_the_interval_of_one_seed_is_that_of_a_paired_mean():
  rng = np.random.default_rng(1)
  one, other = rng.random((2, 1, 2000)) < [[[0.6]], [[0.5]]]
  gap = statistics.two_level_bootstrap(one, other)
  differences = one.astype(float) - other
  half = 1.96 * differences.std() / np.sqrt(2000)
  assert gap.high - gap.low == pytest.approx(2 * half, rel=0.05)
  assert gap.p < 0.001


def test_seeds_that_disagree_widen_the_interval():
  items = np.zeros((4, 4000))
  wide = items.copy()
  wide[:2, :400], wide[2:, 400:600] = 1, -1  # gaps of +10 and -5 points by seed
  gap = statistics.two_level_bootstrap(wide, items)
  assert gap.mean == pytest.approx(0.025)
  assert gap.low < -0.02 and gap.high > 0.07
  assert gap.p > 0.1


@pytest.mark.parametrize('seeds', [2, 3, 5])
def test_students_that_differ_by_their_seeds_alone_are_rarely_told_apart(seeds):
  """Two points of spread over seeds, and no difference of the methods: p < 0.05 in 5 % or less."""
  rng, rejected = np.random.default_rng(0), 0
  for _ in range(200):
    rates = 0.5 + 0.02 * rng.normal(size=(2, seeds, 1))
    one, other = rng.random((2, seeds, 4000)) < rates
    rejected += statistics.two_level_bootstrap(one, other, 300).p < 0.05
  assert rejected / 200 < 0.05 + 2.6 * (0.05 * 0.95 / 200) ** 0.5


def test_mcnemar_by_hand():
  correct = np.array([1] * 9 + [0] * 1 + [1] * 50)
  baseline = np.array([0] * 9 + [1] * 1 + [1] * 50)
  assert statistics.mcnemar(correct, baseline) == pytest.approx(2 * 11 / 2**10)
  assert statistics.mcnemar(correct, correct) == 1.0


def test_holm_by_hand():
  assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
  assert statistics.holm([0.6, 0.9]) == [1.0, 1.0]
  assert statistics.holm([]) == []


def test_the_interval_over_seeds_is_students():
  low, high = statistics.seed_interval([0.5, 0.6, 0.7])
  assert (low, high) == pytest.approx((0.6 - 0.2484, 0.6 + 0.2484), abs=1e-3)
