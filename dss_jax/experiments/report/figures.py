"""Line figures by matplotlib, as SVG and PNG files and as SVG within the page.

Owns how figures look. What they show is the sections', the SVG's way into a page inline_svg.py's.
A figure is as wide as a phone, so that its letters can be read there.
"""

import io
import itertools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D

from dss_jax.experiments.report import inline_svg
from dss_jax.experiments.report.document import Column, Figure, Table

SIZE = (4.8, 3.3)  # inches, without the legend
COLOURS = (
  '#0b6bcb', '#c2410c', '#0f7b5f', '#8b3fb5', '#9a6700', '#b3266e', '#3f6212', '#0e7490',
)  # fmt: skip
INK, GRID = '#24292f', '#d5dae0'
MARKERS = 'osD^vPXh'
FEW = 3
_STYLE: Any = {
  'axes.axisbelow': True,
  'axes.edgecolor': INK,
  'axes.formatter.use_mathtext': False,
  'axes.grid': True,
  'axes.labelcolor': INK,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'font.size': 9,
  'grid.color': GRID,
  'grid.linewidth': 0.7,
  'legend.frameon': False,
  'svg.fonttype': 'none',
  'svg.hashsalt': 'dss',
  'text.color': INK,
  'text.parse_math': False,
  'xtick.color': INK,
  'ytick.color': INK,
}


class Series(NamedTuple):
  """A line of a figure.

  Attributes:
    label: of the legend.
    x: of its points.
    y: likewise.
    low: ends of the intervals of y, or () for none.
    high: likewise.
    is_dashed: whether it is drawn apart from the others.
    is_marked: whether its points are; where there are only one or two, they always are.
    place: of its colour; None: its place in the figure.
  """

  label: str
  x: Sequence[float]
  y: Sequence[float]
  low: Sequence[float] = ()
  high: Sequence[float] = ()
  is_dashed: bool = False
  is_marked: bool = True
  place: int | None = None


class Level(NamedTuple):
  """A horizontal line."""

  label: str
  y: float


class Axes(NamedTuple):
  """What the axes are.

  Attributes:
    x: title of the x axis, with its unit.
    y: likewise.
    is_log: whether x is logarithmic.
    ticks: of x with their texts; () for matplotlib's.
  """

  x: str
  y: str
  is_log: bool = False
  ticks: Sequence[tuple[float, str]] = ()


def figure(
  name: str,
  title: str,
  axes: Axes,
  series: Sequence[Series],
  levels: Sequence[Level] = (),
  stars: Sequence[Series] = (),
) -> Figure:
  """A figure of lines.

  Args:
    name: of its files.
    title: its caption.
    axes: of it.
    series: lines; colours and markers follow their order.
    levels: horizontal lines, such as the teacher's accuracy.
    stars: points of others, such as published ones.
  """
  table = _table(name, title, axes, series, levels, stars)
  with mpl.rc_context(_STYLE), warnings.catch_warnings():
    warnings.simplefilter('ignore')  # a name in a script that the font lacks
    drawn = MplFigure(figsize=SIZE, dpi=150)
    FigureCanvasAgg(drawn)
    plot = drawn.add_subplot()
    handles = [_draw(plot, one, place) for place, one in enumerate(series)]
    for level in levels:
      handles.append(plot.axhline(level.y, color=INK, linestyle=(0, (1, 1.5)), linewidth=1.4))
    for number, one in enumerate(stars):
      colour = COLOURS[(number if one.place is None else one.place) % len(COLOURS)]
      handles += plot.plot(one.x, one.y, '*', color=colour, markersize=11, markerfacecolor='none')
    plot.set_xlabel(axes.x)
    plot.set_ylabel(axes.y)
    if axes.is_log:
      plot.set_xscale('log')
    else:
      plot.locator_params('x', nbins=6)
    if axes.ticks:
      plot.set_xticks([x for x, _ in axes.ticks], [text for _, text in axes.ticks])
      plot.set_xticks([], minor=True)
    labels = [one.label for one in series]
    labels += [*(level.label for level in levels), *(one.label for one in stars)]
    _add_legend(plot, handles, labels)
    svg, png = _saved(drawn, 'svg'), _saved(drawn, 'png')
  return Figure(name, title, svg, png, inline_svg.inline(svg, name, _variables()), table)


def intervals(
  name: str, title: str, x: str, rows: Sequence[tuple[str, float, float, float]]
) -> Figure:
  """A figure of one interval a row, beside a line at 0.

  Args:
    name: of its files.
    title: its caption.
    x: title of the x axis, with its unit.
    rows: label, value, and both ends of its interval; the first row is the uppermost.
  """
  places = range(len(rows), 0, -1)
  with mpl.rc_context(_STYLE), warnings.catch_warnings():
    warnings.simplefilter('ignore')
    drawn = MplFigure(figsize=(SIZE[0], 0.7 + 0.27 * len(rows)), dpi=150)
    FigureCanvasAgg(drawn)
    plot = drawn.add_subplot()
    plot.axvline(0.0, color=INK, linestyle=(0, (1, 1.5)), linewidth=1.4)
    for place, (_, value, low, high) in zip(places, rows, strict=True):
      plot.hlines(place, low, high, color=COLOURS[0], linewidth=1.6)
      plot.plot([value], [place], 'o', color=COLOURS[0], markersize=5)
    plot.set_yticks(places, [_short(label) for label, *_ in rows])
    plot.set_ylim(0.4, len(rows) + 0.6)
    plot.grid(visible=False, axis='y')
    plot.set_xlabel(x)
    svg, png = _saved(drawn, 'svg'), _saved(drawn, 'png')
  ends = Column('95 % from', '+.2f'), Column('95 % to', '+.2f')
  columns = (Column('series'), Column(x, '+.2f'), *ends)
  table = Table(name, title, columns, [tuple(row) for row in rows])
  return Figure(name, title, svg, png, inline_svg.inline(svg, name, _variables()), table)


def _draw(plot: Any, one: Series, number: int) -> Line2D:
  place = number if one.place is None else one.place
  colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
  style = '--' if one.is_dashed else '-.' if place >= len(COLOURS) else '-'
  if len(one.low):
    plot.vlines(one.x, one.low, one.high, color=colour, linewidth=1.1, alpha=0.6)
  (line,) = plot.plot(
    one.x,
    one.y,
    style,
    color=colour,
    marker=marker if one.is_marked or len(one.x) < FEW else '',
    markersize=4.5,
    markerfacecolor='none' if place >= len(COLOURS) or one.is_dashed else colour,
    linewidth=1.6,
  )
  return line


def _add_legend(plot: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
  """A legend below the axes; matplotlib leaves out labels that start with an underscore."""
  shown = [f' {label}' if label.startswith('_') else label for label in map(_short, labels)]
  columns = 1 if max(map(len, shown), default=0) > 26 else 2
  plot.legend(
    handles, shown, loc='upper left', bbox_to_anchor=(-0.08, -0.17), ncols=columns, fontsize=8.5
  )


def _short(label: str, most: int = 52) -> str:
  return label if len(label) <= most else f'{label[: most - 1]}…'


def _saved(drawn: MplFigure, form: str) -> bytes:
  content = io.BytesIO()
  about = {'Date': None, 'Creator': None} if form == 'svg' else {'Software': None}
  face = {'transparent': True} if form == 'svg' else {'facecolor': 'white'}
  drawn.savefig(content, format=form, bbox_inches='tight', pad_inches=0.04, metadata=about, **face)
  return content.getvalue()


def _variables() -> dict[str, str]:
  """The page's variable for each colour of a figure."""
  found = {colour: f'var(--s{place})' for place, colour in enumerate(COLOURS)}
  return {**found, INK: 'var(--ink)', GRID: 'var(--line)'}


def _table(
  name: str,
  title: str,
  axes: Axes,
  series: Sequence[Series],
  levels: Sequence[Level],
  stars: Sequence[Series],
) -> Table:
  """The points of a figure as a table, for those who cannot see it and for programs."""
  rows: list[tuple[Any, ...]] = []
  for one in itertools.chain(series, stars):
    ends = zip(one.low, one.high, strict=True) if len(one.low) else [(None, None)] * len(one.x)
    rows += [
      (one.label, float(x), float(y), *pair) for x, y, pair in zip(one.x, one.y, ends, strict=True)
    ]
  rows += [(level.label, None, level.y, None, None) for level in levels]
  titles = [Column(axes.x, '.6g'), Column(axes.y, '.4g')]
  ends_titles = [Column('95 % from', '.4g'), Column('95 % to', '.4g')]
  return Table(name, title, (Column('series'), *titles, *ends_titles), rows)
