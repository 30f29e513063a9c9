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
  assert statistics.two_level_bootstrap(same, same, 500) == (0, 0, 0, 1.0, 0)


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


def test_the_detectable_gap_against_numbers_by_hand():
  # method.md: at 20 % discordant answers a paired gap has an error of 0.45 points on 9,824 items.
  error = statistics.least_error(9824, 1)
  assert error == pytest.approx(0.00451, abs=1e-5)
  assert statistics.detectable_gap(error, 1) == pytest.approx((1.95996 + 0.84162) * error, rel=1e-5)
  # Student's with 4 degrees of freedom, from a table: 2.776 at 0.975, 0.941 at 0.8, 3.747 at 0.99
  assert statistics.detectable_gap(1.0, 5) == pytest.approx(2.776 + 0.941, abs=1e-3)
  assert statistics.detectable_gap(1.0, 5, tests=2.5) == pytest.approx(3.747 + 0.941, abs=1e-3)


@pytest.mark.parametrize(('share', 'is_found'), [(1.0, True), (0.6, False)])
def test_a_detectable_gap_is_found_as_often_as_said_and_a_smaller_one_is_not(share, is_found):
  rng, seeds, items = np.random.default_rng(0), 5, 2000
  gap = share * statistics.detectable_gap(statistics.least_error(items, seeds, 0.2), seeds)
  found = []
  for _ in range(200):  # 0.2 of the answers are discordant, and the better student has more of them
    draws = rng.random((seeds, items))
    one, other = draws < 0.1 + gap / 2, (draws >= 0.8) & (draws < 0.9 - gap / 2)
    found.append(statistics.two_level_bootstrap(one, other, 200).p < 0.05)
  assert (np.mean(found) > statistics.POWER) == is_found
