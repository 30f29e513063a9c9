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
MOST_BATCHES = 3  # that unrolled layers are compiled with


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
  """The run with the program for its layers that ends the same rows first, compilation included.

  Unrolled layers need more memory, so that their batch may have to be smaller. Programs that do not
  fit are left out; settings other than 'auto' are kept. Layers are scanned where nothing fits.
  """
  rows = run.train_steps * run.data.batch_size
  scanned = dataclasses.replace(run, model=layer_choice.with_scanned(run.model))
  best, least = scanned, math.inf
  for model in dict.fromkeys((scanned.model, *_unrolled(run.model, show))):
    one = dataclasses.replace(run, model=model)
    batches = _batches(one, topology) if model != scanned.model else [run.data.batch_size]
    for batch in batches:
      one = with_settings(one, one.mesh, batch)
      seconds = _seconds_of_rows(plans.program_of(one, topology), rows, compiler)
      show(f'{layers_text(model)} --batch_size={batch}: ' + (
        'does not fit' if math.isinf(seconds) else
        f'{seconds / 3600:.2f} h for {rows:,} rows with compilation (est.)'
      ))  # fmt: skip
      if seconds < least:
        best, least = one, seconds
      if math.isfinite(seconds):
        break
  return best


def _unrolled(model: t5.T5Config, show: Callable[[str], None]) -> Iterator[t5.T5Config]:
  """The network with unrolled layers that recompute little, as far as it has 'auto'."""
  scan = model.scan_layers if model.scan_layers != layer_choice.AUTO else False
  if not scan and (why := plans.too_large_to_compile(model)):
    show(f'unrolled layers are not tried: {why}')
    return
  scanned = layer_choice.with_scanned(model)
  for policy in ('none', 'minimal'):
    remat = policy if model.remat_policy == layer_choice.AUTO else scanned.remat_policy
    yield dataclasses.replace(model, scan_layers=scan, remat_policy=remat)


def _batches(run: RunConfig, topology: str) -> list[int]:
  """The run's batch and halves of it, from the largest on that may fit by estimate."""
  machine = topologies.topology(topology)
  mesh = programs.mesh_sizes(run.mesh, machine)
  parts = mesh['data'] * mesh['fsdp'] * run.num_microbatches
  batch, found = run.data.batch_size, list[int]()
  while batch and batch % parts == 0 and len(found) < MOST_BATCHES:
    if layer_choice.may_fit(with_settings(run, run.mesh, batch), machine, mesh):
      found.append(batch)
    batch = batch // 2 if batch % 2 == 0 else 0
  return found


def layers_text(model: t5.T5Config) -> str:
  """The flags of `dss train` for the program of its layers."""
  return f'--scan_layers={model.scan_layers} --remat_policy={model.remat_policy}'


def _seconds_of_rows(program: programs.Program, rows: int, compiler: plans.Compiler) -> float:
  """Compilation and all rows; infinite where the program does not fit or does not compile."""
  try:
    compiled = compiler(program)
  except ChildProcessError:
    return math.inf
  if not compiled.fits or compiled.costs is None:
    return math.inf
  machine = topologies.topology(program.topology)
  return compiled.seconds + rows / program.rows * estimate.seconds(compiled.costs, machine).step


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
