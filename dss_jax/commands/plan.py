"""`dss plan`: whether a run fits on a machine, how fast it is and what it costs, before you pay.

Owns the order of planning, its settings and what is printed. The numbers are planning/'s.
"""

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Sequence

from dss_jax.methods import Method
from dss_jax.planning import checks, plans, prices, programs, search
from dss_jax.planning.report import candidate_line, report
from dss_jax.runs import layer_choice, run_config
from dss_jax.runs.run_config import RunConfig
from dss_jax.settings import fields, gin_files, topologies

FLAGS = ('--json', '--search')


@dataclasses.dataclass(frozen=True)
class PlanConfig:
  """The run to plan, and the machine.

  Attributes:
    run: the run; its model_dir, vocabulary and mixture may be ''.
    topology: a name of `dss_jax.settings.topologies`.
    price_file: JSON with dollars an hour of each topology, or None.
  """

  run: RunConfig
  topology: str
  price_file: fields.Path | None = None

  def __post_init__(self):
    fields.check(self)
    topologies.topology(self.topology)


def task_name(dataset: str | None = None, method: str | Method | None = None) -> str:
  """As `run_config.task_name`, but '' where no data set is given.

  Args:
    dataset: set by datasets/NAME.gin.
    method: set by methods/NAME.gin; None: dss, or that of MIXTURE_OR_TASK_NAME.
  """
  return run_config.task_name(dataset, method) if dataset else ''


def main(argv: Sequence[str]) -> int:
  """Runs `dss plan`; returns 0 if all fits and no check found a problem, else 1."""
  flags = {flag for flag in FLAGS if flag in argv}
  rest = [one for one in argv if one not in flags]
  gin_files.parse(rest, 'runs/plan.gin')
  settings = gin_files.configured('plan.PlanConfig')
  plan = make_plan(settings, _model_name(rest), searching='--search' in flags)
  print(json.dumps(plans.to_json(plan)) if '--json' in flags else report(plan))
  return 1 if plan.fits is False or any(one.passed is False for one in plan.checks) else 0


def make_plan(settings: PlanConfig, model: str, searching: bool = False) -> plans.Plan:
  """Checks what the run names, then compiles it; `searching` looks for the best mesh and batch.

  Raises:
    ValueError: impossible settings, a compiler that is not installed, or nothing fits.
    ChildProcessError: the compiler crashed.
  """
  price = prices.dollars_per_hour(settings.price_file, settings.topology)
  compiler = functools.cache(_compile)  # does not compile again what the search compiled
  run, results = checks.check(settings.run)
  packed = 1.0
  if any(one.name == 'data' and one.passed for one in results):
    packed = checks.examples_per_row(run)
  run = checks.with_vocab_size(run)
  if searching:
    run = _best(run, settings.topology, compiler)
  return plans.make(
    model,
    run,
    settings.topology,
    compiler,
    _print_progress,
    checks=tuple(results),
    dollars_per_hour=price,
    examples_per_row=packed,
  )


def _compile(program: programs.Program) -> programs.Compiled:
  _print_progress(
    f'compiling {program.step} of {program.rows} rows for {program.topology}: minutes'
  )
  return programs.compile_program(program)


def _best(run: RunConfig, topology: str, compiler: plans.Compiler) -> RunConfig:
  """The run with the mesh and batch that give the most rows a second, and with the best layers."""
  if topologies.topology(topology).platform != 'tpu':
    raise ValueError(
      f'--search compares estimates for TPUs; there are none for {topology}; drop --search.'
    )
  show = lambda candidate: _print_progress(candidate_line(candidate))  # noqa: E731
  scanned = dataclasses.replace(run, model=layer_choice.with_scanned(run.model))
  candidates = list(search.candidates(scanned, topology, compiler, show))
  if not candidates:
    raise ValueError(
      f'nothing fits on {topology}, not even one row a device; try a larger topology, '
      "REMAT_POLICY = 'full', OPTIMIZER = 'adafactor' or shorter TASK_FEATURE_LENGTHS."
    )
  best = max(candidates, key=lambda candidate: candidate.rows_per_second)
  run = search.with_settings(run, best.mesh, best.batch)
  run = search.fastest_layers(run, topology, compiler, _print_progress)
  mesh, batch = run.mesh, run.data.batch_size
  _print_progress(
    f'flags: --mesh_data={mesh.data} --mesh_fsdp={mesh.fsdp} --mesh_tensor={mesh.tensor} '
    f'--batch_size={batch} {search.layers_text(run.model)}'
  )
  return run


def _model_name(argv: Sequence[str]) -> str:
  """t5_1_1/xxl of models/t5_1_1/xxl.gin, the last one named; 'T5' without one."""
  files = re.findall(r'models/([\w./-]+)\.gin', ' '.join(argv))
  return files[-1] if files else 'T5'


def _print_progress(text: str) -> None:
  print(text, file=sys.stderr)
