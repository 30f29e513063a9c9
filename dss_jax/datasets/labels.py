"""When two labels are the same: by text, or by the value of an equation.

Owns the comparison of a pair, which preparing data, judging a teacher and scoring a student share.
Does not own: scores over many pairs (tasks/metrics.py), the arithmetic (equations.py).
"""

from collections.abc import Callable, Mapping

from dss_jax.datasets import equations


def text_correct(target: str, prediction: str) -> bool:
  """Whether a predicted label is the target, up to white space around it.

  Nothing else is normalised, as in the paper's released code: case and punctuation count.
  """
  return target.strip() == prediction.strip()


def equation_correct(target: str, prediction: str) -> bool:
  """Whether a predicted equation has the target's value; see `equations.same_value`."""
  return equations.same_value(target, prediction)


CORRECT: Mapping[str, Callable[[str, str], bool]] = {
  'text': text_correct,
  'equation': equation_correct,
}
"""Whether (target, prediction) agree, by the name of a data set's metric."""
