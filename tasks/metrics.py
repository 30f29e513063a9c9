"""How predictions are scored: labels by text or by value, rationales by ROUGE-L.

Owns: the metrics in SeqIO's form `(targets, predictions) -> dict`, and the interval of a
proportion. Does not own: making predictions, whether two labels agree (datasets/labels.py), nor the
arithmetic (datasets/equations.py).
All metrics are fractions in [0, 1].
"""

import math
from collections.abc import Callable, Mapping, Sequence

from dss_jax.datasets import equations, labels
from dss_jax.datasets.labels import equation_correct, text_correct


def text_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns `accuracy`, the fraction of `text_correct` predictions.

  Raises:
    ValueError: the two lists differ in length, or are empty.
  """
  return {'accuracy': _mean(map(text_correct, *_paired(targets, predictions)))}


def equation_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns `accuracy`, the fraction with the right value, and `parse_rate`, that with any.

  Raises:
    ValueError: the two lists differ in length, or are empty.
  """
  targets, predictions = _paired(targets, predictions)
  return {
    'accuracy': _mean(map(equation_correct, targets, predictions)),
    'parse_rate': _mean(equations.evaluate(prediction) is not None for prediction in predictions),
  }


def rouge_l(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns `rouge_l`, the mean ROUGE-L F1 of rationales against the teacher's, without stemming.

  Source: Lin 2004, through the rouge_score library.

  Raises:
    ValueError: the two lists differ in length, or are empty.
  """
  from rouge_score import rouge_scorer  # imports nltk, which is slow and rarely needed

  scorer = rouge_scorer.RougeScorer(['rougeL'])
  scores = map(scorer.score, *_paired(targets, predictions))
  return {'rouge_l': _mean(score['rougeL'].fmeasure for score in scores)}


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
  """Returns the Wilson score interval of a proportion, by default the 95 % one.

      (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n),  p = correct / total, n = total

  Source: Wilson 1927. Unlike p ± z √(p(1-p)/n) it stays within [0, 1] and is right near them.

  Raises:
    ValueError: total is not positive, or correct is not in [0, total].
  """
  if total <= 0 or not 0 <= correct <= total:
    raise ValueError(f'Expected 0 <= correct <= total and total > 0; got {correct} of {total}.')
  p, n = correct / total, total
  center = p + z * z / (2 * n)
  half_width = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  scale = 1 + z * z / n
  return max(0.0, (center - half_width) / scale), min(1.0, (center + half_width) / scale)


LABEL_METRICS: Mapping[str, Callable[[Sequence[str], Sequence[str]], dict[str, float]]] = {
  'text': text_accuracy,
  'equation': equation_accuracy,
}
LABEL_CORRECT = labels.CORRECT


def _paired(
  targets: Sequence[str], predictions: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
  """Refuses lists that cannot be scored against each other."""
  if len(targets) != len(predictions) or not len(targets):
    raise ValueError(
      'Expected as many predictions as targets, at least one; '
      f'got {len(predictions)} predictions and {len(targets)} targets.'
    )
  return targets, predictions


def _mean(values) -> float:
  values = list(values)
  return sum(values) / len(values)
