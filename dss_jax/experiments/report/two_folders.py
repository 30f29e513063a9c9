"""Two sweeps beside each other: the same cells of both, with a paired test.

Owns which cells are the same and what differs between their settings.
"""

from collections.abc import Iterator
from typing import Any

from dss_jax.experiments import results
from dss_jax.experiments.report import accuracy_sections, series
from dss_jax.experiments.report.document import Column, P, Section, Table
from dss_jax.experiments.report.folder import Run, Sweep
from dss_jax.experiments.report.series import Point
from dss_jax.settings import json_form
from dss_jax.settings.printable import one_line

_IGNORED = ('model_dir', 'data_dir')
_MOST = 200  # rows of differing settings


def section(first: Sweep, second: Sweep) -> Section:
  """Every method of the second sweep against the same one of the first, at the same seeds."""
  pairs = list(_pairs(first, second))
  compared = series.against([(after, before) for before, after in pairs])
  text: tuple[str, ...] = (
    f'B, {second.path}, against A, {first.path}: the same method, settings of the grid and seed.',
  )
  if not compared:
    text = (*text, 'They share no cell with the same questions, so there is nothing to compare.')
    return Section('folders', 'The two folders', text)
  rows = [
    (
      one.point.name, one.point.panel, one.seeds, 100 * one.accuracies[1], 100 * one.accuracies[0],
      100 * one.gap.mean, 100 * one.gap.low, 100 * one.gap.high, one.gap.p, one.holm, one.mcnemar,
      *one.flips,
    )
    for one in compared
  ]  # fmt: skip
  columns = (
    Column('method'), Column('setting'), Column('seeds', 'd'), Column('A, %', '.2f'),
    Column('B, %', '.2f'), Column('B minus A, points', '+.2f'), Column('95 % from', '+.2f'),
    Column('95 % to', '+.2f'), Column('p', P), Column('p (Holm)', P),
    Column('McNemar p', P), Column('only B right', ','), Column('only A right', ','),
  )  # fmt: skip
  note = accuracy_sections.ABOUT_TESTS
  gaps = Table('two_folders', 'B against A', columns, rows, note)
  changed = list(_changes(pairs))[:_MOST]
  names = (Column('method'), Column('what differs, A -> B'))
  settings = Table('two_folders_settings', 'Settings that differ', names, changed)
  return Section('folders', 'The two folders', text, (), (gaps, settings) if changed else (gaps,))


def _pairs(first: Sweep, second: Sweep) -> Iterator[tuple[Point, Point]]:
  """Points with the same method and values of the grid in both sweeps."""
  before = {_place(point): point for point in _points(first)}
  for point in _points(second):
    if _place(point) in before:
      yield before[_place(point)], point


def _points(sweep: Sweep) -> list[Point]:
  """The points of a sweep, each panel named by all of the grid's values but the seed."""
  titles: dict[str, list[Run]] = {}
  for run in sweep.students:
    titles.setdefault(series.title_of(run.axes, {results.SEED}), []).append(run)
  return [point for title, runs in titles.items() for point in series.points_of(title, runs)]


def _place(point: Point) -> tuple[Any, ...]:
  return point.panel, point.name, point.fraction


def _changes(pairs: list[tuple[Point, Point]]) -> Iterator[tuple[str, str]]:
  """Each difference of settings once for each method."""
  seen = set()
  for before, after in pairs:
    for seed, run in after.by_seed.items():
      if seed in before.by_seed:
        old = before.by_seed[seed]
        was, now = ({**one.settings, 'read': one.reads} for one in (old, run))
        for line in json_form.differences(was, now, _IGNORED):
          if (after.name, line) not in seen:
            seen.add((after.name, line))
            yield after.name, one_line(line, 300)
