"""The sections of a report on accuracy: by data, by size, least resources, paired tests.

Owns what each figure and table shows and what is said of it. Numbers are series.py's and
matching.py's.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from dss_jax.experiments.report import matching, series
from dss_jax.experiments.report.document import Column, Figure, P, Section, Table
from dss_jax.experiments.report.figures import Axes, Level, Series, figure, intervals
from dss_jax.experiments.report.series import Compared, Panel, Point

ACCURACY = 'accuracy, %'
DATA = 'training data, %'
PARAMETERS = 'parameters'
MOST_SENTENCES = 20
_PLACE = (Column('method'), Column('setting'), Column(DATA, 'g'), Column(PARAMETERS, ','))
_TESTS = (
  *_PLACE, Column('against'), Column('seeds', 'd'), Column('gap, points', '+.2f'),
  Column('95 % from', '+.2f'), Column('95 % to', '+.2f'), Column('p', P),
  Column('p (Holm)', P), Column('McNemar p', P), Column('only it right', ','),
  Column('only the other right', ','), Column('compute', '.2f'), Column('its compute', '.2f'),
)  # fmt: skip
ABOUT_TESTS = (
  'Gaps are paired by seed and test item. Interval and p: a bootstrap that draws seeds and items, '
  "with Student's t; p (Holm) is corrected for all rows of the table. McNemar: the exact test of "
  'each seed, the median. The columns of answers that only one of the two has right count all '
  'seeds.'
)


def percent(fraction: float) -> float:
  """A fraction in percent, without the noise of the division."""
  return round(100 * fraction, 6)


def titled(title: str, panel: Panel, *more: str) -> str:
  """A caption with what is special to its panel."""
  parts = [part for part in (panel.title, *more) if part]
  return f'{title} ({", ".join(parts)})' if parts else title


def size_text(size: int | None) -> str:
  """A number of parameters for people: 1.2 M."""
  if size is None:
    return 'size unknown'
  for unit, name in ((10**9, 'B'), (10**6, 'M'), (10**3, 'k')):
    if size >= unit:
      return f'{size / unit:.3g} {name}'
  return str(size)


def of_size(size: int | None) -> str:
  """What a caption says of a student's size."""
  return size_text(size) if size is None else f'{size_text(size)} parameters'


def teacher_levels(panel: Panel) -> list[Level]:
  """The teacher's line, with the parser that read its answers."""
  if panel.teacher is None:
    return []
  return [Level(f'teacher: {panel.teacher.score.name}', percent(panel.teacher.score.accuracy))]


def _line(panel: Panel, points: Sequence[Point], x: Sequence[float]) -> Series:
  ends = [point.interval for point in points]
  name = points[0].name
  return Series(
    name,
    x,
    [percent(point.mean) for point in points],
    [percent(low) for low, _ in ends],
    [percent(high) for _, high in ends],
    is_dashed=not points[0].runs[0].is_equal_labels,
    place=panel.names.index(name),
  )


def by_data(panels: Sequence[Panel]) -> Section:
  """Accuracy against the share of the training data."""
  found: list[Figure] = []
  for panel in panels:
    for size in panel.sizes:
      lines = [(name, panel.along_fractions(name, size)) for name in panel.names]
      lines = [(name, points) for name, points in lines if points]
      shown = [_line(panel, p, [percent(point.fraction) for point in p]) for _, p in lines]
      more = of_size(size) if len(panel.sizes) > 1 else ''
      stars = [
        Series(
          f'paper: {name}',
          [percent(p.fraction)],
          [p.runs[0].score.published],
          place=panel.names.index(name),
        )
        for name, points in lines
        for p in points
        if p.runs[0].score.published is not None
      ]
      ticks = [(percent(fraction), f'{percent(fraction):g}') for fraction in panel.fractions]
      number = len(found) + 1
      found.append(
        figure(
          f'accuracy_by_data_{number}',
          titled('Accuracy against training data', panel, more),
          Axes(DATA, ACCURACY, ticks=ticks if len(ticks) < 8 else ()),
          shown,
          teacher_levels(panel),
          stars,
        )
      )
  text = (
    "Mean over seeds; the bars are 95 % intervals, over seeds by Student's t, or of the test items "
    'where there is one seed. Solid lines see equally many labels a step; a dashed line was '
    'trained for longer.',
  )
  return Section('by-data', 'Accuracy against data', text, tuple(found), (points_table(panels),))


def points_table(panels: Sequence[Panel]) -> Table:
  """Every point of the sweep, with the paper's number beside it where there is one."""
  columns = (
    *_PLACE, Column('seeds', 'd'), Column(ACCURACY, '.2f'), Column('95 % from', '.2f'),
    Column('95 % to', '.2f'), Column('labels a step', '.1f'), Column('steps', ',.0f'),
    Column('compute', '.2f'), Column('seconds of steps', ',.0f'), Column('paper, %', '.2f'),
    Column("paper's error", '.2f'), Column('ours minus paper', '+.2f'),
  )  # fmt: skip
  rows: list[tuple[Any, ...]] = []
  for panel in panels:
    for point in panel.points:
      rows.append(_accuracy_row(point))
    if panel.teacher is not None:
      score = panel.teacher.score
      ends = percent(score.accuracy_low), percent(score.accuracy_high)
      unknown = (None,) * 7
      rows.append(
        (score.name, panel.title, None, None, 1, percent(score.accuracy), *ends, *unknown)
      )
  note = (
    "Compute is a multiple of the baseline's at the same data. The paper's numbers are shown "
    'where a run is one of its rows: T5 Base from the released weights, all data, the test split.'
  )
  return Table('accuracy', 'Accuracy of every method', columns, rows, note)


def _accuracy_row(point: Point) -> tuple[Any, ...]:
  published = point.runs[0].score.published
  return (
    *_place(point), len(point.runs), percent(point.mean), *map(percent, point.interval),
    point.average('labels_per_step'), point.average('steps'), point.average('compute'),
    point.average('seconds'), published, point.runs[0].score.published_error,
    None if published is None else percent(point.mean) - published,
  )  # fmt: skip


def _place(point: Point) -> tuple[Any, ...]:
  return point.name, point.panel, percent(point.fraction), point.parameters


def by_size(panels: Sequence[Panel]) -> Section:
  """Accuracy against the parameters of the student."""
  found: list[Figure] = []
  for panel in panels:
    sizes = [size for size in panel.sizes if size is not None]
    if len(sizes) < 2:
      continue
    for fraction in panel.fractions:
      lines = [(name, panel.along_sizes(name, fraction)) for name in panel.names]
      shown = [_line(panel, p, [point.parameters or 0 for point in p]) for _, p in lines if p]
      more = f'{percent(fraction):g} % of the data' if len(panel.fractions) > 1 else ''
      found.append(
        figure(
          f'accuracy_by_size_{len(found) + 1}',
          titled('Accuracy against student size', panel, more),
          Axes(PARAMETERS, ACCURACY, True, [(size, size_text(size)) for size in sizes]),
          shown,
          teacher_levels(panel),
        )
      )
  text = "Parameters are counted from each run's settings, embeddings included."
  if not found:
    text = (
      'All students have one size, or it is not known. A grid over sizes, such as '
      "GRID = {'GIN_FILE': ('models/t5_1_1/tiny.gin', 'models/t5_1_1/small.gin')}, fills this in."
    )
  return Section('by-size', 'Accuracy against student size', (text,), tuple(found))


def least_resources(panels: Sequence[Panel]) -> Section:
  """The smallest student and the least data with which each method reaches the teacher."""
  found: list[Figure] = []
  rows: list[tuple[Any, ...]] = []
  for panel in panels:
    if panel.teacher is None:
      continue
    goal = panel.teacher.score.accuracy
    least = matching.least_resources(panel, goal)
    for one in least:
      data = None if one.fraction is None else percent(one.fraction)
      best = percent(one.accuracy)
      is_reached = 'no' if one.fraction is None else 'yes'
      row = (one.name, panel.title, is_reached, one.parameters, data, best, percent(goal))
      rows.append(row)
    marks = list(_least_by_size(panel, goal))
    if marks and len(panel.sizes) > 1:
      sizes = [(size, size_text(size)) for size in panel.sizes if size is not None]
      title = titled('Least data that reach the teacher', panel)
      axes = Axes(PARAMETERS, DATA, True, sizes)
      found.append(figure(f'least_resources_{len(found) + 1}', title, axes, marks))
  columns = (
    Column('method'), Column('setting'), Column('reaches the teacher'), Column(PARAMETERS, ','),
    Column(DATA, 'g'), Column(ACCURACY, '.2f'), Column('teacher, %', '.2f'),
  )  # fmt: skip
  if not rows:
    text = (
      'The teacher was not scored: few_shot_cot in METHODS of the sweep adds it, without training.'
    )
    return Section('least', 'Minimum resources', (text,))
  note = 'Accuracy: there, or the best of the method where it does not reach the teacher.'
  text = (
    'The smallest student of the sweep, and for it the least data, whose mean accuracy is at least '
    "the teacher's."
  )
  table = Table('least_resources', 'What reaches the teacher', columns, rows, note)
  return Section('least', 'Minimum resources', (text,), tuple(found), (table,))


def _least_by_size(panel: Panel, goal: float) -> Iterator[Series]:
  """For each method the least data with which each size of student reaches a goal."""
  for place, name in enumerate(panel.names):
    least: dict[int, float] = {}
    is_dashed = any(not p.runs[0].is_equal_labels for p in panel.points if p.name == name)
    for size in panel.sizes:
      enough = [p.fraction for p in panel.along_fractions(name, size) if p.mean >= goal]
      if size is not None and enough:
        least[size] = percent(min(enough))
    if least:
      yield Series(name, list(least), list(least.values()), is_dashed=is_dashed, place=place)


def in_short(panels: Sequence[Panel], compared: Sequence[Compared]) -> Section:
  """What the paired tests say at the most data and the largest student, in sentences."""
  text = [_sentence(one) for panel in panels for one in _at_most(panel, compared)]
  text = text or ['Nothing can be compared: no method shares a seed with the baseline.']
  return Section('short', 'In short', tuple(text[:MOST_SENTENCES]))


def _at_most(panel: Panel, compared: Sequence[Compared]) -> list[Compared]:
  """The gaps of a panel at its most data and its largest student."""
  end = panel.title, panel.fractions[-1], panel.sizes[-1]
  return [c for c in compared if (c.point.panel, c.point.fraction, c.point.parameters) == end]


def _sentence(one: Compared) -> str:
  gap, where = one.gap, f' ({one.point.panel})' if one.point.panel else ''
  seeds = f'{one.seeds} seed{"s" if one.seeds > 1 else ""}'
  return (
    f'{one.point.name} against {one.baseline.name}{where}, {percent(one.point.fraction):g} % of '
    f'the data, {seeds}: {100 * gap.mean:+.2f} points (95 % {100 * gap.low:+.2f} to '
    f'{100 * gap.high:+.2f}; p {Column("", P).shown(one.holm)} after Holm), '
    f'{100 * one.accuracies[0]:.2f} against {100 * one.accuracies[1]:.2f} %.'
  )


def tests(panels: Sequence[Panel], compared: Sequence[Compared], baseline: str) -> Section:
  """Paired tests at equal labels a step, and the gaps with the most data as a figure."""
  text = (
    f'Every method against {baseline}, with equally many labels a step and equally many steps: the '
    "paper's protocol. A method that learns more than labels also computes more; see equal "
    'compute below.',
  )
  if not compared:
    return Section(
      'tests', 'Paired tests, equal labels', (f'No method shares a seed with {baseline}.',)
    )
  table = tests_table('tests_equal_labels', f'Gaps to {baseline} at equal labels', compared)
  found = [
    _gaps(panel, rows, baseline, number)
    for number, panel in enumerate(panels, 1)
    if (rows := [one for one in _at_most(panel, compared) if one.point.average('compute') > 0.1])
  ]
  return Section('tests', 'Paired tests, equal labels', text, tuple(found), (table,))


def _gaps(panel: Panel, compared: Sequence[Compared], baseline: str, number: int) -> Figure:
  """The gaps of trained students; one that was not trained would take the axis for itself."""
  rows = [
    (one.point.name, percent(one.gap.mean), percent(one.gap.low), percent(one.gap.high))
    for one in compared
  ]
  more = f'{percent(panel.fractions[-1]):g} % of the data', of_size(panel.sizes[-1])
  title = titled(f'Gaps to {baseline}', panel, *more)
  return intervals(f'gaps_{number}', title, f'gap to {baseline}, points', rows)


def equal_compute(panels: Sequence[Panel], baseline: str) -> Section:
  """Paired tests against the baseline that was trained with the costliest method's compute."""
  compared = series.equal_compute(panels, baseline)
  found: list[Figure] = []
  for panel in panels:
    points = [p for p in panel.points if p.fraction == panel.fractions[-1]]
    points = [p for p in points if p.parameters == panel.sizes[-1]]
    if len({p.average('compute') for p in points}) > 1:
      marks = [_line(panel, [p], [p.average('compute')]) for p in points]
      title = titled('Accuracy against training compute', panel)
      axes = Axes(f'compute, multiples of {baseline}', ACCURACY)
      found.append(figure(f'accuracy_by_compute_{len(found) + 1}', title, axes, marks))
  if not compared:
    text = f'No {baseline} was trained longer: EQUAL_COMPUTE = True of the sweep adds it.'
    return Section('compute', 'Equal compute', (text,), tuple(found))
  text = (
    f'Every method against {baseline} trained for more steps, with the compute of the costliest '
    'method. The compute of both is in the table: a method that computes less is at a disadvantage '
    'here.'
  )
  table = tests_table('tests_equal_compute', f'Gaps to {baseline} at equal compute', compared)
  return Section('compute', 'Equal compute', (text,), tuple(found), (table,))


def tests_table(name: str, title: str, compared: Sequence[Compared]) -> Table:
  """Paired tests as a table."""
  rows = [
    (
      *_place(one.point), one.baseline.name, one.seeds, percent(one.gap.mean),
      percent(one.gap.low), percent(one.gap.high), one.gap.p, one.holm, one.mcnemar, *one.flips,
      one.point.average('compute'), one.baseline.average('compute'),
    )
    for one in compared
  ]  # fmt: skip
  return Table(name, title, _TESTS, rows, ABOUT_TESTS)


def matching_fractions(panels: Sequence[Panel], baseline: str) -> Section:
  """Where each method first matches the baseline with all data."""
  found = [match for panel in panels for match in matching.matches(panel, baseline)]
  if not found:
    why = f'This needs several values of TRAIN_FRACTION, and {baseline} at the largest one.'
    return Section('matching', 'Data that match full finetuning', (why,))
  columns = (
    Column('method'), Column('setting'), Column(PARAMETERS, ','), Column('seeds', 'd'),
    Column('goal, %', '.2f'), Column('first matches at, % of the data'), Column('95 % from'),
    Column('95 % to'),
  )  # fmt: skip
  rows = [
    (
      one.name, one.panel, one.parameters, one.seeds, percent(one.goal),
      *(_crossing(value, one) for value in one.crossing),
    )
    for one in found
  ]  # fmt: skip
  text = (
    f'The goal is the mean accuracy of {baseline} with the most data. A method matches it at the '
    'smallest share of the data where its mean accuracy, linear between the shares of the sweep, '
    'is at least the goal. The interval is of a bootstrap that draws seeds (each with all its '
    'students) and test items; with few seeds it is rough. The definition is ours: the paper reads '
    'such shares off its figures.',
  )
  table = Table('matching_fraction', 'Share of the data that matches', columns, rows)
  return Section('matching', 'Data that match full finetuning', text, (), (table,))


def _crossing(value: float, match: matching.Match) -> str:
  if value == -math.inf:
    return f'≤ {percent(match.smallest):g}'
  return f'> {percent(match.largest):g}' if value == math.inf else f'{percent(value):.1f}'
