"""The one place that asks what the devices are.

Owns every decision that depends on the kind of a device: each function names a decision, and
callers never see a device's name. The decisions change speed, and results only by rounding.
"""

import os
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

MEBIBYTE = 2**20
# Bytes of VMEM that an attention kernel may take, for chips where we saw the compiler accept them.
ATTENTION_VMEM: dict[str, int] = {
  'TPU v3': 16 * MEBIBYTE,
  'TPU v4': 16 * MEBIBYTE,
  'TPU v5': 64 * MEBIBYTE,
  'TPU v5p': 64 * MEBIBYTE,
  'TPU v5 lite': 96 * MEBIBYTE,
  'TPU v6 lite': 96 * MEBIBYTE,
}
# Without the first, products with gathered weights become loops over the shards, which are slower.
# The others gather weights during computation, as v5 and later do by default.
TPU_UPDATE_OPTIONS: dict[str, Any] = {
  'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000',
  'xla_enable_async_all_gather': 'true',
  'xla_tpu_enable_async_collective_fusion': 'true',
  'xla_tpu_enable_async_collective_fusion_fuse_all_gather': 'true',
  'xla_tpu_enable_async_collective_fusion_multiple_steps': 'true',
  'xla_tpu_overlap_compute_collective_tc': 'true',
}


def kind() -> str | None:
  """The device kind of `jax.set_mesh`, real or only compiled for; None without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty or mesh.abstract_device is None else mesh.abstract_device.device_kind


def flattens_matmul() -> bool:
  """Whether activations [b, l, i] times a weight is computed as a product of two matrices.

  With three axes, XLA on CPU transposes everything that the activations were computed from, element
  by element, for the weight's gradient. TPUs are slower with two.
  """
  return kind() == 'cpu'


def unrolls_decoding() -> bool:
  """Whether the decoder's stack is split into layers once per batch instead of at every token.

  On CPUs a scan copies each layer's weights at every token.
  """
  return kind() == 'cpu'


def shrinks_decoding() -> bool:
  """Whether a batch halves once half of its rows have ended.

  A CPU's time for a token goes with the rows, a TPU's with the weights that it reads.
  """
  return kind() == 'cpu' and jax.sharding.get_abstract_mesh().size == 1


def decoding_threads(mesh: Mesh | None) -> int:
  """How many batches are decoded side by side.

  XLA computes what one thread gives to a CPU one after the other, on few cores where products are
  small. Several devices have collectives, whose order has to be the same everywhere.
  """
  found = _devices(mesh)
  return min(cores(), 4) if len(found) == 1 and found[0].platform == 'cpu' else 1


def cores() -> int:
  """The cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def narrowest_inputs(mesh: Mesh | None) -> int:
  """Tokens of the narrowest batch to decode: a CPU's time goes with them; all are compiled."""
  return 16 if _devices(mesh)[0].platform == 'cpu' else 32


def _devices(mesh: Mesh | None) -> list[jax.Device]:
  return jax.devices()[:1] if mesh is None else list(mesh.devices.flat)


def attention_vmem() -> int | None:
  """Bytes of VMEM that an attention kernel may take; None where there is no kernel."""
  return ATTENTION_VMEM.get(kind() or '')


def multiplies_float32_only() -> bool:
  """Whether a kernel's matrix products only take float32, which they round to bfloat16."""
  return kind() == 'TPU v3'


def update_options(sharding: NamedSharding) -> dict[str, Any] | None:
  """The compiler's options for an update on the devices of `sharding`; None for its defaults."""
  devices: list[jax.Device] = list(sharding.device_set)
  return TPU_UPDATE_OPTIONS if devices[0].platform == 'tpu' else None
