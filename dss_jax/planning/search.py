"""The best mesh and the largest batch: sensible ones are compiled and compared.

Owns the choice of candidates. Every answer is the compiler's: nothing is reported to fit without
having been compiled.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dss_jax.models import flops, t5
from dss_jax.parallel.partitioning import MeshConfig
from dss_jax.planning import estimate, plans, programs
from dss_jax.planning.programs import Compiled
from dss_jax.runs import layer_choice
from dss_jax.runs.run_config import RunConfig
from dss_jax.settings import topologies

LANES = 128  # of a TPU's vectors; a gradient in narrower parts is all-reduced, not reduce-scattered
BYTES_PER_PARAMETER = {'adamw': 16, 'adafactor': 8}  # parameter, optimizer state, gradient
MOST_ROWS_PER_PART = 256


class Candidate(NamedTuple):
  """A mesh and a batch that were tried.

  Attributes:
    mesh: of all devices.
    batch: rows of the global batch.
    compiled: the update; None where the compiler crashed.
    rows_per_second: estimated; 0 where it does not fit.
  """

  mesh: MeshConfig
  batch: int
  compiled: Compiled | None
  rows_per_second: float = 0.0


Said = Callable[[Candidate], None]


def meshes(model: t5.T5Config, machine: topologies.Topology, optimizer: str) -> list[MeshConfig]:
  """Meshes worth compiling: replicas, fully sharded, and that with heads divided by 2, 4 and 8.

  Meshes on which the state alone exceeds the memory are left out.
  """
  worth_trying = []
  for tensor in (1, 2, 4, 8):
    if machine.devices % tensor or model.num_heads % tensor or model.mlp_dim % tensor:
      continue
    rest = machine.devices // tensor
    sharded = max(part for part in _divisors(rest) if part == 1 or model.emb_dim // part >= LANES)
    for fsdp in dict.fromkeys((1, sharded) if tensor == 1 else (sharded,)):
      size = flops.parameters(model) * BYTES_PER_PARAMETER[optimizer] / (fsdp * tensor)
      if machine.hbm_bytes is None or size < machine.hbm_bytes:
        worth_trying.append(MeshConfig(rest // fsdp, fsdp, tensor))
  return worth_trying


def largest_batch(
  run: RunConfig,
  topology: str,
  mesh: MeshConfig,
  compiler: plans.Compiler = programs.compile_program,
  show: Said = lambda candidate: None,
) -> Candidate | None:
  """The largest batch that fits on a mesh, of rows per part that are powers of two.

  Two small batches show how much memory a row needs. The batch that follows from that is compiled,
  and halved until it fits.

  Returns:
    The candidate, or None where not even one row a part fits.
  """
  parts = mesh.data * mesh.fsdp * run.num_microbatches

  def attempt(rows: int) -> Candidate:
    candidate = _compiled(run, topology, mesh, parts * rows, compiler)
    show(candidate)
    return candidate

  one = attempt(1)
  if not one.rows_per_second:
    return None
  two = attempt(2)
  if not two.rows_per_second:
    return one
  assert one.compiled and two.compiled and two.compiled.memory.limit
  first, second = one.compiled.memory, two.compiled.memory
  a_row = max(second.total - first.total, 1)
  room = two.compiled.memory.limit - second.total
  most = 2
  while most < MOST_ROWS_PER_PART and a_row * (2 * most - 2) <= room:
    most *= 2
  for rows in (most // 2**halved for halved in range(most.bit_length() - 2)):
    candidate = attempt(rows)
    if candidate.rows_per_second:
      return candidate
  return two


def candidates(
  run: RunConfig,
  topology: str,
  compiler: plans.Compiler = programs.compile_program,
  show: Said = lambda candidate: None,
) -> Iterator[Candidate]:
  """The largest batch of the run's own mesh and of every mesh worth trying on which one fits."""
  machine = topologies.topology(topology)
  own = programs.mesh_sizes(run.mesh, machine)
  others = meshes(run.model, machine, run.optimizer.name)
  for mesh in dict.fromkeys((MeshConfig(**own), *others)):
    candidate = largest_batch(run, topology, mesh, compiler, show)
    if candidate is not None:
      yield candidate


def fastest_layers(
  run: RunConfig,
  topology: str,
  compiler: plans.Compiler = programs.compile_program,
  show: Callable[[str], None] = lambda text: None,
) -> RunConfig:
  """The run with the program for its layers that ends it first, its compilation included.

  Programs that do not fit are left out; settings other than 'auto' are kept. Layers are scanned
  where nothing fits.
  """
  tried = {}
  scanned = layer_choice.with_scanned(run.model)
  for scan, policy in ((True, scanned.remat_policy), (False, 'none'), (False, 'minimal')):
    model = dataclasses.replace(
      run.model,
      scan_layers=scan if run.model.scan_layers == layer_choice.AUTO else run.model.scan_layers,
      remat_policy=policy if run.model.remat_policy == layer_choice.AUTO else scanned.remat_policy,
    )
    if model in tried:
      continue
    program = plans.program_of(dataclasses.replace(run, model=model), topology)
    tried[model] = _seconds_of_run(program, run.train_steps, compiler)
    show(f'{layers_text(model)}: ' + (
      'does not fit' if math.isinf(tried[model]) else
      f'{tried[model] / 3600:.2f} h for {run.train_steps:,} updates with compilation (est.)'
    ))  # fmt: skip
  best = min(tried, key=lambda model: tried[model])
  return dataclasses.replace(run, model=scanned if math.isinf(tried[best]) else best)


def layers_text(model: t5.T5Config) -> str:
  """The flags of `dss train` for the program of its layers."""
  return f'--scan_layers={model.scan_layers} --remat_policy={model.remat_policy}'


def _seconds_of_run(program: programs.Program, steps: int, compiler: plans.Compiler) -> float:
  """Compilation and all updates; infinite where the program does not fit or does not compile."""
  try:
    compiled = compiler(program)
  except ChildProcessError:
    return math.inf
  if not compiled.fits or compiled.costs is None:
    return math.inf
  machine = topologies.topology(program.topology)
  return compiled.seconds + steps * estimate.seconds(compiled.costs, machine).step


def with_settings(run: RunConfig, mesh: MeshConfig, batch: int) -> RunConfig:
  """The run on another mesh with another batch; validation's batch is rounded up for the mesh."""
  parts = mesh.data * mesh.fsdp
  eval_rows = -(-run.eval.batch_size // parts) * parts
  return dataclasses.replace(
    run,
    mesh=mesh,
    data=dataclasses.replace(run.data, batch_size=batch),
    eval=dataclasses.replace(run.eval, batch_size=eval_rows),
  )


def _compiled(run, topology: str, mesh: MeshConfig, batch: int, compiler) -> Candidate:
  program = plans.program_of(with_settings(run, mesh, batch), topology)
  try:
    compiled = compiler(program)
  except ChildProcessError:  # the compiler itself crashed: this mesh cannot be used
    return Candidate(mesh, batch, None)
  if not compiled.fits or compiled.costs is None:
    return Candidate(mesh, batch, compiled)
  seconds = estimate.seconds(compiled.costs, topologies.topology(topology)).step
  return Candidate(mesh, batch, compiled, batch / seconds)


def _divisors(number: int) -> list[int]:
  return [part for part in range(1, number + 1) if number % part == 0]
