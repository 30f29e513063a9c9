"""`dss plan`: whether a run fits on a machine, how fast it is and what it costs, before it is paid.

Owns the order of planning, its settings and what is printed. The numbers are planning/'s.
"""

import dataclasses
import json
import re
import sys
import tomllib
from collections.abc import Sequence
from typing import Any

from etils import epath

from dss_jax import config, fields, run_config
from dss_jax.planning import checks, plans, search
from dss_jax.planning.report import candidate_line, report
from dss_jax.run_config import RunConfig

FLAGS = ('--json', '--search')
T5_VOCAB_SIZE = 32128  # of T5's own vocabulary, where none is named


@dataclasses.dataclass(frozen=True)
class PlanConfig:
  """What is planned.

  Attributes:
    run: the run; its model_dir, vocabulary and mixture may be ''.
    topology: a name of `dss_jax.topologies`.
    price_file: JSON or TOML with dollars an hour for each topology, or None.
  """

  run: RunConfig
  topology: str
  price_file: str | None = None

  def __post_init__(self):
    fields.check(self)


def task_name(dataset: str | None, method: str) -> str:
  """As `run_config.task_name`, but '' where no data set is named."""
  return run_config.task_name(dataset, method) if dataset else ''


def main(argv: Sequence[str]) -> int:
  """Runs `dss plan`; returns 0 if all fits and no check found a problem, else 1."""
  flags = {flag for flag in FLAGS if flag in argv}
  rest = [re.sub(r'^--batch(=|$)', r'--batch_size\1', one) for one in argv if one not in flags]
  config.parse(rest, 'runs/plan.gin')
  settings = config.configured('plan.PlanConfig')
  plan = make_plan(settings, _model_name(rest), searching='--search' in flags)
  print(json.dumps(plans.to_json(plan)) if '--json' in flags else report(plan))
  return 0 if plan.fits is not False and not any(one.problem for one in plan.checks) else 1


def make_plan(settings: PlanConfig, model: str, searching: bool = False) -> plans.Plan:
  """Checks what the run names, then compiles it; with `searching`, for the best mesh and batch.

  Raises:
    ValueError: settings that cannot be, a compiler that is not installed, or nothing fits.
    RuntimeError: the compiler crashed.
  """
  price = _price(settings)
  run, found = checks.check(settings.run)
  packed = 1.0
  if any(one.name == 'data' and not one.problem for one in found):
    packed = checks.rows_hold(run)
  run = checks.with_vocab_size(run, T5_VOCAB_SIZE)
  if searching:
    run = _best(run, settings.topology)
  _say(f'compiling for {settings.topology}; this takes minutes')
  return plans.make(
    model,
    run,
    settings.topology,
    checks=tuple(found),
    dollars_per_hour=price,
    examples_per_row=packed,
  )


def _best(run: RunConfig, topology: str) -> RunConfig:
  """The run with the mesh and batch of most rows a second."""
  found = list(
    search.candidates(run, topology, say=lambda candidate: _say(candidate_line(candidate)))
  )
  if not found:
    raise ValueError(
      f'nothing fits on {topology}, not even one row a device; try a larger topology, '
      "REMAT_POLICY = 'full', OPTIMIZER = 'adafactor' or shorter TASK_FEATURE_LENGTHS."
    )
  best = max(found, key=lambda candidate: candidate.rows_per_second)
  return search.with_settings(run, best.mesh, best.batch)


def _price(settings: PlanConfig) -> float | None:
  """Dollars an hour of the topology.

  Raises:
    ValueError: the file is not there, not JSON or TOML, or has no number for the topology.
  """
  if settings.price_file is None:
    return None
  path = epath.Path(settings.price_file).expanduser()
  wanted = f"PRICE_FILE is JSON or TOML with dollars an hour, e.g. {{'{settings.topology}': 9.6}}"
  try:
    text = path.read_text()
    prices: Any = tomllib.loads(text) if path.suffix == '.toml' else json.loads(text)
  except (OSError, ValueError) as error:
    raise ValueError(f'{wanted}; {path} cannot be read: {error}.') from error
  price = prices.get(settings.topology) if isinstance(prices, dict) else None
  if isinstance(price, bool) or not isinstance(price, int | float) or price <= 0:
    raise ValueError(f'{wanted}; {path} has {price!r} for {settings.topology}.')
  return float(price)


def _model_name(argv: Sequence[str]) -> str:
  """t5_1_1/xxl of models/t5_1_1/xxl.gin, the last one named; 'T5' without one."""
  files = re.findall(r'models/([\w./-]+)\.gin', ' '.join(argv))
  return files[-1] if files else 'T5'


def _say(text: str) -> None:
  print(text, file=sys.stderr)
