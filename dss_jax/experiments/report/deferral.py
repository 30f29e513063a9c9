"""Asking the teacher when the student is unsure: accuracy against the share that is handed over.

Pure functions of arrays. The student's confidence is the mean log probability of its answer's
tokens, which every evaluation stores; the teacher's answers are the stored ones, so none is bought.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dss_jax.experiments import statistics
from dss_jax.experiments.report.folder import Run
from dss_jax.experiments.report.series import Panel, Point

STEPS = 50  # points of a curve


def accuracies(correct: np.ndarray, confidences: np.ndarray, teacher: np.ndarray) -> np.ndarray:
  """Accuracy when the k least confident answers are the teacher's, for k = 0 to n.

  Equally confident answers are handed over in the order of the questions.

  Args:
    correct: which answers of the student are right, bool [n].
    confidences: higher is surer, [n].
    teacher: which of the teacher's are right, bool [n].

  Returns:
    float64 [n + 1]: first the student's accuracy, last the teacher's.
  """
  order = np.argsort(confidences, kind='stable')
  gains = teacher[order].astype(np.int64) - correct[order]
  right = correct.sum() + np.concatenate([[0], np.cumsum(gains)])
  return right / len(correct)


def kept_share(curve: np.ndarray, goal: float) -> float:
  """The largest share that the student answers itself while accuracy is at least a goal.

  Args:
    curve: of `accuracies`.
    goal: the teacher's accuracy, say.

  Returns:
    A share in [0, 1]; 0 where only handing everything over reaches the goal.
  """
  enough = np.flatnonzero(curve >= goal - 1e-12)
  return 1 - enough[0] / (len(curve) - 1) if len(enough) else 0.0


class Deferral(NamedTuple):
  """A point's students with the teacher behind them, over seeds.

  Attributes:
    point: of the students.
    shares: handed to the teacher, [s], in [0, 1].
    mean: accuracy at each, [s].
    alone: the students' accuracy.
    teacher: the teacher's.
    best: the highest mean accuracy of the curve, and its share.
    kept: the largest share that students take over at the teacher's accuracy, mean over seeds.
    interval: 95 % of it over seeds; None for one seed.
    seeds: how many students have their confidences.
  """

  point: Point
  shares: np.ndarray
  mean: np.ndarray
  alone: float
  teacher: float
  best: tuple[float, float]
  kept: float
  interval: tuple[float, float] | None
  seeds: int


def deferral(point: Point, confidences: Mapping[str, np.ndarray], teacher: Run) -> Deferral | None:
  """The curve of a point; None where no run of it has confidences for the teacher's questions.

  Args:
    point: of the students.
    confidences: of runs, by label.
    teacher: whose answers stand in.
  """
  known = [
    run for run in point.runs if run.label in confidences and run.questions == teacher.questions
  ]
  if not known:
    return None
  items = len(teacher.correct)
  curves = [accuracies(run.correct, confidences[run.label], teacher.correct) for run in known]
  own = float(teacher.correct.mean())
  kept = [kept_share(curve, own) for curve in curves]
  places = np.unique(np.linspace(0, items, STEPS + 1).round().astype(int))
  mean = np.mean(curves, axis=0)
  best = int(np.argmax(mean))
  interval = None
  if len(kept) >= statistics.FEW_SEEDS:
    low, high = statistics.seed_interval(kept)
    interval = max(0.0, low), min(1.0, high)
  return Deferral(
    point,
    places / items,
    mean[places],
    float(mean[0]),
    own,
    (float(mean[best]), best / items),
    float(np.mean(kept)),
    interval,
    len(known),
  )


def of_panel(panel: Panel, confidences: Mapping[str, np.ndarray]) -> Sequence[Deferral]:
  """The curves of a panel at its largest fraction; none without the teacher's answers."""
  if panel.teacher is None:
    return []
  points = [point for point in panel.points if point.fraction == panel.fractions[-1]]
  found = (deferral(point, confidences, panel.teacher) for point in points)
  return [one for one in found if one is not None]
