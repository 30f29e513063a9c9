"""One table of the machines that a job can run on: TPU slices, a GPU, this CPU.

Owns what the names mean to the Cloud TPU API, to GKE, to libtpu's compiler and to JAX. Sizes and
rates are the nominal ones of Google's documentation; a program may allocate a little less, and the
compiler reports how much. Imports nothing, so that a laptop can plan and launch.
"""

import dataclasses
import difflib

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Topology:
  """One machine, or one slice of a TPU pod.

  Attributes:
    name: ours, e.g. 'v5e-16'. As Google's names do, v3, v4 and v5p count TensorCores (two a chip),
      v5e and v6e count chips.
    platform: JAX's: 'tpu', 'gpu' or 'cpu'.
    chips: chips in the slice.
    devices: what `jax.device_count()` is: two a chip for v3; the two cores of a v4 or v5p chip are
      one device (megacore).
    hosts: virtual machines, each of which runs one process.
    accelerator_type: of the Cloud TPU API; None if there is nothing to rent.
    runtime_version: of the Cloud TPU API.
    libtpu_name: `topology_name` of `jax.experimental.topologies.get_topology_desc`.
    libtpu_chip_config: its `chip_config_name`.
    gke_machine_type: of a node pool; None if GKE has none.
    gke_topology: of a node pool: the slice's shape in chips.
    hbm_bytes: memory of one device; None where it depends on the machine.
    peak_flops: bfloat16 FLOP/s of one device; None where it depends on the machine.
    hbm_bandwidth: bytes/s of that memory; None as above.
    clock: Hz of the compiler's cycles; None as above.
    link_bandwidth: bytes/s that one device sends over one link to a neighbour; None as above.
    host_ram_bytes: memory of one host; None where it depends on the machine.
  """

  name: str
  platform: str
  chips: int = 1
  devices: int = 1
  hosts: int = 1
  accelerator_type: str | None = None
  runtime_version: str | None = None
  libtpu_name: str | None = None
  libtpu_chip_config: str = 'default'
  gke_machine_type: str | None = None
  gke_topology: str | None = None
  hbm_bytes: int | None = None
  peak_flops: float | None = None
  hbm_bandwidth: float | None = None
  clock: float | None = None
  link_bandwidth: float | None = None
  host_ram_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class _Chip:
  """A generation of TPUs. Memory in GiB, TFLOP/s, and GB/s of memory and link are of one chip.

  The clock, in GHz, is that of the papers on v2 to v4; of the later ones it follows from TFLOP/s
  and the number and size of the matrix units.
  """

  accelerator: str
  runtime_version: str
  libtpu: str
  hbm: int
  peak: float
  clock: float
  bandwidth: float
  link: float
  devices: int = 1
  libtpu_chip_config: str = 'default'


@dataclasses.dataclass(frozen=True)
class _Host:
  """A machine type of GKE, which the Cloud TPU API rents too. RAM in GB."""

  machine_type: str | None
  chips: int
  ram: int


_CHIPS = {
  'v3': _Chip('v3', 'tpu-ubuntu2204-base', 'v3', 32, 123, 0.94, 900, 70, devices=2),
  'v4': _Chip(
    'v4', 'tpu-ubuntu2204-base', 'v4', 32, 275, 1.05, 1228, 50, libtpu_chip_config='megacore'
  ),
  'v5e': _Chip('v5litepod', 'v2-alpha-tpuv5-lite', 'v5e', 16, 197, 1.5, 819, 50),
  'v5p': _Chip(
    'v5p', 'v2-alpha-tpuv5', 'v5', 95, 459, 1.75, 2765, 100, libtpu_chip_config='megacore'
  ),
  'v6e': _Chip('v6e', 'v2-alpha-tpuv6e', 'v6e', 32, 918, 1.75, 1640, 100),
}
_V3 = _Host(None, 4, 340)  # Cluster Toolkit knows no v3
_V4 = _Host('ct4p-hightpu-4t', 4, 407)
_V5E_4, _V5E_8 = _Host('ct5lp-hightpu-4t', 4, 192), _Host('ct5lp-hightpu-8t', 8, 384)
_V5P = _Host('ct5p-hightpu-4t', 4, 448)
_V6E_4, _V6E_8 = _Host('ct6e-standard-4t', 4, 720), _Host('ct6e-standard-8t', 8, 1440)
_SLICES = {
  'v3-8': ('2x2', _V3),
  'v4-8': ('2x2x1', _V4),
  'v4-32': ('2x2x4', _V4),
  'v4-64': ('2x4x4', _V4),
  'v4-128': ('4x4x4', _V4),
  'v5e-8': ('2x4', _V5E_8),
  'v5e-16': ('4x4', _V5E_4),
  'v5e-64': ('8x8', _V5E_4),
  'v5p-8': ('2x2x1', _V5P),
  'v5p-64': ('2x4x4', _V5P),
  'v6e-8': ('2x4', _V6E_8),
  'v6e-64': ('8x8', _V6E_4),
}


def _slice(name: str, shape: str, host: _Host) -> Topology:
  generation, size = name.split('-')
  chip = _CHIPS[generation]
  chips = 1
  for side in shape.split('x'):
    chips *= int(side)
  return Topology(
    name=name,
    platform='tpu',
    chips=chips,
    devices=chips * chip.devices,
    hosts=chips // host.chips,
    accelerator_type=f'{chip.accelerator}-{size}',
    runtime_version=chip.runtime_version,
    libtpu_name=f'{chip.libtpu}:{shape}',
    libtpu_chip_config=chip.libtpu_chip_config,
    gke_machine_type=host.machine_type,
    gke_topology=shape if host.machine_type else None,
    hbm_bytes=chip.hbm * GIB // chip.devices,
    peak_flops=chip.peak * 1e12 / chip.devices,
    hbm_bandwidth=chip.bandwidth * 1e9 / chip.devices,
    clock=chip.clock * 1e9,
    link_bandwidth=chip.link * 1e9 / chip.devices,
    host_ram_bytes=host.ram * 10**9,
  )


_DEVICE_KINDS = {
  'TPU v3': 'v3', 'TPU v4': 'v4', 'TPU v5 lite': 'v5e', 'TPU v5e': 'v5e', 'TPU v5': 'v5p',
  'TPU v5p': 'v5p', 'TPU v6 lite': 'v6e', 'TPU v6e': 'v6e',
}  # fmt: skip
TOPOLOGIES = {
  'cpu': Topology('cpu', 'cpu'),
  'gpu': Topology('gpu', 'gpu'),
  **{name: _slice(name, shape, host) for name, (shape, host) in _SLICES.items()},
}


def of_device_kind(kind: str) -> Topology | None:
  """Any slice of the chips that JAX calls so; None where there is none."""
  chip = _DEVICE_KINDS.get(kind)
  return next((one for name, one in TOPOLOGIES.items() if name.partition('-')[0] == chip), None)


def topology(name: str) -> Topology:
  """The topology of this name.

  Raises:
    ValueError: there is none; the message lists the topologies.
  """
  if name not in TOPOLOGIES:
    google_names = {machine.accelerator_type: ours for ours, machine in TOPOLOGIES.items()}
    near = google_names.get(name) or ''.join(difflib.get_close_matches(name, TOPOLOGIES, 1, 0.6))
    hint = f'did you mean {near}? ' if near else ''
    raise ValueError(f'no topology {name!r}: {hint}there are {", ".join(TOPOLOGIES)}.')
  return TOPOLOGIES[name]
