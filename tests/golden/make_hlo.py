"""Makes hlo_v5e-8.txt.xz: what the compiler for TPUs makes of a fully sharded loop of six layers.

  python tests/golden/make_hlo.py

Needs libtpu. tests/test_plan_hlo.py has the sums that were worked out by hand on this very text, so
whoever makes it anew does them anew.
"""

import lzma
import os
import pathlib

from dss_jax.planning import programs

os.environ.update(programs.ENVIRONMENT)

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, PartitionSpec

FILE = pathlib.Path(__file__).with_name('hlo_v5e-8.txt.xz')
LAYERS, EMBED, ROWS = 6, 512, 1024


def step(weights, x):
  """x [rows, embed] through the layers [layers, embed, embed]; the sum of what comes out."""
  y, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)
  return y.astype(jnp.float32).sum()


def main() -> None:
  """Compiles and writes."""
  devices = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x4').devices
  mesh = jax.make_mesh((8,), ('fsdp',), axis_types=(AxisType.Auto,), devices=devices)
  place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))  # noqa: E731
  weights = jax.ShapeDtypeStruct((LAYERS, EMBED, EMBED), jnp.bfloat16, sharding=place(None, 'fsdp'))
  x = jax.ShapeDtypeStruct((ROWS, EMBED), jnp.bfloat16, sharding=place('fsdp'))
  module, *parts = jax.jit(step).lower(weights, x).compile().as_text().split('\n\n')
  # Without the table of files and lines, which has this machine's paths.
  text = (
    '\n\n'.join([module, *(part for part in parts if part.strip('\n')[:1] in ('%', 'E'))]) + '\n'
  )
  FILE.write_bytes(lzma.compress(text.encode(), preset=9))
  print(len(text), FILE.stat().st_size)


if __name__ == '__main__':
  main()
