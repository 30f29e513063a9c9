"""The programs of a run, compiled for an absent machine: what they need, or why they fail.

Owns the compiler's task and its answer. The compiler runs in a process of its own
(`worker.py`): libtpu wants settings that no other process should have, its memory is returned, and
if it crashes the plan says so. What the answer means in seconds is estimate.py's.
"""

import dataclasses
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import time
from typing import Any

import dss_jax
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.planning.hlo import Collective, Costs
from dss_jax.settings import json_form, topologies
from dss_jax.training import losses, optimizers

STEPS = ('train', 'decode')
WORKER = ['-m', 'dss_jax.planning.worker']
# For libtpu: do not look for a TPU's metadata server, and share the library's lock file.
ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
}
# By default the stacks of libtpu's compiler threads overflow on large networks for v4 (0.0.42).
LIBTPU_ARGUMENTS = '--fibers_default_thread_stack_size=4194304'


@dataclasses.dataclass(frozen=True)
class Program:
  """One step of a run on a machine.

  Attributes:
    step: of STEPS; 'train' is the update, 'decode' greedy decoding as validation does it.
    topology: a name of `dss_jax.settings.topologies`.
    mesh: of its devices.
    model: the network, with its vocab_size.
    optimizer: the update; of 'train'.
    objective: what is minimised; of 'train'.
    rows: of the global batch.
    inputs: encoder tokens of a row.
    targets: decoder tokens of a row; of 'decode' the most tokens of an output.
    num_microbatches: parts that a batch is computed in; of 'train'.
    is_timed: whether it is run as well, to measure its time; on a CPU only.
  """

  step: str
  topology: str
  mesh: partitioning.MeshConfig
  model: t5.T5Config
  optimizer: optimizers.OptimizerConfig
  objective: losses.Objective
  rows: int
  inputs: int
  targets: int
  num_microbatches: int = 1
  is_timed: bool = False

  def __post_init__(self):
    sizes = mesh_sizes(self.mesh, topologies.topology(self.topology))
    parts = sizes['data'] * sizes['fsdp']
    if self.rows // self.num_microbatches % parts:
      name = {'train': 'BATCH_SIZE / NUM_MICROBATCHES', 'decode': 'EVAL_BATCH_SIZE'}[self.step]
      raise ValueError(
        f'{name} is a multiple of data x fsdp = {parts} mesh devices, '
        f'not {self.rows // self.num_microbatches}; MESH_TENSOR takes devices that share rows.'
      )


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on one device; of a program that does not fit, only `total` is more than an estimate.

  Attributes:
    limit: what a program may use; None where the machine decides.
    parameters: float32.
    optimizer: its state.
    gradients: as large as the parameters; they are part of what the compiler calls temporary.
    batch: the rows that the device has.
    temporaries: activations and all else that exists within a step only, without the gradients.
    code: the program itself.
    total: of all that is in memory at once.
  """

  limit: int | None
  parameters: int
  optimizer: int
  gradients: int
  batch: int
  temporaries: int
  code: int
  total: int


@dataclasses.dataclass(frozen=True)
class Compiled:
  """The compiler's answer.

  Attributes:
    fits: None where no limit is known.
    memory: of one device.
    costs: of one run on one device; None where it was not compiled, or not for a TPU.
    seconds: of lowering and compiling.
    cpu_seconds: of all its threads: the time that one otherwise idle core would take.
    host_bytes: peak memory of the process that compiled.
    problem: why compiling failed, in the compiler's words; '' where it did not.
    measured_seconds: of one run; None where it was not run.
  """

  fits: bool | None
  memory: Memory
  costs: Costs | None
  seconds: float
  cpu_seconds: float
  host_bytes: int
  problem: str = ''
  measured_seconds: float | None = None


def mesh_sizes(mesh: partitioning.MeshConfig, machine: topologies.Topology) -> dict[str, int]:
  """The size of each axis of a mesh over all devices of a machine.

  Raises:
    ValueError: the sizes do not multiply to their number.
  """
  data = mesh.data
  if data == -1:
    data = max(machine.devices // (mesh.fsdp * mesh.tensor), 1)
  if data * mesh.fsdp * mesh.tensor != machine.devices:
    raise ValueError(
      f'MESH_DATA, MESH_FSDP and MESH_TENSOR must multiply to the {machine.devices} devices of '
      f'{machine.name}, not {data} x {mesh.fsdp} x {mesh.tensor}; MESH_DATA = -1 takes what is '
      'left.'
    )
  return {'data': data, 'fsdp': mesh.fsdp, 'tensor': mesh.tensor}


def compile_program(program: Program) -> Compiled:
  """Compiles one step of a run for its machine, in a process of its own; takes minutes.

  Raises:
    ValueError: libtpu is not installed.
    ChildProcessError: the compiler crashed.
  """
  start = time.perf_counter()
  arguments = f'{LIBTPU_ARGUMENTS} {os.environ.get("LIBTPU_INIT_ARGS", "")}'
  run = subprocess.run(
    [sys.executable, *WORKER],
    input=json.dumps(json_form.to_dict(program)),
    env={**os.environ, **ENVIRONMENT, **_safe_path(), 'LIBTPU_INIT_ARGS': arguments.strip()},
    capture_output=True,
    text=True,
  )
  answer = _last_json(run.stdout)
  if 'error' in answer:
    raise ValueError(answer['error'])
  if run.returncode or not answer:
    raise ChildProcessError(
      f'the compiler crashed on {program.step} for {program.topology} after '
      f'{time.perf_counter() - start:.0f} s ({_last_words(run)}); another mesh or batch may work.'
    )
  return compiled_of(answer)


def _safe_path() -> dict[str, str]:
  """Keeps the worker from importing files of the working directory, unless dss_jax is there."""
  home = pathlib.Path(dss_jax.__file__).parents[1]
  return {} if home == pathlib.Path.cwd() else {'PYTHONSAFEPATH': '1'}


def compiled_of(values: dict[str, Any]) -> Compiled:
  """The inverse of `json_form.to_dict`."""
  costs = values['costs']
  return Compiled(
    fits=values['fits'],
    memory=Memory(**values['memory']),
    costs=costs
    and Costs(
      cycles=costs['cycles'],
      without_estimate=tuple(map(tuple, costs['without_estimate'])),
      collectives=tuple(Collective(**one) for one in costs['collectives']),
    ),
    seconds=values['seconds'],
    cpu_seconds=values['cpu_seconds'],
    host_bytes=values['host_bytes'],
    problem=values['problem'],
    measured_seconds=values['measured_seconds'],
  )


def peak_host_bytes() -> int:
  """The peak memory of this process so far."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def needed_bytes(message: str) -> tuple[int | None, int | None]:
  """(needed, limit) of an out-of-memory error, each None where it does not say."""
  size = r'([\d.]+)([KMGT]?)'
  needed = re.search(rf'(?:Used|temporaries \() ?{size}', message)
  limit = re.search(rf'(?:available HBM \(|Used {size} of ){size}', message)
  return (
    _bytes(*needed.groups()) if needed else None,
    _bytes(*limit.groups()[-2:]) if limit else None,
  )


def _bytes(number: str, unit: str) -> int:
  return int(float(number) * 2 ** (10 * ' KMGT'.index(unit or ' ')))


def _last_json(output: str) -> dict[str, Any]:
  lines = [line for line in output.splitlines() if line.startswith('{')]
  try:
    return json.loads(lines[-1]) if lines else {}
  except ValueError:
    return {}


def _last_words(run: subprocess.CompletedProcess) -> str:
  """Why a process died, by its own output: its signal, or its last line."""
  crash = re.search(r'\*\*\* (SIG\w+.*?) (?:\(|received)', run.stderr)
  lines = [line for line in run.stderr.splitlines() if line.strip()]
  if crash:
    return crash[1]
  return f'exit status {run.returncode}' + (f': {lines[-1][:200]}' if lines else '')
