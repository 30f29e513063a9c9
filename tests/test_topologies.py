"""The table of machines, against Google's documents and against what libtpu itself says."""

import dataclasses
import itertools
import os
import subprocess
import sys

import pytest

from dss_jax.parallel import partitioning
from dss_jax.settings import topologies
from dss_jax.settings.topologies import TOPOLOGIES, topology

# Read off the pages of Cloud TPU's documentation: accelerator type, hosts, chips, JAX devices,
# GiB of HBM and bfloat16 TFLOP/s of a device.
DOCUMENTED = {
  'v3-8': ('v3-8', 1, 4, 8, 16, 61.5),
  'v4-8': ('v4-8', 1, 4, 4, 32, 275),
  'v4-32': ('v4-32', 4, 16, 16, 32, 275),
  'v4-64': ('v4-64', 8, 32, 32, 32, 275),
  'v4-128': ('v4-128', 16, 64, 64, 32, 275),
  'v5e-8': ('v5litepod-8', 1, 8, 8, 16, 197),
  'v5e-16': ('v5litepod-16', 4, 16, 16, 16, 197),
  'v5e-64': ('v5litepod-64', 16, 64, 64, 16, 197),
  'v5p-8': ('v5p-8', 1, 4, 4, 95, 459),
  'v5p-64': ('v5p-64', 8, 32, 32, 95, 459),
  'v6e-8': ('v6e-8', 1, 8, 8, 32, 918),
  'v6e-64': ('v6e-64', 16, 64, 64, 32, 918),
}


def test_slices_are_what_the_documents_say():
  slices = {name: one for name, one in TOPOLOGIES.items() if one.platform == 'tpu'}
  found = {
    name: (
      one.accelerator_type,
      one.hosts,
      one.chips,
      one.devices,
      one.hbm_bytes / topologies.GIB,
      one.peak_flops / 1e12,
    )
    for name, one in slices.items()
  }
  assert found == DOCUMENTED


def test_every_topology_knows_its_name():
  assert all(topology(name).name == name for name in TOPOLOGIES)


def test_an_unknown_name_is_answered_with_a_near_one():
  with pytest.raises(ValueError, match=r"no topology 'a100': there are cpu, gpu, v3-8"):
    topology('a100')
  with pytest.raises(ValueError, match=r'did you mean v5e-16\?'):
    topology('v5e-1')
  with pytest.raises(ValueError, match=r'did you mean v5e-8\?'):
    topology('v5litepod-8')


@pytest.mark.parametrize('name', DOCUMENTED)
def test_libtpu_makes_as_many_devices(name):
  """A process of its own: libtpu wants to be asked without its metadata server."""
  pytest.importorskip('libtpu')
  one = topology(name)
  code = f"""
from jax.experimental import topologies
from dss_jax.settings import gin_files
from dss_jax.parallel import partitioning
found = topologies.get_topology_desc(
  platform='tpu', topology_name='{one.libtpu_name}', chip_config_name='{one.libtpu_chip_config}')
print(len(found.devices), found.devices[0].device_kind)
gin_files.parse(['--gin_file=models/t5_1_1/small.gin', '--topology={name}'], 'runs/plan.gin')
mesh = partitioning.make_mesh(gin_files.configured('plan.PlanConfig').run.mesh, found.devices)
assert mesh.size == len(found.devices)
"""
  environment = {**os.environ, 'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
  run = [sys.executable, '-c', code]
  done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  count, _, kind = done.stdout.splitlines()[-1].partition(' ')
  assert int(count) == one.devices
  generation = {'v5e': 'v5 lite', 'v5p': 'v5', 'v6e': 'v6 lite'}
  assert kind == f'TPU {generation.get(name.split("-")[0], name.split("-")[0])}'


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a mesh is laid out by, of a TPU that is not here."""

  id: int
  coords: tuple[int, int, int]
  device_kind: str = 'TPU v6 lite'
  platform: str = 'tpu'
  process_index: int = 0
  core_on_chip: int = 0


def test_a_mesh_may_divide_the_rows_of_a_slice():
  """8 x 8 chips as 4 x 16: each group of 16 is of neighbours, two rows of 8."""
  places = itertools.product(range(8), range(8))
  chips = [Chip(number, (x, y, 0)) for number, (y, x) in enumerate(places)]
  mesh = partitioning.make_mesh(partitioning.MeshConfig(4, 16, 1), chips)
  assert dict(mesh.shape) == {'data': 4, 'fsdp': 16, 'tensor': 1}
  for group in mesh.devices[:, :, 0]:
    xs, ys = ({chip.coords[axis] for chip in group} for axis in (0, 1))
    assert len(xs) * len(ys) == 16 and min(len(xs), len(ys)) >= 2
