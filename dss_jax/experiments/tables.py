"""Tables of comparisons and sweeps, for people and as Markdown."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import rich.box
import rich.console
import rich.table

from dss_jax.experiments import paper, statistics
from dss_jax.experiments.cells import Outcome
from dss_jax.experiments.results import SEED, Score

WIDTH = 100  # columns of the table where no terminal says how many there are


class Line(NamedTuple):
  """A method at one combination of the grid, over all seeds that are done.

  Attributes:
    name: of the method, and how it was trained if that differs.
    accuracies: one a seed, in percent.
    interval: 95 % of their mean, in percent: over seeds, or over the items of a single seed.
    gap: to the first method at the same seeds, as a fraction; None for the first method itself.
    mcnemar: the median over seeds of the exact p.
    score: of one seed, for what does not depend on it.
    seconds: of training steps, the mean over seeds.
  """

  name: str
  accuracies: tuple[float, ...]
  interval: tuple[float, float]
  gap: statistics.Gap | None
  mcnemar: float
  score: Score
  seconds: float


def lines(outcomes: Sequence[Outcome], first: str) -> dict[str, list[Line]]:
  """The lines of a table for each combination of the grid without its seeds, by its title.

  Args:
    outcomes: what is done.
    first: the method that others are compared to; where it is not done, nothing is compared.
  """
  groups: dict[str, list[Outcome]] = {}
  for outcome in outcomes:
    groups.setdefault(_title(outcome.cell.axes), []).append(outcome)
  return {title: list(_lines(group, first)) for title, group in groups.items()}


def _title(axes: Mapping[str, Any]) -> str:
  return ', '.join(f'{name.lower()}={value}' for name, value in axes.items() if name != SEED)


def _lines(group: Sequence[Outcome], first: str) -> Iterator[Line]:
  names = dict.fromkeys(outcome.cell.name for outcome in group)
  by_name = {
    name: {one.cell.axes.get(SEED): one for one in group if one.cell.name == name} for name in names
  }
  baseline = by_name.get(first, {})
  for name, by_seed in by_name.items():
    scores = [one.score for one in by_seed.values()]
    accuracies = [100 * score.accuracy for score in scores]
    answers = {one.correct.tobytes() for one in by_seed.values()}
    if (
      len(accuracies) >= statistics.FEW_SEEDS and len(answers) > 1
    ):  # the teacher's are always the same
      interval = statistics.seed_interval(accuracies)
    else:
      interval = 100 * scores[0].accuracy_low, 100 * scores[0].accuracy_high
    shared = [seed for seed in by_seed if seed in baseline]
    gap, p = None, 1.0
    if name != first and shared:
      gap, p = statistics.paired(
        [(by_seed[seed].correct, baseline[seed].correct) for seed in shared]
      )
    seconds = float(np.mean([score.seconds for score in scores]))
    yield Line(name, tuple(accuracies), interval, gap, p, scores[0], seconds)


def beside_published(line: Line) -> str:
  """The paper's accuracy, and whether ours is compatible with it; '' where there is none."""
  score, count = line.score, len(line.accuracies)
  if score.published is None or score.published_error is None:
    return ''
  published = paper.Published(score.published, score.published_error)
  ours = float(np.mean(line.accuracies))
  spread = float(np.std(line.accuracies, ddof=1)) if count >= statistics.FEW_SEEDS else 0.0
  error = np.hypot(spread / count**0.5, (ours * (100 - ours) / score.examples) ** 0.5)
  verdict = 'compatible' if published.is_compatible(ours, float(error)) else 'differs'
  return f'{published.percent:.2f} ± {published.error:.2f}, {verdict}'


COLUMNS = (
  'method', 'accuracy', '95 %', 'seeds', 'gap', '95 % of gap', 'p', 'p (Holm)', 'McNemar',
  'labels/step', 'steps', 'compute', 'seconds', 'paper',
)  # fmt: skip
ABOUT = (
  'Accuracy and its interval over seeds, in percent. The gap is to the first method at the same '
  'seeds, in points; its interval and p are of seeds and test items, by a bootstrap and Student, '
  'and p is corrected for all gaps of these tables by Holm. McNemar: the exact p of one seed, '
  'the median. '
  'Paper: its accuracy and standard error; ours is compatible within 1.96 errors of both.'
)


def markdown(outcomes: Sequence[Outcome], first: str) -> str:
  """The tables of a sweep, a title and a table for each combination of the grid; see `lines`."""
  tables = lines(outcomes, first)
  tested = [line.gap.p for line in itertools.chain(*tables.values()) if line.gap]
  corrected = iter(statistics.holm(tested))
  parts = []
  for title, of_title in tables.items():
    rows = [COLUMNS, ('---',) * len(COLUMNS)]
    rows += [_cells_of(line, next(corrected) if line.gap else 1.0) for line in of_title]
    text = '\n'.join(f'| {" | ".join(row)} |' for row in rows)
    parts.append(f'### {title}\n\n{text}' if title else text)
  return '\n\n'.join([*parts, ABOUT]) + '\n'


def _cells_of(line: Line, corrected: float) -> tuple[str, ...]:
  gap = line.gap
  return (
    line.name,
    f'{np.mean(line.accuracies):.1f}',
    f'{line.interval[0]:.1f} to {line.interval[1]:.1f}',
    str(len(line.accuracies)),
    f'{100 * gap.mean:+.1f}' if gap else '',
    f'{100 * gap.low:+.1f} to {100 * gap.high:+.1f}' if gap else '',
    f'{gap.p:.4f}' if gap else '',
    f'{corrected:.4f}' if gap else '',
    f'{line.mcnemar:.4f}' if gap else '',
    f'{line.score.labels_per_step:.0f}',
    str(line.score.steps),
    f'{line.score.compute:.1f} x',
    f'{line.seconds:.0f}',
    beside_published(line),
  )


def print_comparison(scores: Sequence[Score], split: str) -> None:
  """Prints a comparison of one seed for people."""
  table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
  table.add_column('method')
  names = ('accuracy', '95 % interval', 'labels/step', 'steps', 'compute', 'seconds')
  for name in names:
    table.add_column(name, justify='right')
  for line in scores:
    table.add_row(
      line.name,
      f'{line.accuracy:.1%}',
      f'{100 * line.accuracy_low:.1f} to {100 * line.accuracy_high:.1f}',
      f'{line.labels_per_step:.0f}',
      str(line.steps),
      f'{line.compute:.1f} x',
      f'{line.seconds:.0f}',
    )
  console = rich.console.Console()
  if not console.is_terminal:
    console.width = WIDTH
  console.print(table)
  console.print(
    f'Label accuracy on {scores[0].examples} examples of {split}, one seed. The interval is of '
    'the examples alone.',
    highlight=False,
  )
