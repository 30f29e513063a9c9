"""The sections of a report on cost, on asking the teacher when unsure, and on training.

Owns what each figure and table shows and what is said of it. Numbers are cost.py's, deferral.py's
and curves.py's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dss_jax.experiments.report import cost, curves, deferral
from dss_jax.experiments.report.accuracy_sections import (
  ACCURACY,
  DATA,
  PARAMETERS,
  of_size,
  percent,
  size_text,
  teacher_levels,
  titled,
)  # fmt: skip
from dss_jax.experiments.report.cost import Prices
from dss_jax.experiments.report.document import Column, Figure, Section, Table
from dss_jax.experiments.report.figures import Axes, Series, figure
from dss_jax.experiments.report.folder import Run
from dss_jax.experiments.report.series import Panel, Point

_AMOUNTS = (
  Column('processor hours', '.4g'), Column('labels', ',.0f'), Column('teacher calls', ',.0f'),
  Column('dollars', ',.2f'),
)  # fmt: skip
_NO_PRICES = (
  'No prices were given, so cost is in hours alone, and labels and rationales count as free. '
  f'--price_file=FILE adds dollars: {cost.EXAMPLE}.'
)


def costs(panels: Sequence[Panel], baseline: str, prices: Prices | None) -> Section:
  """What accuracy costs, and what one more point does."""
  unit = 'processor hours' if prices is None else 'dollars'
  found: list[Figure] = []
  for panel in panels:
    size = panel.sizes[-1]
    lines = [(name, panel.along_fractions(name, size)) for name in panel.names]
    shown = [
      Series(
        name,
        [cost.dollars_or_hours(cost.cost(point, prices)) for point in points],
        [percent(point.mean) for point in points],
        is_dashed=not points[0].runs[0].is_equal_labels,
        place=panel.names.index(name),
      )
      for name, points in lines
      if points
    ]
    title = titled('Accuracy against cost', panel, of_size(size) if len(panel.sizes) > 1 else '')
    axes = Axes(f'{unit} for one student', ACCURACY)
    name = f'accuracy_by_cost_{len(found) + 1}'
    found.append(figure(name, title, axes, shown, teacher_levels(panel)))
  text = [
    'Hours are of training steps and of one processor (a core, GPU or TPU chip), for one student; '
    'start, compilation and scoring are not in them. A call of the teacher gives a label and a '
    'rationale.'
  ]
  if prices is None:
    text.append(_NO_PRICES)
  asking = sorted(
    {run.name for p in panels for q in p.points for run in q.runs if run.asks_the_teacher}
  )
  if asking:
    text.append(
      f'{", ".join(asking)}: the teacher is asked for every answer too, which is not counted here.'
    )
  tables = (_reaching(panels, baseline, prices), _one_more_point(panels, baseline, prices))
  return Section('cost', 'Cost', tuple(text), tuple(found), tables)


def _reaching(panels: Sequence[Panel], baseline: str, prices: Prices | None) -> Table:
  """What it costs each method to reach an accuracy."""
  rows: list[tuple[Any, ...]] = []
  for panel in panels:
    for goal_name, goal in cost.goals(panel, baseline).items():
      for name in panel.names:
        for size in panel.sizes:
          points = panel.along_fractions(name, size)
          if not points:
            continue
          found = [cost.cost(point, prices) for point in points]
          amounts = [
            None if None in values else cost.cost_to_reach(points, values, goal)
            for values in zip(*found, strict=True)
          ]
          place = goal_name, percent(goal), name, panel.title, size
          rows.append((*place, 'no' if amounts[0] is None else 'yes', *amounts))
  columns = (
    Column('goal'), Column('goal, %', '.2f'), Column('method'), Column('setting'),
    Column(PARAMETERS, ','), Column('reached'), *_AMOUNTS,
  )  # fmt: skip
  note = (
    'For one student, with the data that first reach the goal, linear between the shares of the '
    'sweep. Where its smallest share already does, the cost is an upper bound.'
  )
  return Table('cost_to_reach', 'Cost to reach an accuracy', columns, rows, note)


def _one_more_point(panels: Sequence[Panel], baseline: str, prices: Prices | None) -> Table:
  """What one more point of accuracy costs by labels, by rationales, by a larger student."""
  rows = [
    (
      one.what, one.after.name, one.after.panel,
      _change(*(f'{percent(point.fraction):g}' for point in (one.before, one.after))),
      _change(*(size_text(point.parameters) for point in (one.before, one.after))),
      one.points, *cost.amounts(one.cost),
      *(one.per_point(field) for field in one.cost._fields),
    )
    for panel in panels
    for one in cost.steps(panel, baseline, prices)
  ]  # fmt: skip
  per_point = tuple(Column(f'{column.title} a point', column.form) for column in _AMOUNTS)
  columns = (
    Column('bought by'), Column('method'), Column('setting'), Column(DATA), Column('student'),
    Column('gain, points', '+.2f'), *(Column(f'+ {c.title}', c.form) for c in _AMOUNTS), *per_point,
  )  # fmt: skip
  note = (
    'Each row changes one thing. “Rationales” is the method against the baseline at the same data. '
    'A change without a gain has no price a point. Gains are of means; their intervals are in the '
    'tables of tests.'
  )
  return Table('one_more_point', 'What one more point costs', columns, rows, note)


def _change(before: str, after: str) -> str:
  return after if before == after else f'{before} → {after}'


def deferrals(panels: Sequence[Panel], confidences: Mapping[str, np.ndarray]) -> Section:
  """Accuracy against the share of inputs that is handed to the teacher."""
  found: list[Figure] = []
  rows: list[tuple[Any, ...]] = []
  for panel in panels:
    curves_of = deferral.of_panel(panel, confidences)
    for size in panel.sizes:
      shown = [one for one in curves_of if one.point.parameters == size]
      if not shown:
        continue
      lines = [_smooth(panel, one.point, 100 * one.shares, 100 * one.mean) for one in shown]
      title = titled('Accuracy with the teacher behind', panel, of_size(size))
      axes = Axes('inputs handed to the teacher, %', ACCURACY)
      name = f'deferral_{len(found) + 1}'
      found.append(figure(name, title, axes, lines, teacher_levels(panel)))
    for one in curves_of:
      place = one.point.name, panel.title, one.point.parameters, one.seeds
      best = percent(one.best[0]), percent(one.best[1])
      ends = map(percent, one.interval) if one.interval else (None, None)
      kept = percent(one.kept), *ends
      rows.append((*place, percent(one.alone), percent(one.teacher), *kept, *best))
  if not rows:
    return Section('deferral', 'Asking the teacher when unsure', (_missing(panels),))
  columns = (
    Column('method'), Column('setting'), Column(PARAMETERS, ','), Column('seeds', 'd'),
    Column('student alone, %', '.2f'), Column('teacher alone, %', '.2f'),
    Column('student keeps, % of inputs', '.1f'), Column('95 % from', '.1f'),
    Column('95 % to', '.1f'), Column('best together, %', '.2f'),
    Column('handed over there, %', '.1f'),
  )  # fmt: skip
  text = (
    'The student answers what it is surest of; the rest goes to the teacher, whose stored answers '
    "count. Confidence is the mean log probability of the answer's tokens. “Student keeps” is the "
    'largest share that students answer themselves while the two together are as right as the '
    'teacher alone. The share was chosen on these same examples, so it is somewhat hopeful. '
    'Largest data fraction of the sweep.'
  )
  table = Table('deferral', 'What students can take over', columns, rows)
  return Section('deferral', 'Asking the teacher when unsure', (text,), tuple(found), (table,))


def _smooth(panel: Panel, point: Point, x: np.ndarray, y: np.ndarray) -> Series:
  is_dashed = not point.runs[0].is_equal_labels
  place = panel.names.index(point.name)
  return Series(
    point.name, x.tolist(), y.tolist(), is_dashed=is_dashed, is_marked=False, place=place
  )


def _missing(panels: Sequence[Panel]) -> str:
  if all(panel.teacher is None for panel in panels):
    return (
      'The teacher was not scored: few_shot_cot in METHODS of the sweep adds it, without training.'
    )
  return (
    'No confidences: the records of the evaluations are not in the run folders, or are of other '
    "questions than the teacher's. `dss evaluate --model_dir=RUN` writes them again."
  )


def learning(panels: Sequence[Panel]) -> Section:
  """Learning curves of each task."""
  found: list[Figure] = []
  for panel in panels:
    by_quantity: dict[str, list[curves.Curve]] = {}
    for curve in curves.of_panel(panel):
      by_quantity.setdefault(curve.quantity, []).append(curve)
    for quantity, shown in by_quantity.items():
      lines = [_smooth(panel, one.point, one.steps, one.mean) for one in shown]
      title = titled(f'Learning curve: {quantity}', panel)
      name = f'learning_{len(found) + 1}'
      found.append(figure(name, title, Axes('step', quantity), lines))
  text = (
    'Mean over seeds, at the most data and the largest student. Of each task: the loss on training '
    'batches, and the share of right target tokens; and what validation decoded, where it was on.'
    if found
    else 'No run has a metrics.jsonl.'
  )
  return Section('learning', 'Learning curves', (text,), tuple(found))


def runs_table(runs: Sequence[Run]) -> Table:
  """Every run with its own score."""
  columns = (
    Column('run'), Column('method'), Column('seed'), Column(DATA, 'g'), Column(PARAMETERS, ','),
    Column('split'), Column('items', ','), Column(ACCURACY, '.2f'), Column('steps', ','),
    Column('seconds of steps', ',.0f'), Column('data read'),
  )  # fmt: skip
  rows = [
    (
      run.label, run.score.name, None if run.seed is None else str(run.seed),
      percent(run.fraction), run.parameters, run.split, len(run.correct),
      percent(run.score.accuracy), run.score.steps, run.score.seconds,
      ', '.join(f'{name} {mark}' for name, mark in sorted(run.reads.items())),
    )
    for run in runs
  ]  # fmt: skip
  note = '“Data read” are checksums of the prepared data, the vocabulary and such.'
  return Table('runs', 'Every run', columns, rows, note)
