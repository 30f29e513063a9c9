"""The runs of a sweep as points: a method at one data fraction and one student size, over seeds.

Owns the grouping, means and intervals, and the paired tests. The tests themselves are
experiments/statistics.py's. All accuracies are fractions; pages show percent.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dss_jax.experiments import results, statistics
from dss_jax.experiments.report import folder
from dss_jax.experiments.report.folder import Run
from dss_jax.settings.printable import one_line


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
  """Runs that differ in their seed alone.

  Attributes:
    panel: the other settings of the grid that they share, as text: one figure each.
    name: of the method, and how it was trained if that differs.
    fraction: of the training data.
    parameters: of the student; None if unknown.
    by_seed: the runs.
  """

  panel: str
  name: str
  fraction: float
  parameters: int | None
  by_seed: Mapping[Any, Run]

  @property
  def runs(self) -> tuple[Run, ...]:
    """All seeds."""
    return tuple(self.by_seed.values())

  @property
  def accuracies(self) -> list[float]:
    """One a seed."""
    return [run.score.accuracy for run in self.runs]

  @property
  def mean(self) -> float:
    """Accuracy, over seeds."""
    return float(np.mean(self.accuracies))

  @property
  def interval(self) -> tuple[float, float]:
    """95 % of the mean: over seeds by Student's t, or over the items of a single answer sheet."""
    if len({run.correct.tobytes() for run in self.runs}) >= statistics.FEW_SEEDS:
      low, high = statistics.seed_interval(self.accuracies)
      return max(0.0, low), min(1.0, high)
    return self.runs[0].score.accuracy_low, self.runs[0].score.accuracy_high

  def average(self, field: str) -> float:
    """The mean over seeds of a field of their scores."""
    return float(np.mean([getattr(run.score, field) for run in self.runs]))


class Panel(NamedTuple):
  """Points that one figure shows.

  Attributes:
    title: what they share; '' where the sweep has one panel.
    points: of students.
    teacher: a run of the teacher on the same questions, or None.
  """

  title: str
  points: tuple[Point, ...]
  teacher: Run | None

  @property
  def names(self) -> list[str]:
    """Of the methods, in the order of the sweep."""
    return list(dict.fromkeys(point.name for point in self.points))

  @property
  def fractions(self) -> list[float]:
    """Of the data, from small to large."""
    return sorted({point.fraction for point in self.points})

  @property
  def sizes(self) -> list[int | None]:
    """Parameters of the students, from small to large; unknown ones first."""
    return sorted({point.parameters for point in self.points}, key=lambda size: size or 0)

  def at(self, name: str, fraction: float, size: int | None) -> Point | None:
    """A point, if it is there."""
    place = (name, fraction, size)
    found = (p for p in self.points if (p.name, p.fraction, p.parameters) == place)
    return next(found, None)

  def along_fractions(self, name: str, size: int | None) -> list[Point]:
    """The points of a method at one size, from little data to all."""
    found = (self.at(name, fraction, size) for fraction in self.fractions)
    return [point for point in found if point is not None]

  def along_sizes(self, name: str, fraction: float) -> list[Point]:
    """The points of a method at one fraction, from the smallest known student on."""
    found = (self.at(name, fraction, size) for size in self.sizes if size is not None)
    return [point for point in found if point is not None]


def panels(runs: Sequence[Run]) -> list[Panel]:
  """Groups runs by all axes of the grid but seed, data fraction and student size."""
  hidden = {results.SEED, folder.FRACTION} | _size_axes(runs)
  titles: dict[str, list[Run]] = {}
  for run in runs:
    titles.setdefault(title_of(run.axes, hidden), []).append(run)
  found = []
  for title, members in titles.items():
    points = points_of(title, [run for run in members if not run.is_teacher])
    teachers = [run for run in members if run.is_teacher]
    if points:
      found.append(Panel(title, tuple(points), teachers[0] if teachers else None))
  return found


def points_of(title: str, students: Sequence[Run]) -> list[Point]:
  """The points of runs that share the values of the grid in their title."""
  groups: dict[tuple[Any, ...], dict[Any, Run]] = {}
  for run in students:
    place = run.name, run.fraction, run.parameters
    groups.setdefault(place, {})[_key(run.seed)] = run
  return [
    Point(title, name, fraction, parameters, by_seed)
    for (name, fraction, parameters), by_seed in groups.items()
  ]


def title_of(axes: Mapping[str, Any], hidden: set[str]) -> str:
  """Values of the grid as text, without those of hidden axes."""
  shown = (f'{name.lower()}={value}' for name, value in axes.items() if name not in hidden)
  return one_line(', '.join(shown))


def _key(seed: Any) -> Any:
  return seed if isinstance(seed, int | str) else str(seed)


def _size_axes(runs: Sequence[Run]) -> set[str]:
  """The axes of the grid that change the size of the student, whatever the others are."""
  students = [run for run in runs if not run.is_teacher and run.parameters is not None]
  names = {name for run in students for name in run.axes} - {results.SEED, folder.FRACTION}
  found = set()
  for name in names:
    sizes: dict[str, set[Any]] = {}
    for run in students:
      sizes.setdefault(str(run.axes.get(name)), set()).add(run.parameters)
    of_values = [frozenset(values) for values in sizes.values()]
    if len(of_values) > 1 and not any(a & b for a, b in itertools.combinations(of_values, 2)):
      found.add(name)
  return found


class Compared(NamedTuple):
  """A point against another at the same seeds and questions.

  Attributes:
    point: of the method.
    baseline: what it is compared to.
    seeds: that both have.
    accuracies: of the two, mean over these seeds.
    gap: of accuracies, with a two-level interval and p.
    holm: that p, corrected for all that are listed with it.
    mcnemar: the median over seeds of the exact p.
    flips: (only the method is right, only the baseline is), answers in all.
  """

  point: Point
  baseline: Point
  seeds: int
  accuracies: tuple[float, float]
  gap: statistics.Gap
  holm: float
  mcnemar: float
  flips: tuple[int, int]


def against(pairs: Sequence[tuple[Point, Point]]) -> list[Compared]:
  """Paired tests of points and their baselines; pairs that share no seed are left out.

  Args:
    pairs: (point, baseline). Holm's correction is over all of them.
  """
  found = [one for pair in pairs if (one := _compared(*pair)) is not None]
  corrected = statistics.holm([one.gap.p for one in found])
  return [one._replace(holm=p) for one, p in zip(found, corrected, strict=True)]


def _compared(point: Point, baseline: Point) -> Compared | None:
  shared = [
    seed
    for seed, run in point.by_seed.items()
    if seed in baseline.by_seed and run.questions == baseline.by_seed[seed].questions
  ]
  if not shared:
    return None
  sides = [np.array([one.by_seed[seed].correct for seed in shared]) for one in (point, baseline)]
  gap, p = statistics.paired(list(zip(*sides, strict=True)))
  flips = int((sides[0] & ~sides[1]).sum()), int((sides[1] & ~sides[0]).sum())
  means = float(sides[0].mean()), float(sides[1].mean())
  return Compared(point, baseline, len(shared), means, gap, gap.p, p, flips)


def equal_labels(panels: Sequence[Panel], baseline: str) -> list[Compared]:
  """Every method against the baseline at the same data and size, at equal labels a step."""
  return against(
    [
      (point, base)
      for panel in panels
      for point in panel.points
      if point.name != baseline and point.runs[0].is_equal_labels
      and (base := panel.at(baseline, point.fraction, point.parameters)) is not None
    ]
  )  # fmt: skip


def equal_compute(panels: Sequence[Panel], baseline: str) -> list[Compared]:
  """Every method against the baseline that was trained longer, with the costliest one's compute."""
  pairs = []
  for panel in panels:
    longer = [p for p in panel.points if not p.runs[0].is_equal_labels]
    longer = [p for p in longer if p.runs[0].method == baseline]
    for base in longer:
      same = (p for p in panel.points if p.fraction == base.fraction)
      same = (p for p in same if p.parameters == base.parameters and p.name != baseline)
      pairs += [(point, base) for point in same if point.runs[0].is_equal_labels]
  return against(pairs)
