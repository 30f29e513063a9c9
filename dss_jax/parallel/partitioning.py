"""Where arrays are: the mesh of devices, and one table from logical axes to mesh axes.

Owns meshes and shardings. Knows nothing of what the arrays mean.
"""

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from dss_jax.settings import fields

AXES = ('data', 'fsdp', 'tensor')

# Every logical axis that a weight can have, and the mesh axes that shard it. Weights and the
# optimizer's state are sharded so; `gather` gathers what a computation needs.
RULES: Mapping[str, tuple[str, ...]] = {
  'vocab': ('tensor',),
  'heads': ('tensor',),
  'mlp': ('tensor',),
  'embed': ('fsdp', 'data'),
  'layers': (),
  'buckets': (),
}
BATCH = PartitionSpec(('data', 'fsdp'))


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How many devices shard the batch, the weights' embed axis, and heads, mlp and vocabulary.

  Attributes:
    data: shards of the batch; parameters are sharded over them, and gathered once per step, in the
      compute dtype. -1 takes all remaining devices.
    fsdp: more shards of the batch; parameters are gathered layer by layer, except in decoding,
      where a token's activations are moved instead.
    tensor: devices that work on the same rows, each on its part of heads, mlp and vocabulary.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1

  def __post_init__(self):
    fields.check(self)
    if (self.data != -1 and self.data < 1) or min(self.fsdp, self.tensor) < 1:
      raise ValueError(
        'MeshConfig (MESH_DATA, MESH_FSDP, MESH_TENSOR): sizes must be at least 1, or -1 for '
        f'MESH_DATA, not {self.data} x {self.fsdp} x {self.tensor}.'
      )


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """The mesh over all devices, or those given, in the order data, fsdp, tensor.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  sizes = mesh_sizes(config, jax.device_count() if devices is None else len(devices))
  # `jax.make_mesh` splits a slice's physical axes on v5e only: 4 x 16 on the 8 x 8 of a v6e fails.
  placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_sizes(config: MeshConfig, count: int) -> tuple[int, int, int]:
  """The mesh's sizes on this number of devices, in the order data, fsdp, tensor.

  Raises:
    ValueError: they do not multiply to the number of devices.
  """
  data = config.data
  if data == -1:
    data = max(count // (config.fsdp * config.tensor), 1)
  if data * config.fsdp * config.tensor != count:
    raise ValueError(
      f'MeshConfig (MESH_DATA, MESH_FSDP, MESH_TENSOR) must multiply to the {count} devices of the '
      f'run, not {data} x {config.fsdp} x {config.tensor}; MESH_DATA = -1 takes what is left.'
    )
  return data, config.fsdp, config.tensor


def spec(axes: tuple[str | None, ...], without: Collection[str] = ()) -> PartitionSpec:
  """The mesh axes that shard a weight with these logical axes.

  Args:
    axes: the logical axes.
    without: mesh axes to leave out.

  Raises:
    ValueError: a logical axis has no rule, or one mesh axis would shard two of them.
  """
  unknown = [axis for axis in axes if axis is not None and axis not in RULES]
  if unknown:
    raise ValueError(f'logical axis {unknown[0]!r} has no rule; there are {sorted(RULES)}.')
  divided = [
    tuple(name for name in RULES[axis] if name not in without) if axis else () for axis in axes
  ]
  used = [name for by in divided for name in by]
  if len(used) != len(set(used)):
    raise ValueError(f'one mesh axis would shard two of the logical axes {axes}: {divided}.')
  return PartitionSpec(*(by[0] if len(by) == 1 else by or None for by in divided))


def shardings(mesh: Mesh, shapes: Any, axes: Any) -> Any:
  """A tree of NamedShardings for weights of these shapes and logical axes.

  If its mesh axes do not divide a dimension evenly, fewer of them shard it, or none does.
  """
  return jax.tree.map(
    lambda shape, names: NamedSharding(mesh, _fitting(mesh, shape.shape, spec(names))),
    shapes,
    axes,
  )


def _fitting(mesh: Any, shape: tuple[int, ...], wanted: PartitionSpec) -> PartitionSpec:
  """The part of a wanted sharding that divides the array's sizes evenly."""

  def fit(size: int, by: str | tuple[str, ...] | None):
    by = by if isinstance(by, tuple) else (by,) if by else ()
    while by and size % math.prod(mesh.shape[axis] for axis in by):
      by = by[:-1]
    return by[0] if len(by) == 1 else by or None

  return PartitionSpec(*map(fit, shape, wanted))


def gather(
  weight: jax.Array,
  axes: tuple[str | None, ...],
  over: Collection[str],
  gathered: Collection[str] = (),
  dtype: Any = None,
) -> jax.Array:
  """Gathers a weight, within jit, over some axes of the mesh of `jax.set_mesh`.

  The weight is sent as `dtype`; its gradient is summed as `dtype` and sharded like the weight. The
  constraints are explicit because a compiler might otherwise move activations instead, or send the
  complete gradient to all devices.

  Args:
    weight: sharded by `spec(axes)`.
    axes: its logical axes.
    over: mesh axes to gather over.
    gathered: mesh axes that it has been gathered over before.
    dtype: of the result; None for the weight's own.
  """
  mesh = jax.sharding.get_abstract_mesh()
  dtype = jnp.dtype(dtype or weight.dtype)
  if mesh.empty or all(mesh.shape[axis] == 1 for axis in over):
    return weight.astype(dtype)
  before = _fitting(mesh, weight.shape, spec(axes, gathered))
  after = _fitting(mesh, weight.shape, spec(axes, {*gathered, *over}))
  return _gather(before, after, dtype, weight.dtype, weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _gather(before, after, dtype, own_dtype, weight):
  place = jax.lax.with_sharding_constraint
  return place(place(weight.astype(dtype), before), after)


def _gather_fwd(before, after, dtype, own_dtype, weight):
  return _gather(before, after, dtype, own_dtype, weight), None


def _gather_bwd(before, after, dtype, own_dtype, _, grad):
  return (jax.lax.with_sharding_constraint(grad, before).astype(own_dtype),)


_gather.defvjp(_gather_fwd, _gather_bwd)


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of arrays that every device holds completely."""
  return NamedSharding(mesh, PartitionSpec())


def on_host(shapes: Any) -> Any:
  """A tree of ShapeDtypeStructs, all placed on the first CPU device of this host."""
  here = jax.sharding.SingleDeviceSharding(jax.local_devices(backend='cpu')[0])
  return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), shapes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of arrays whose first axis is the row of a batch."""
  return NamedSharding(mesh, BATCH)


def place(
  x: jax.Array, rows: Collection[str] = ('data', 'fsdp'), embed: str | None = None
) -> jax.Array:
  """Shards `x` [rows, ..., embed], within jit, over these axes of the mesh of `jax.set_mesh`.

  The compiler chooses for the axes between, and for the last one if `embed` is None. It chooses for
  all of `x` without a mesh, or if one of the two sizes does not divide evenly.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or x.shape[0] % math.prod(mesh.shape[axis] for axis in rows):
    return x
  if embed is not None and x.shape[-1] % mesh.shape[embed]:
    return x
  free = PartitionSpec.UNCONSTRAINED
  between = (free,) * (x.ndim - 2)
  return jax.lax.with_sharding_constraint(x, PartitionSpec(tuple(rows), *between, embed or free))


def check_batch(mesh: Mesh | AbstractMesh, rows: int, setting: str) -> None:
  """Refuses a number of rows that the mesh's batch axes do not divide evenly."""
  parts = mesh.shape['data'] * mesh.shape['fsdp']
  if rows % parts:
    raise ValueError(f'{setting} {rows} is not a multiple of data x fsdp = {parts} mesh devices.')


def local_parts(mesh: Mesh) -> tuple[tuple[int, ...], int]:
  """The batch's equal parts that this process's devices hold, ascending, and how many there are.

  A process may hold several, and several processes hold the same ones if `tensor` spans them.
  """
  count = mesh.shape['data'] * mesh.shape['fsdp']
  places = batch_sharding(mesh).addressable_devices_indices_map((count,)).values()
  return tuple(sorted({(index or (slice(None),))[0].start or 0 for index in places})), count


def put_batch(mesh: Mesh, arrays: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Global arrays, sharded over the batch axes of the mesh.

  Args:
    mesh: where they go.
    arrays: the rows of this process's `local_parts`, one part after the other.
  """
  sharding = batch_sharding(mesh)
  parts, count = local_parts(mesh)

  def put(local: np.ndarray) -> jax.Array:
    rows = len(local) // len(parts)

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
      assert index is not None
      place = parts.index((index[0].start or 0) // rows)
      return local[place * rows : (place + 1) * rows]

    return jax.make_array_from_callback((rows * count, *local.shape[1:]), sharding, part)

  return {name: put(array) for name, array in arrays.items()}
