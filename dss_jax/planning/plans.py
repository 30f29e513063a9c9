"""What a run needs on a machine: both of its programs, compiled, and what they imply.

Owns the numbers of a plan and the object that `dss plan --json` prints. Settings and printing are
plan.py's, the search for better settings is search.py's.
"""

import dataclasses
import importlib.resources
import json
from collections.abc import Callable
from typing import Any

from dss_jax.models import flops, t5
from dss_jax.planning import estimate, programs
from dss_jax.planning.checks import Check
from dss_jax.planning.programs import Compiled, Program
from dss_jax.runs import layer_choice, memory
from dss_jax.runs.run_config import RunConfig
from dss_jax.settings import topologies

Compiler = Callable[[Program], Compiled]
TABLE = 'table.json'  # beside this file; benchmarks/plan_table.py writes it


@dataclasses.dataclass(frozen=True)
class Plan:
  """A run on a machine.

  Attributes:
    model: its name, for people.
    run: its settings, with vocab_size.
    machine: what it would run on.
    train: the compiled update.
    decode: the compiled decoding of validation; None where the run has none or cannot train.
    checks: of data, folder and the like.
    dollars_per_hour: of the whole machine.
    examples_per_row: of a packed batch; 1 where the data was not read.
  """

  model: str
  run: RunConfig
  machine: topologies.Topology
  train: Compiled
  decode: Compiled | None
  checks: tuple[Check, ...] = ()
  dollars_per_hour: float | None = None
  examples_per_row: float = 1.0

  @property
  def fits(self) -> bool | None:
    """Whether training and validation fit; None where the machine's memory is not known."""
    answers = [one.fits for one in _compiled(self)]
    return False if False in answers else None if None in answers else True

  @property
  def seconds(self) -> estimate.Seconds | None:
    """The estimated time of an update."""
    return _seconds(self.train, self.machine)

  @property
  def flops(self) -> int:
    """FLOPs of an update by all devices."""
    lengths = self.run.data.task_feature_lengths
    rows = self.run.data.batch_size
    return flops.train_step(self.run.model, rows, lengths['inputs'], lengths['targets'])


def program_of(
  run: RunConfig, topology: str, step: str = 'train', is_timed: bool = False
) -> Program:
  """The update or the decoding of a run, as the program to compile.

  Args:
    run: the settings.
    topology: the machine.
    step: one of programs.STEPS.
    is_timed: whether the program is run too, on a CPU.

  Raises:
    ValueError: a mesh that does not fit the machine, or a batch that the mesh does not divide.
  """
  run = with_layers(run, topology)
  lengths = run.data.task_feature_lengths
  training = step == 'train'
  return Program(
    step=step,
    topology=topology,
    mesh=run.mesh,
    model=run.model,
    optimizer=run.optimizer,
    objective=run.objective,
    rows=run.data.batch_size if training else run.eval.batch_size,
    inputs=lengths['inputs'],
    targets=lengths['targets'] if training else run.eval.max_decode_length,
    num_microbatches=run.num_microbatches if training else 1,
    is_timed=is_timed,
  )


def with_layers(run: RunConfig, topology: str) -> RunConfig:
  """The run with the program for its layers that it would have on a machine, where it is 'auto'."""
  machine = topologies.topology(topology)
  model, _ = layer_choice.chosen(run, machine, programs.mesh_sizes(run.mesh, machine))
  return dataclasses.replace(run, model=model)


def make(
  model: str,
  run: RunConfig,
  topology: str,
  compiler: Compiler = programs.compile_program,
  show: Callable[[str], None] = lambda text: None,
  **known,
) -> Plan:
  """Compiles a run's programs for a machine.

  Args:
    model: its name, for people.
    run: its settings, with vocab_size.
    topology: the machine.
    compiler: of its programs.
    show: gets a sentence where layers are planned otherwise than `dss train` chooses.
    **known: further attributes of the Plan.

  Raises:
    ValueError: an impossible mesh or batch, or a compiler that is not installed.
    ChildProcessError: the compiler crashed.
  """
  decoding = program_of(run, topology, 'decode') if run.eval.period else None
  run, train = _update(run, topology, compiler, show)
  if decoding:
    decoding = dataclasses.replace(decoding, model=run.model)
  decode = compiler(decoding) if decoding and train.fits is not False else None
  return Plan(model, run, topologies.topology(topology), train, decode, **known)


def _update(
  run: RunConfig, topology: str, compiler: Compiler, show: Callable[[str], None]
) -> tuple[RunConfig, Compiled]:
  """The run with its layers, and its compiled update.

  They are those that `dss train` would choose. Where these do not fit, or take more memory to
  compile than there is, they are those that need least.
  """
  chosen = with_layers(run, topology)
  scanned = dataclasses.replace(run, model=layer_choice.with_scanned(run.model))
  if chosen.model == scanned.model:
    return chosen, compiler(program_of(chosen, topology))
  why = too_large_to_compile(chosen.model) if scanned.model.scan_layers else ''
  if not why:
    compiled, why = _tried(program_of(chosen, topology), compiler)
    if compiled:
      return chosen, compiled
  show(
    f'planned with --scan_layers={scanned.model.scan_layers} '
    f'--remat_policy={scanned.model.remat_policy}, which `dss train` needs to be told too: with '
    f'{chosen.model.scan_layers} and {chosen.model.remat_policy}, {why}.'
  )
  return scanned, compiler(program_of(scanned, topology))


def _tried(program: Program, compiler: Compiler) -> tuple[Compiled | None, str]:
  """The program if it compiles and fits, else None and why not."""
  try:
    compiled = compiler(program)
  except ChildProcessError as error:
    return None, str(error).rstrip('.')
  if compiled.fits is False:
    return None, f'a device needs {compiled.memory.total / 1e9:.1f} GB or more, which it lacks'
  return compiled, ''


def too_large_to_compile(model: t5.T5Config) -> str:
  """Why this machine had better not compile the network with unrolled layers; '' if it may."""
  needed, available = layer_choice.compiler_bytes(model), memory.available_bytes()
  if available is None or needed <= available:
    return ''
  return (
    f'the compiler takes some {needed / 1e9:.0f} GB of this machine, where '
    f'{available / 1e9:.0f} GB are free'
  )


def to_json(plan: Plan) -> dict[str, Any]:
  """The plan as one object of plain values; unknown values are None."""
  run, machine, seconds = plan.run, plan.machine, plan.seconds
  costs = plan.train.costs
  return {
    'model': plan.model,
    'parameters': flops.parameters(run.model),
    'topology': machine.name,
    'devices': machine.devices,
    'hosts': machine.hosts,
    'mesh': programs.mesh_sizes(run.mesh, machine),
    'batch': run.data.batch_size,
    'num_microbatches': run.num_microbatches,
    'task_feature_lengths': dict(run.data.task_feature_lengths),
    'remat_policy': run.model.remat_policy,
    'scan_layers': run.model.scan_layers,
    'optimizer': run.optimizer.name,
    'fits': plan.fits,
    'problem': plan.train.problem or (plan.decode.problem if plan.decode else ''),
    'hbm_bytes_per_device': _hbm(plan),
    'model_flops': plan.flops,
    'collectives': [dataclasses.asdict(one) for one in costs.collectives] if costs else None,
    'estimated_cycles': costs and costs.cycles,
    'estimated_seconds': seconds and dataclasses.asdict(seconds),
    'estimated_step_seconds': seconds and seconds.step,
    'estimated_mfu': seconds and _mfu(plan.flops, seconds.step, machine),
    'estimated_decode_seconds': _decode_seconds(plan),
    'compile_seconds': sum(one.seconds for one in _compiled(plan)),
    'compile_cpu_seconds': sum(one.cpu_seconds for one in _compiled(plan)),
    'host_ram_bytes': _host_ram(plan),
    'cost': _cost(plan),
    'checks': {one.name: one.text for one in plan.checks},
    'recommended': recommended(plan.model, machine.name),
  }


def recommended(model: str, topology: str) -> dict[str, Any] | None:
  """Mesh, batch and remat policy of the shipped table for a model on a machine, or None."""
  for row in table():
    if (row['model'], row['topology']) == (model, topology) and row['fits']:
      return {name: row[name] for name in ('mesh', 'batch', 'remat_policy')}
  return None


def table() -> list[dict[str, Any]]:
  """The shipped table of models on machines: objects of `to_json`."""
  file = importlib.resources.files(__package__) / TABLE
  return json.loads(file.read_text()) if file.is_file() else []


def _compiled(plan: Plan) -> list[Compiled]:
  return [one for one in (plan.train, plan.decode) if one is not None]


def _seconds(compiled: Compiled | None, machine: topologies.Topology) -> estimate.Seconds | None:
  if compiled is None or compiled.costs is None or machine.clock is None:
    return None
  return estimate.seconds(compiled.costs, machine)


def _decode_seconds(plan: Plan) -> float | None:
  seconds = _seconds(plan.decode, plan.machine)
  return seconds.step if seconds else None


def _hbm(plan: Plan) -> dict[str, int | None]:
  memory = plan.train.memory
  decoding = plan.decode.memory.total if plan.decode else None
  return {
    **dataclasses.asdict(memory),
    'total': max(memory.total, decoding or 0),
    'train_total': memory.total,
    'decode_total': decoding,
  }


def _mfu(model_flops: int, seconds: float, machine: topologies.Topology) -> float:
  assert machine.peak_flops
  return model_flops / (seconds * machine.peak_flops * machine.devices)


def _host_ram(plan: Plan) -> dict[str, int | None]:
  """Memory of one host: for a copy of its part of the state, to save it, and for the compiler."""
  memory, machine = plan.train.memory, plan.machine
  of_device = memory.parameters + memory.optimizer
  # Replicas are saved once: no host copies more than the whole state.
  whole = 4 * flops.parameters(plan.run.model) * of_device // memory.parameters
  saving = min(of_device * machine.devices // machine.hosts, whole)
  compiling = max(one.host_bytes for one in _compiled(plan))
  return {
    'checkpoint': saving,
    'compiler': compiling,
    'total': saving + compiling,
    'limit': machine.host_ram_bytes,
  }


def _cost(plan: Plan) -> dict[str, float] | None:
  if plan.dollars_per_hour is None or plan.seconds is None:
    return None
  hours = plan.run.train_steps * plan.seconds.step / 3600
  dollars = hours * plan.dollars_per_hour
  examples = plan.run.train_steps * plan.run.data.batch_size * plan.examples_per_row
  return {
    'dollars_per_hour': plan.dollars_per_hour,
    'train_steps': plan.run.train_steps,
    'hours': hours,
    'dollars': dollars,
    'examples_per_row': plan.examples_per_row,
    'examples_per_dollar': examples / dollars,
  }
