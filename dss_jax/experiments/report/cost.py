"""What accuracy costs: processor hours, labels, calls of the teacher, and with prices dollars.

Owns the price file and the sums. Hours are of training steps, times the processors that a
student had; starting, compiling and scoring are not in them.
"""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from dss_jax.experiments.report.series import Panel, Point
from dss_jax.settings import fields, json_form, topologies
from dss_jax.settings.errors import ConfigError

EXAMPLE = '{"processor_hour": 1.2, "label": 0.11, "teacher_call": 0.004, "training_examples": 9342}'


@dataclasses.dataclass(frozen=True)
class Prices:
  """A price file.

  Attributes:
    processor_hour: dollars for an hour of one core, GPU or TPU chip.
    label: dollars for a human's label of one example.
    teacher_call: dollars for one answer of the teacher, label and rationale.
    training_examples: of the whole training split, which labels and calls are counted by.
  """

  processor_hour: float = 0.0
  label: float = 0.0
  teacher_call: float = 0.0
  training_examples: int | None = None

  def __post_init__(self):
    fields.check(self)
    for name, value in vars(self).items():
      if value is not None and not 0 <= value < math.inf:
        raise ValueError(f'{name} is at least 0, not {value}.')
    if self.training_examples is None and (self.label or self.teacher_call):
      raise ValueError('training_examples is needed where label or teacher_call has a price.')


def read_prices(path: epath.PathLike) -> Prices:
  """Reads a price file.

  Raises:
    ConfigError: it is no JSON object of the fields of `Prices`.
  """
  values: Mapping[str, Any] = json_form.read_object(path)  # prices of slices are `dss plan`'s
  known = [field.name for field in dataclasses.fields(Prices)]
  values = {name: value for name, value in values.items() if name not in topologies.TOPOLOGIES}
  for name in values:
    if name not in known:
      near = difflib.get_close_matches(name, known, n=1)
      hint = f'; did you mean {near[0]}?' if near else ''
      raise ConfigError(f'{path}: there is no price {name!r:.80}{hint} Expected e.g. {EXAMPLE}.')
  found: Prices = json_form.from_dict(Prices, values, str(path))
  return found


class Cost(NamedTuple):
  """What one student of a point takes.

  Attributes:
    hours: of training steps.
    labels: of humans; None where the number of training examples is unknown.
    calls: of the teacher for training, likewise.
    dollars: of all these; None without prices.
  """

  hours: float
  labels: float | None
  calls: float | None
  dollars: float | None


def cost(point: Point, prices: Prices | None) -> Cost:
  """What one student of a point takes, on average over its seeds.

  A label of a human is needed for each training example unless labels are the teacher's; a call of
  the teacher where its labels or its rationales are learned: one call gives both.
  """
  run = point.runs[0]
  scores = [run.score for run in point.runs]
  hours = sum(score.seconds * score.processors for score in scores) / len(scores) / 3600
  if prices is None:
    return Cost(hours, None, None, None)
  dollars = hours * prices.processor_hour
  if prices.training_examples is None:
    return Cost(hours, None, None, dollars)
  examples = prices.training_examples * point.fraction
  labels = 0.0 if run.learns_teacher_labels else examples
  calls = examples if run.learns_rationales or run.learns_teacher_labels else 0.0
  dollars += labels * prices.label + calls * prices.teacher_call
  return Cost(hours, labels, calls, dollars)


def cost_to_reach(points: Sequence[Point], costs: Sequence[float], goal: float) -> float | None:
  """What the first of a method's points that reaches a goal costs.

  Args:
    points: from little data to all.
    costs: of each.
    goal: a mean accuracy.

  Returns:
    The cost, linear between the point before and the first that reaches the goal; None where none
    does. Where the first point reaches it, its cost, which is then an upper bound.
  """
  for place, point in enumerate(points):
    if point.mean < goal:
      continue
    if not place:
      return costs[0]
    share = (goal - points[place - 1].mean) / (point.mean - points[place - 1].mean)
    return costs[place - 1] + share * (costs[place] - costs[place - 1])
  return None


class Step(NamedTuple):
  """A change that buys accuracy.

  Attributes:
    what: 'labels', 'rationales' or 'a larger student'.
    before: the point without it.
    after: the point with it.
    points: percentage points of accuracy gained.
    cost: what it adds: hours, labels, calls, dollars.
  """

  what: str
  before: Point
  after: Point
  points: float
  cost: Cost

  def per_point(self, field: str) -> float | None:
    """What one point costs in hours, labels, calls or dollars; None without gain or prices."""
    value = getattr(self.cost, field)
    return None if value is None or self.points <= 0 else value / self.points


def steps(panel: Panel, baseline: str, prices: Prices | None) -> list[Step]:
  """More labels, rationales, a larger student: each single change between points of a panel."""
  return [
    Step(what, before, after, 100 * (after.mean - before.mean), _added(before, after, prices))
    for what, before, after in _changes(panel, baseline)
  ]


def _changes(panel: Panel, baseline: str) -> Iterator[tuple[str, Point, Point]]:
  names = [point.name for point in panel.points if point.runs[0].is_equal_labels]
  for name in dict.fromkeys(names):
    for size in panel.sizes:
      points = panel.along_fractions(name, size)
      yield from (('labels', *pair) for pair in itertools.pairwise(points))
  for point in panel.points:
    base = panel.at(baseline, point.fraction, point.parameters)
    learns_more = point.runs[0].learns_rationales and point.runs[0].is_equal_labels
    if base is not None and learns_more and not base.runs[0].learns_rationales:
      yield 'rationales', base, point
  for name in dict.fromkeys(names):
    for fraction in panel.fractions:
      points = panel.along_sizes(name, fraction)
      yield from (('a larger student', *pair) for pair in itertools.pairwise(points))


def _added(before: Point, after: Point, prices: Prices | None) -> Cost:
  pairs = zip(cost(before, prices), cost(after, prices), strict=True)
  return Cost(*(None if a is None or b is None else b - a for a, b in pairs))  # type: ignore[arg-type]


def goals(panel: Panel, baseline: str, most: int = 6) -> Mapping[str, float]:
  """Accuracies worth a price: full standard finetuning's, the teacher's, and round ones between."""
  found: dict[str, float] = {}
  full = panel.at(baseline, panel.fractions[-1], panel.sizes[-1])
  if full is not None:
    found[f'{baseline} with the most data'] = full.mean
  if panel.teacher is not None:
    found['the teacher'] = panel.teacher.score.accuracy
  means = [100 * point.mean for point in panel.points]
  width = next(w for w in (1, 2, 5, 10, 20, 50) if (max(means) - min(means)) / w <= most)
  first = math.ceil(min(means) / width) * width
  for percent in range(first, math.floor(max(means)) + 1, width):
    found[f'{percent} %'] = percent / 100
  return found


def dollars_or_hours(found: Cost) -> float:
  """What points are compared by: dollars where there are prices."""
  return found.hours if found.dollars is None else found.dollars


def amounts(found: Cost) -> tuple[Any, ...]:
  """Hours, labels, calls and dollars as the cells of a table."""
  return found.hours, found.labels, found.calls, found.dollars
