"""What attention's kernels take on TPUs by their instructions, beside what plans charge for them.

The compiler for TPUs, on this machine's CPU, has no estimate for kernels. `dss plan` and
tpu_steps.py charge FLOPs at 60 % of peak. Here each kernel is compiled alone and the instructions
(bundles, about one a cycle) of its schedule are counted: those of one row and block of queries, for
every row and block. What a step of the grid has besides is counted as often, so times are rather
too long; waiting for memory is not in them.

  python benchmarks/kernel_cycles.py            attention of T5 1.1 base, forward and backward
"""

import argparse
import functools
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp

from dss_jax import partitioning, topologies
from dss_jax.models import flash, layers
from dss_jax.planning import estimate, programs, worker

SLICES = ('v3-8', 'v4-8', 'v5e-8', 'v5p-8', 'v6e-8')
ROWS, HEADS, HEAD_DIM = 16, 12, 64  # rows a device
ATTENTIONS = {  # queries, keys, has a bias, is causal
  'encoder': (512, 512, True, False),
  'decoder to encoder': (128, 512, False, False),
  'decoder': (128, 128, True, True),
}
PRODUCTS = 2 + 5  # of matrices, forward and backward


def main() -> int:
  """Prints a table; a process for every slice, since libtpu reads its options once."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('slices', nargs='*', help=f'of {", ".join(SLICES)}', default=SLICES)
  parser.add_argument('--into', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.into:
    of_slice(options.slices[0], pathlib.Path(options.into))
    return 0
  print('| slice | attention of a layer | charged, ms | counted, ms |\n|---|---|---|---|')
  for name in options.slices:
    with tempfile.TemporaryDirectory() as folder:
      flags = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
      command = [sys.executable, __file__, name, f'--into={folder}']
      environment = os.environ | programs.ENVIRONMENT | {'LIBTPU_INIT_ARGS': flags}
      done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
      raise SystemExit(done.stderr)
    print(done.stdout, end='', flush=True)
  return 0


def of_slice(name: str, folder: pathlib.Path) -> None:
  """Compiles the kernels of every attention; prints a line for each."""
  machine = topologies.topology(name)
  assert machine.clock and machine.peak_flops
  devices = worker.devices_of(name)
  mesh = partitioning.make_mesh(partitioning.MeshConfig(len(devices), 1, 1), devices)
  cores = 2 if machine.libtpu_chip_config == 'megacore' else 1  # of a device; they share the grid
  for what, sizes in ATTENTIONS.items():
    before = set(folder.iterdir())
    with jax.set_mesh(mesh):
      runs = _compile(mesh, *sizes)
    new = set(folder.iterdir()) - before
    cycles = runs * sum(_bundles(kernel, new) for kernel in ('forward_kernel', 'backward_kernel'))
    flops = PRODUCTS * 2 * ROWS * sizes[0] * sizes[1] * HEADS * HEAD_DIM
    charged = flops / (estimate.OF_PEAK_FLOPS * machine.peak_flops)
    counted = cycles / cores / machine.clock
    print(f'| {name} | {what} | {1e3 * charged:.2f} | {1e3 * counted:.2f} |', flush=True)


def _compile(mesh, queries: int, keys: int, has_bias: bool, causal: bool) -> int:
  """Compiles attention with its gradients; how often a device runs what a schedule shows once."""
  rows, inner = ROWS * mesh.size, HEADS * HEAD_DIM
  divided = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(('data', 'fsdp')))
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  array = functools.partial(jax.ShapeDtypeStruct, sharding=divided)

  def attention(qkv, embedding, of_query, of_key, keep, grad):
    distance = jnp.arange(keys)[None] - jnp.arange(queries)[:, None]
    buckets = layers.relative_position_bucket(distance, not causal, 32, 128)

    def forward(qkv, embedding):
      bias = layers.Bias(embedding[:, buckets][None], embedding, buckets) if has_bias else None
      return flash.attend(qkv, layers.Segments(of_query, of_key, causal), bias, keep, HEAD_DIM)

    out, pull = jax.vjp(forward, qkv, embedding)
    return out, pull(grad)

  wide = [array((rows, n, inner), jnp.bfloat16) for n in (queries, keys, keys)]
  jax.jit(attention).lower(
    tuple(wide),
    jax.ShapeDtypeStruct((HEADS, 32), jnp.float32, sharding=whole),
    array((rows, queries), jnp.int32),
    array((rows, keys), jnp.int32),
    array((rows, HEADS, keys), jnp.float32),
    wide[0],
  ).compile()
  of_a_block = min(flash.BLOCK, flash._queries_of_a_call(ROWS, queries, keys, HEAD_DIM))
  return inner // flash.LANES * ROWS * (queries // of_a_block)


def _bundles(kernel: str, files: set[pathlib.Path]) -> int:
  """Of the longest schedule of a kernel: where it is several calls, they are nearly alike."""
  schedules = (one for one in files if one.match(f'*{kernel}*schedule-analysis_final_bundles*'))
  total = r'total scheduled bundles:\s+(\d+)'
  return max(int(re.findall(total, one.read_text())[0]) for one in schedules)


if __name__ == '__main__':
  sys.exit(main())
