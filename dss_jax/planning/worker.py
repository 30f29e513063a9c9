"""`python -m dss_jax.planning.worker`: compiles one program; JSON on standard input and output.

Owns the way from a `Program` to the compiler: abstract arguments on the devices of a machine that
need not be present, the functions that training and validation run, and the compiler's answer.
"""

import json
import math
import os
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from dss_jax.inference import decoding
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.planning import hlo
from dss_jax.planning.programs import Compiled, Memory, Program, needed_bytes, peak_host_bytes
from dss_jax.settings import json_form
from dss_jax.settings.topologies import topology
from dss_jax.training import optimizers, steps, train_state


def main() -> int:
  """Reads a program, writes {'fits': ...} or {'error': ...}; returns the exit code."""
  try:
    program = json_form.from_dict(Program, json.loads(sys.stdin.read()))
    answer = json_form.to_dict(compile_here(program))
  except ValueError as error:
    answer = {'error': str(error)}
  print('\n' + json.dumps(answer), flush=True)
  return 0


def compile_here(program: Program) -> Compiled:
  """Compiles a program in this process.

  Raises:
    ValueError: libtpu is not installed.
    JaxRuntimeError: the compiler fails for another reason than lack of memory.
  """
  devices = devices_of(program.topology)
  mesh = partitioning.make_mesh(program.mesh, devices)
  limit = _limit(program.topology, devices[0])
  state = abstract_state(program, mesh)
  start, cpu_start = time.perf_counter(), time.process_time()
  problem, compiled, analysis = '', None, None
  with jax.set_mesh(mesh):
    try:
      compiled = lower(program, mesh, state).compile()
      analysis = compiled.memory_analysis()
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      problem = str(error).splitlines()[0]
  memory = _memory(program, mesh, state, limit, analysis, problem)
  platform = topology(program.topology).platform
  fits = False if problem else None if limit is None else memory.total <= limit
  is_run = program.is_timed and platform == 'cpu' and fits
  loops = program.targets if program.step == 'decode' else 1
  return Compiled(
    fits=fits,
    memory=memory,
    costs=hlo.costs(compiled.as_text() or '', loops) if compiled and platform == 'tpu' else None,
    seconds=time.perf_counter() - start,
    cpu_seconds=time.process_time() - cpu_start,
    host_bytes=peak_host_bytes(),
    problem=problem,
    measured_seconds=_seconds_of(compiled, program, mesh) if is_run else None,
  )


def lower(program: Program, mesh: Mesh, state: train_state.TrainState) -> jax.stages.Lowered:
  """The step that training or validation runs, on abstract arguments."""
  batch = abstract_batch(program, mesh)
  if program.step == 'train':
    step = steps.make_train_step(
      program.model,
      program.objective,
      _optimizer(program),
      seed=0,
      num_microbatches=program.num_microbatches,
    )
    return train_state.jit_update(step, state).lower(state, batch)
  return decoding.decode.lower(
    program.model,
    state.params,
    batch['encoder_input_tokens'],
    batch['encoder_segment_ids'],
    decoding.Decoding(max_length=program.targets),
  )


def _seconds_of(compiled: Any, program: Program, mesh: Mesh) -> float:
  """Seconds of an update of full rows: the median of three after a first one."""
  state = train_state.create(program.model, _optimizer(program), mesh, seed=0)
  batch = {
    name: jax.device_put(jnp.ones(leaf.shape, leaf.dtype), leaf.sharding)
    for name, leaf in abstract_batch(program, mesh).items()
  }
  times = []
  for _ in range(4):
    start = time.perf_counter()
    state, metrics = compiled(state, batch)
    jax.block_until_ready((state, metrics))
    times.append(time.perf_counter() - start)
  return statistics.median(times[1:])


def abstract_state(program: Program, mesh: Mesh) -> train_state.TrainState:
  """The state of training, without values."""
  return train_state.abstract(program.model, _optimizer(program), mesh)


def _optimizer(program: Program) -> optax.GradientTransformation:
  return optimizers.make_optimizer(program.optimizer, t5.logical_axes(program.model))


def abstract_batch(program: Program, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
  """The arrays of a batch, as in the table of data/pipeline.py, without values."""
  inputs, targets = (program.rows, program.inputs), (program.rows, program.targets)
  shapes = {
    'encoder_input_tokens': inputs,
    'encoder_segment_ids': inputs,
    'decoder_input_tokens': targets,
    'decoder_target_tokens': targets,
    'decoder_segment_ids': targets,
    'decoder_task_ids': targets,
    'decoder_loss_weights': targets,
  }
  place = partitioning.batch_sharding(mesh)
  return {
    name: jax.ShapeDtypeStruct(
      shape, jnp.float32 if name == 'decoder_loss_weights' else jnp.int32, sharding=place
    )
    for name, shape in shapes.items()
  }


def bytes_on_device(tree: Any) -> int:
  """Bytes of a tree of ShapeDtypeStructs that the fullest device holds."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def _memory(program: Program, mesh, state, limit: int | None, analysis, problem: str) -> Memory:
  parameters, optimizer = bytes_on_device(state.params), bytes_on_device(state.opt_state)
  training = program.step == 'train'
  gradients = parameters if training else 0
  batch = bytes_on_device(abstract_batch(program, mesh))
  code = temporaries = 0
  if analysis is not None:
    code = analysis.generated_code_size_in_bytes
    kept = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    temporary = analysis.temp_size_in_bytes + kept
    gradients = min(gradients, temporary)
    temporaries = temporary - gradients
    total = analysis.argument_size_in_bytes + temporary + code
  else:
    needed = needed_bytes(problem)[0] or 0
    # The compiler stops at the first kind of memory that does not fit: this is a lower bound.
    state_bytes = parameters + (optimizer if training else 0)
    whole = needed if 'Used' in problem else needed + state_bytes
    total = max(whole, state_bytes)
    temporaries = max(total - state_bytes - gradients, 0)
  if not training:
    total += optimizer  # it stays on the device while validation decodes
  return Memory(limit, parameters, optimizer, gradients, batch, temporaries, code, total)


def devices_of(name: str) -> list[Any]:
  """The devices of a machine, which need not be present, for the compiler.

  Raises:
    ValueError: libtpu is not installed.
  """
  machine = topology(name)
  if machine.platform != 'tpu':
    return jax.devices('cpu')[:1]
  from jax.experimental import topologies

  assert machine.libtpu_name  # every TPU has one
  try:
    description = topologies.get_topology_desc(
      platform='tpu',
      topology_name=machine.libtpu_name,
      chip_config_name=machine.libtpu_chip_config,
    )
  except (RuntimeError, ImportError, OSError) as error:
    raise ValueError(
      f'the compiler for TPUs is not available ({str(error).splitlines()[0][:120]}); '
      "pip install 'dss_jax[plan]' installs libtpu, for Linux on x86-64."
    ) from error
  return list(description.devices)


def _limit(name: str, device: Any) -> int | None:
  """Bytes that a program may use on a device; from the error when one needs far too many."""
  platform = topology(name).platform
  if platform == 'cpu':
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  if platform == 'gpu':
    return None
  place = jax.sharding.SingleDeviceSharding(device)
  huge = jax.ShapeDtypeStruct((2**38,), jnp.float32, sharding=place)
  try:
    jax.jit(lambda x: x + 1).lower(huge).compile()
  except jax.errors.JaxRuntimeError as error:
    return needed_bytes(str(error))[1]
  return None


if __name__ == '__main__':
  sys.exit(main())
