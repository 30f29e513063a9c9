"""What attention's kernels take on TPUs by their instructions, beside what plans charge for them.

The compiler for TPUs, on this machine's CPU, has no estimate for kernels. `dss plan` and
tpu_steps.py charge FLOPs at 60 % of peak, or bytes at 80 % of bandwidth. Here each kernel is
compiled alone and the instructions (bundles, about one a cycle) of its schedule are counted: those
of one row and block of queries, for every row and block. What a step of the grid has besides is
counted as often, so times are rather too long; waiting for memory is not in them.

  python benchmarks/kernel_cycles.py            a layer of T5 1.1 base, 16 rows a device
  python benchmarks/tpu_steps.py --json > FILE; python benchmarks/kernel_cycles.py FILE
                                                a whole update, and its ratio to T5X's
"""

import argparse
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import pairs
import tpu_steps

from dss_jax.models import flash, layers
from dss_jax.models.attention_inputs import Bias, Segments
from dss_jax.parallel import partitioning
from dss_jax.planning import estimate, hlo, programs, worker
from dss_jax.settings import topologies

SLICES = ('v3-8', 'v4-8', 'v5e-8', 'v5p-8', 'v6e-8')
ROWS, HEADS, HEAD_DIM = 16, 12, 64  # rows a device
INPUTS, TARGETS = tpu_steps.INPUTS, tpu_steps.TARGETS
ATTENTIONS = {  # queries, keys, has a bias, is causal
  'encoder': (INPUTS, INPUTS, True, False),
  'decoder to encoder': (TARGETS, INPUTS, False, False),
  'decoder': (TARGETS, TARGETS, True, True),
}
KERNELS = ('forward_kernel', 'backward_kernel')


def main() -> int:
  """Prints a table; a process for every row, since libtpu reads its options once."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('steps', nargs='?', metavar='FILE', help='what `tpu_steps.py --json` printed')
  parser.add_argument('--of', nargs=4, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.of:
    name, rows, heads, folder = options.of
    print(json.dumps(milliseconds(name, int(rows), int(heads), pathlib.Path(folder))))
  elif options.steps:
    rows = map(json.loads, pathlib.Path(options.steps).read_text().splitlines())
    print(pairs.table([of_update(row) for row in rows if 'seconds' in row]))  # those that fit
  else:
    print(pairs.table([{'slice': name} | _compiled(name, ROWS, HEADS) for name in SLICES]))
  return 0


def of_update(found: dict[str, Any]) -> dict[str, Any]:
  """A row of tpu_steps.py with its kernels' instructions in place of what was charged."""
  model = tpu_steps.model_of(found['model'], found['topology'])
  data, fsdp, _ = found['mesh']
  layer = _compiled(found['topology'], found['batch'] // (data * fsdp), model.num_heads)
  depths = [model.num_encoder_layers, model.num_decoder_layers, model.num_decoder_layers]
  charged, counted = (
    sum(n * layer[f'{name}, {what}'] for n, name in zip(depths, ATTENTIONS, strict=True))
    for what in ('charged', 'counted')
  )
  seconds = found['seconds'] + (counted - charged) / 1e3
  theirs = found['t5x'] or found['t5x_scanned']
  return {
    'model': found['model'],
    'slice': found['topology'],
    'batch': found['batch'],
    'kernels charged, ms': charged,
    'kernels counted, ms': counted,
    'step with these, s': seconds,
    'of T5X': seconds / theirs['seconds'],
  }


@functools.cache
def _compiled(name: str, rows: int, heads: int) -> dict[str, float]:
  """What `milliseconds` says, in a process of its own."""
  with tempfile.TemporaryDirectory() as folder:
    flags = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
    command = [sys.executable, __file__, '--of', name, str(rows), str(heads), folder]
    environment = os.environ | programs.ENVIRONMENT | {'LIBTPU_INIT_ARGS': flags}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
  if done.returncode:
    raise SystemExit(done.stderr)
  return json.loads(done.stdout)


def milliseconds(name: str, rows: int, heads: int, folder: pathlib.Path) -> dict[str, float]:
  """Of each attention of a layer, forward and backward, on a device: charged and counted."""
  machine = topologies.topology(name)
  assert machine.clock
  devices = worker.devices_of(name)
  mesh = partitioning.make_mesh(partitioning.MeshConfig(len(devices), 1, 1), devices)
  cores = 2 if machine.libtpu_chip_config == 'megacore' else 1  # of a device; they share the grid
  found = {}
  for what, sizes in ATTENTIONS.items():
    before = set(folder.iterdir())
    with jax.set_mesh(mesh):
      text, runs = _compile(mesh, rows, heads, *sizes)
    new = set(folder.iterdir()) - before
    found[f'{what}, charged'] = 1e3 * sum(
      one.runs * estimate.of_work(one.flops, one.bytes, machine)
      for one in hlo.work(text)
      if one.instruction.name.startswith(KERNELS)
    )
    cycles = runs * sum(_bundles(kernel, new) for kernel in KERNELS)
    found[f'{what}, counted'] = 1e3 * cycles / cores / machine.clock
  return found


def _compile(mesh, own_rows: int, heads: int, queries: int, keys: int, has_bias, causal):
  """Compiles attention with its gradients; its text, and how often a device runs a schedule."""
  rows, inner = own_rows * mesh.size, heads * HEAD_DIM
  divided = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(('data', 'fsdp')))
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  array = functools.partial(jax.ShapeDtypeStruct, sharding=divided)

  def attention(qkv, embedding, of_query, of_key, keep, grad):
    distance = jnp.arange(keys)[None] - jnp.arange(queries)[:, None]
    buckets = layers.relative_position_bucket(distance, not causal, 32, 128)

    def forward(qkv, embedding):
      bias = Bias(embedding[:, buckets][None], embedding, buckets) if has_bias else None
      return flash.attend(qkv, Segments(of_query, of_key, causal), bias, keep, HEAD_DIM)

    out, pull = jax.vjp(forward, qkv, embedding)
    return out, pull(grad)

  wide = [array((rows, n, inner), jnp.bfloat16) for n in (queries, keys, keys)]
  lowered = jax.jit(attention).lower(
    tuple(wide),
    jax.ShapeDtypeStruct((heads, 32), jnp.float32, sharding=whole),
    array((rows, queries), jnp.int32),
    array((rows, keys), jnp.int32),
    array((rows, heads, keys), jnp.float32),
    wide[0],
  )
  text = lowered.compile().as_text() or ''
  of_a_block = min(flash.BLOCK, flash._queries_of_a_call(own_rows, queries, keys, HEAD_DIM))
  return text, inner // flash.LANES * own_rows * (queries // of_a_block)


def _bundles(kernel: str, files: set[pathlib.Path]) -> int:
  """Of the longest schedule of a kernel: where it is several calls, they are nearly alike."""
  schedules = (one for one in files if one.match(f'*{kernel}*schedule-analysis_final_bundles*'))
  total = r'total scheduled bundles:\s+(\d+)'
  return max(int(re.findall(total, one.read_text())[0]) for one in schedules)


if __name__ == '__main__':
  sys.exit(main())
