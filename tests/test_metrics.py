"""Scores of labels and rationales against values worked out by hand."""

import pytest

from dss_jax.tasks import metrics


def test_text_labels_must_match_up_to_white_space_around_them():
  targets = ['neutral', 'neutral', 'neutral', 'math problem']
  predictions = [' neutral\n', 'Neutral', 'neutral.', 'math problem']
  assert metrics.text_accuracy(targets, predictions) == {'accuracy': 0.5}


def test_equations_count_by_value_and_unreadable_ones_are_wrong():
  targets = ['( 84.0 / 2.0 )'] * 5
  predictions = ['( 84.0 / 2.0 )', '42', '( 84 - 2 )', '( 84 / 0 )', 'nonsense']
  scores = metrics.equation_accuracy(targets, predictions)
  assert scores == {'accuracy': pytest.approx(0.4), 'parse_rate': pytest.approx(0.6)}


def test_rouge_l_is_the_mean_f1_of_the_longest_common_subsequence():
  targets = ['the cat sat down', 'a b c']
  # Four of five words are common in order: precision 4/5, recall 4/4, F1 8/9.
  predictions = ['the cat sat right down', 'x y z']
  assert metrics.rouge_l(targets, predictions)['rouge_l'] == pytest.approx((8 / 9 + 0) / 2)


@pytest.mark.parametrize(
  'metric', [metrics.text_accuracy, metrics.equation_accuracy, metrics.rouge_l]
)
@pytest.mark.parametrize(('targets', 'predictions'), [([], []), (['1'], []), (['1'], ['1', '2'])])
def test_lists_that_do_not_belong_together_are_refused(metric, targets, predictions):
  with pytest.raises(ValueError, match='as many predictions as targets'):
    metric(targets, predictions)


@pytest.mark.parametrize(
  ('correct', 'total', 'low', 'high'),
  [
    (50, 100, 0.403830, 0.596170),
    (0, 10, 0.0, 0.277533),
    (10, 10, 0.722467, 1.0),
  ],
)
def test_wilson_interval_has_the_values_of_its_formula(correct, total, low, high):
  assert metrics.wilson_interval(correct, total) == pytest.approx((low, high), abs=2e-6)


def test_wilson_interval_agrees_with_scipy():
  stats = pytest.importorskip('scipy.stats')
  for correct, total in [(3, 7), (0, 1), (199, 200), (600, 1221)]:
    expected = stats.binomtest(correct, total).proportion_ci(method='wilson')
    assert metrics.wilson_interval(correct, total) == pytest.approx(tuple(expected), abs=1e-6)


@pytest.mark.parametrize(('correct', 'total'), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_have_no_interval(correct, total):
  with pytest.raises(ValueError, match='correct <= total'):
    metrics.wilson_interval(correct, total)
