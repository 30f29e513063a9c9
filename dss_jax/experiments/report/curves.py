"""Learning curves: the loss of each task and the accuracy over the steps of training.

Owns reading metrics.jsonl of the runs that a figure shows, and their mean over seeds.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dss_jax.datasets import rows
from dss_jax.experiments.report.folder import Run
from dss_jax.experiments.report.series import Panel, Point
from dss_jax.runs import file_names
from dss_jax.settings import fields
from dss_jax.settings.printable import one_line

POINTS = 200  # of a curve at most


class Curve(NamedTuple):
  """One quantity of a point's runs over training.

  Attributes:
    point: whose runs.
    quantity: 'rationale/loss' or 'validation accuracy', say.
    steps: rising, [n].
    mean: over the seeds that logged the step, [n].
    seeds: how many runs have the quantity.
  """

  point: Point
  quantity: str
  steps: np.ndarray
  mean: np.ndarray
  seeds: int


def curves(point: Point) -> list[Curve]:
  """The curves of a point: each task's loss and token accuracy, and validation accuracy.

  Raises:
    ConfigError: a file is damaged.
  """
  logged: dict[str, list[Mapping[int, float]]] = {}
  for run in point.runs:
    for name, values in _quantities(run).items():
      logged.setdefault(name, []).append(values)
  return [_mean(point, name, seeds) for name, seeds in sorted(logged.items())]


def of_panel(panel: Panel) -> list[Curve]:
  """The curves of a panel's points with the most data and the largest student."""
  size, fraction = panel.sizes[-1], panel.fractions[-1]
  points = (panel.at(name, fraction, size) for name in panel.names)
  return [curve for point in points if point is not None for curve in curves(point)]


def _mean(point: Point, name: str, seeds: list[Mapping[int, float]]) -> Curve:
  steps = sorted(set().union(*seeds))
  steps = steps[:: max(1, -(-len(steps) // POINTS))]
  means = [float(np.mean([one[step] for one in seeds if step in one])) for step in steps]
  return Curve(point, name, np.array(steps), np.array(means), len(seeds))


def _quantities(run: Run) -> dict[str, dict[int, float]]:
  """What a run logged, by quantity and step; {} where it has no metrics."""
  path = None if run.path is None else run.path / file_names.METRICS
  if path is None or not path.exists() or not path.stat().length:
    return {}
  found: dict[str, dict[int, float]] = {}
  for _, row in rows.read(path):
    step = row.get('step')
    if not isinstance(step, int):
      continue
    for name, value in row.items():
      title = _title(str(row.get('kind')), name)
      if title and fields.fits(value, float):
        found.setdefault(title, {})[step] = float(value)
  return found


def _title(kind: Any, name: str) -> str:
  """The title of a logged value; '' for one that is not shown."""
  if kind == 'validation':
    return 'validation accuracy' if name == 'accuracy' else ''
  task, slash, what = name.rpartition('/')
  return one_line(name) if slash and task and what in ('loss', 'accuracy') else ''
