"""The smallest gap that a sweep can find, said before anything is trained.

Owns which numbers go into it: test items, seeds, gaps of the tables, and, from cells that are done,
the error of a gap. The formulas are statistics.py's.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dss_jax.experiments import paper, statistics, tables
from dss_jax.experiments.cells import Outcome
from dss_jax.experiments.comparison import Cell
from dss_jax.experiments.results import SEED
from dss_jax.runs import run_config
from dss_jax.tasks import registration


class Test(NamedTuple):
  """What students are scored on.

  Attributes:
    dataset: its name.
    items: how many examples; None where that cannot be known here.
  """

  dataset: str
  items: int | None


def tests_of(runs: Sequence[run_config.RunConfig], split: str) -> list[Test]:
  """The different tests of runs; counts the rows of each data set once, or takes the paper's."""
  found: dict[str, Test] = {}
  for task in dict.fromkeys(run.data.mixture_or_task_name for run in runs):
    try:
      name = registration.dataset_of(task).name
    except ValueError:  # somebody else's SeqIO task
      found[task] = Test(task, None)
      continue
    if name not in found:
      found[name] = Test(name, _counted(task, split) or _published(name, split))
  return list(found.values())


def _published(dataset: str, split: str) -> int | None:
  return paper.TEST_ITEMS.get(dataset) if split == 'test' else None


def _counted(task: str, split: str) -> int | None:
  try:
    return len(registration.labels_of(task, split))
  except (ValueError, OSError, KeyError):  # not prepared yet
    return None


def sentences(
  cells: Sequence[Cell],
  tests: Sequence[Test],
  split: str,
  outcomes: Sequence[Outcome],
  first: str,
) -> Iterator[str]:
  """A sentence for each test, and one of what was measured.

  Args:
    cells: of the sweep.
    tests: of `tests_of`.
    split: of all tests.
    outcomes: what is done.
    first: the method that others are compared to.
  """
  seeds = len({cell.axes.get(SEED) for cell in cells})
  lines = {(cell.name, _without_seed(cell.axes)) for cell in cells if cell.name != first}
  count = max(1, len(lines))
  for test in tests:
    if test.items is None:
      yield f'How many examples {test.dataset} {split} has is not known: prepare it first.'
      continue
    error = statistics.least_error(test.items, seeds)
    yield (
      f'{_seeds(seeds)} on the {test.items:,} examples of {test.dataset} {split} can find, at '
      f'best, {_gaps(error, seeds, count)} ({statistics.DISCORDANCE:.0%} discordant answers '
      'assumed).'
    )
  found = tables.lines(outcomes, first).values()
  gaps = [line.gap for group in found for line in group if line.gap is not None]
  shared = [len(line.accuracies) for group in found for line in group if line.gap is not None]
  if gaps and min(shared) >= statistics.FEW_SEEDS:
    errors = [gap.error * (n / seeds) ** 0.5 for gap, n in zip(gaps, shared, strict=True)]
    yield (
      f'By the {len(gaps)} gaps that are done, {_seeds(seeds)} find '
      f'{_gaps(float(np.median(errors)), seeds, count)}.'
    )


def _gaps(error: float, seeds: int, count: int) -> str:
  alone, strictest = (100 * statistics.detectable_gap(error, seeds, n) for n in (1, count))
  most = f', and {strictest:.1f} as the strictest of {count} gaps by Holm' if count > 1 else ''
  return f'a gap of {alone:.1f} points ({statistics.POWER:.0%} of the time, at 5 %){most}'


def _seeds(count: int) -> str:
  return f'{count} seeds' if count > 1 else 'One seed'


def _without_seed(axes: Mapping[str, object]) -> tuple[object, ...]:
  return tuple(str(value) for name, value in axes.items() if name != SEED)
