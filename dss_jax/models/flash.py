"""T5's attention on a TPU as one kernel: the logits [b, h, q, k] never leave the chip.

Owns the Pallas kernels, forward and backward, and where they are used. They compute the same as
layers.attend, up to rounding.

A step of a kernel has one pair of heads (128 lanes) of a few rows, with all their keys: at the
lengths of T5 these fit into VMEM, so there is no online softmax. It has all queries too, or else
as many as fit; further calls take the rest. Rows are the inner axis of the grid: a head's bias is
read once for all rows, and its gradient is summed in VMEM. Queries, keys and values stay
[b, length, heads * head_dim], as the projections produce and expect them.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from dss_jax.models.attention_inputs import Bias, Segments
from dss_jax.parallel import devices, partitioning

LANES = 128
BLOCK = 256  # queries that a kernel works on at a time
MASKED = -1e10
MEBIBYTE = 2**20


def usable(rows: int, queries: int, keys: int, num_heads: int, head_dim: int) -> bool:
  """Whether attention of these sizes runs as a kernel on the devices of `jax.set_mesh`."""
  if devices.attention_vmem() is None:
    return False
  parts, heads = _divided(jax.sharding.get_abstract_mesh())
  if rows % parts or num_heads % heads or LANES % head_dim or queries % LANES or keys % LANES:
    return False
  pairs = num_heads // heads % (LANES // head_dim) == 0
  return pairs and _queries_of_a_call(rows // parts, queries, keys, head_dim) > 0


def attend(
  qkv: Sequence[Float[Array, 'b _ i']],
  segments: Segments,
  bias: Bias | None,
  keep: Float[Array, 'b h k'] | None,
  head_dim: int,
) -> Float[Array, 'b q i']:
  """As layers.attend_segments, for `usable` sizes; i is heads * head_dim.

  Args:
    qkv: queries [b, q, i], keys [b, k, i] and values [b, k, i] of all heads, side by side.
    segments: of queries and keys.
    bias: a relative position bias, or None.
    keep: the factor of dropout for each key's weight, or None.
    head_dim: of each head.
  """
  mesh = jax.sharding.get_abstract_mesh()
  rows, (heads,) = partitioning.BATCH, partitioning.spec(('heads',))
  wide = PartitionSpec(*rows, None, heads)
  by_head = None if bias is None else PartitionSpec(heads)
  specs = (
    (wide, wide, wide),
    (rows, rows),
    (by_head, by_head),
    None if keep is None else PartitionSpec(*rows, heads),
  )
  dense = None if bias is None else jax.lax.stop_gradient(bias.values[0])
  buckets = None if bias is None else bias.buckets

  def of_device(qkv, of, bias, keep):
    (query, key, value), (of_query, of_key), (dense, embedding) = qkv, of, bias
    size = _queries_of_a_call(query.shape[0], query.shape[1], key.shape[1], head_dim)
    outs = []
    for first in range(0, query.shape[1], size):
      at, seen = slice(first, first + size), slice(first + size if segments.causal else None)
      outs.append(
        _attend(
          head_dim,
          first if segments.causal else None,
          None if buckets is None else buckets[at, seen],
          (query[:, at], key[:, seen], value[:, seen]),
          (of_query[:, at], of_key[:, seen]),
          (None if dense is None else dense[:, at, seen], embedding),
          None if keep is None else keep[:, :, seen],
        )
      )
    return jnp.concatenate(outs, axis=1)

  return jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=wide, check_vma=False)(
    tuple(qkv),
    (segments.query, jnp.where(segments.key > 0, segments.key, -1)),
    (dense, None if bias is None else bias.embedding),
    keep,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(head_dim: int, first: int | None, buckets, qkv, segments, bias, keep):
  """One call on one device; causal with the first query at position `first`, unless that is None.

  The bias's gradient is that of its small embedding, which is cheap to sum over devices. The dense
  form would need a sum over devices of [heads, q, k] in every layer.
  """
  return _forward(head_dim, first, qkv, segments, bias[0], keep)


def _attend_fwd(head_dim: int, first: int | None, buckets, qkv, segments, bias, keep):
  out = _forward(head_dim, first, qkv, segments, bias[0], keep)
  return out, (buckets, qkv, segments, bias, keep)


def _attend_bwd(head_dim: int, first: int | None, residuals, grad_out):
  buckets, qkv, segments, (dense, embedding), keep = residuals
  *grads, grad_bias = _backward(head_dim, first, qkv, segments, dense, keep, grad_out)
  grad_embedding = None
  if dense is not None:
    one_hot = jax.nn.one_hot(buckets, embedding.shape[-1], dtype=grad_bias.dtype)
    grad_embedding = jnp.einsum('hqk,qkn->hn', grad_bias, one_hot)
  return None, tuple(grads), None, (_zeros(dense), grad_embedding), _zeros(keep)


def _zeros(array):
  return None if array is None else jnp.zeros_like(array)


_attend.defvjp(_attend_fwd, _attend_bwd)


def _forward(head_dim: int, first: int | None, qkv, segments, dense, keep):
  call = _Call(head_dim, first, qkv, segments, dense, keep)
  wide = qkv[0].shape, qkv[0].dtype
  return call(_forward_kernel, 2, (), [wide], [call.wide(qkv[0])])[0]


def _backward(head_dim: int, first: int | None, qkv, segments, dense, keep, grad_out):
  call = _Call(head_dim, first, qkv, segments, dense, keep)
  outs = [(array.shape, array.dtype) for array in qkv]
  specs = [call.wide(array) for array in qkv]
  if dense is not None:
    outs.append((dense.shape, jnp.float32))
    specs.append(call.by_head(dense))
  sums = [pltpu.VMEM((qkv[1].shape[1], LANES), jnp.float32)] * 2
  results = call(_backward_kernel, 5, (grad_out,), outs, specs, sums)
  return (*results, None) if dense is None else results


class _Call:
  """A grid of (groups of heads, groups of rows) over the arrays of one attention."""

  def __init__(self, head_dim: int, first: int | None, qkv, segments, dense, keep):
    (rows, queries, inner), keys = qkv[0].shape, qkv[1].shape[1]
    self.heads = LANES // head_dim  # of a step
    self.rows = _rows_of_a_step(rows, queries, keys, head_dim)
    self.grid = (inner // LANES, rows // self.rows)
    self.work = rows * queries * keys * inner  # multiply-adds of one matrix product
    operand = jnp.float32 if devices.multiplies_float32_only() else qkv[0].dtype
    self.static = {'head_dim': head_dim, 'first': first, 'operand': operand}
    self.vmem = _vmem(self.rows, queries, keys, head_dim)
    self.inputs = [*qkv, segments[0][:, None, :], segments[1][:, None, :]]
    self.specs = [self.wide(array) for array in qkv]
    self.specs += [
      pl.BlockSpec((self.rows, 1, length), lambda h, b: (b, 0, 0)) for length in (queries, keys)
    ]
    self.has = dense is not None, keep is not None
    if dense is not None:
      self.inputs.append(dense)
      self.specs.append(self.by_head(dense))
    if keep is not None:
      self.inputs.append(keep.reshape(rows, -1, self.heads, keys))
      block = (self.rows, 1, self.heads, keys)
      self.specs.append(pl.BlockSpec(block, lambda h, b: (b, h, 0, 0)))

  def wide(self, array) -> pl.BlockSpec:
    """The block of [b, length, heads * head_dim] that a step sees."""
    return pl.BlockSpec((self.rows, array.shape[1], LANES), lambda h, b: (b, 0, h))

  def by_head(self, array) -> pl.BlockSpec:
    """The block of [heads, q, k] that a step sees: one for all rows."""
    return pl.BlockSpec((self.heads, *array.shape[1:]), lambda h, b: (h, 0, 0))

  def __call__(self, kernel, products: int, more, outs, out_specs, scratch=()):
    inputs = (*more, *self.inputs)
    sizes = sum(a.size * a.dtype.itemsize for a in inputs)
    sizes += sum(jax.ShapeDtypeStruct(*out).size * jnp.dtype(out[1]).itemsize for out in outs)
    return pl.pallas_call(
      functools.partial(kernel, has=self.has, **self.static),
      grid=self.grid,
      in_specs=[*(self.wide(array) for array in more), *self.specs],
      out_specs=out_specs,
      out_shape=[jax.ShapeDtypeStruct(*out) for out in outs],
      scratch_shapes=scratch,
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=('parallel', 'arbitrary'), vmem_limit_bytes=self.vmem
      ),
      cost_estimate=pl.CostEstimate(
        flops=2 * products * self.work,
        transcendentals=self.work // self.static['head_dim'],
        bytes_accessed=sizes,
      ),
      interpret=INTERPRET,
      name=kernel.__name__.strip('_'),
    )(*inputs)


INTERPRET = False  # tests run the kernels on a CPU


def _divided(mesh) -> tuple[int, int]:
  """How many parts a mesh shards rows into, and heads."""
  (rows,), (heads,) = partitioning.BATCH, partitioning.spec(('heads',))
  return math.prod(mesh.shape[axis] for axis in rows), mesh.shape[heads]


def _queries_of_a_call(rows: int, queries: int, keys: int, head_dim: int) -> int:
  """All queries, or the largest part of them that fits into VMEM; 0 if none does."""
  sizes = (queries // parts for parts in range(1, queries // LANES + 1) if queries % parts == 0)
  usable = (n for n in sizes if n % LANES == 0 and _rows_of_a_step(rows, n, keys, head_dim))
  return next(usable, 0)


def _rows_of_a_step(rows: int, queries: int, keys: int, head_dim: int) -> int:
  """Rows of a step: short ones share a step, to spread its fixed cost; 0 if not even one fits."""
  limit = min(8, max(1, 512 * 512 // (queries * keys)))
  vmem = devices.attention_vmem() or math.inf
  shares = (n for n in range(limit, 0, -1) if rows % n == 0)
  return next((n for n in shares if _vmem(n, queries, keys, head_dim) <= vmem), 0)


def _vmem(rows: int, queries: int, keys: int, head_dim: int) -> int:
  """Bytes of VMEM for a step of `rows`, in float32: the blocks of a bias and its gradient, and of
  all that is [rows, length, heads * head_dim], doubled for double buffering; and the temporaries
  of one head."""
  bias = 2 * (LANES // head_dim) * queries * keys
  wide = rows * (3 * queries + 4 * keys) * LANES
  return 4 * (2 * (bias + wide) + 6 * min(BLOCK, queries) * keys) + 2 * MEBIBYTE


def _read(refs, has, extra: int):
  """The references by name: (more inputs), q, k, v, segments of both, bias, keep, (outputs)."""
  more, refs = refs[:extra], list(refs[extra:])
  fixed, refs = refs[:5], refs[5:]
  bias = refs.pop(0) if has[0] else None
  keep = refs.pop(0) if has[1] else None
  return more, fixed, bias, keep, refs


def _weights(query, key, mask, bias):
  """softmax(query · key + bias) where `mask`, in float32, before it is divided by its sums."""
  logits = jax.lax.dot_general(
    query, key, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
  )
  if bias is not None:
    logits += bias
  logits = jnp.where(mask, logits, MASKED)
  weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
  return weights, jnp.sum(weights, axis=-1, keepdims=True)


def _mask(query_segments, key_segments, start, first: int | None):
  """[q, k] from [1, q] and [1, k]; the first query's position is `first + start`, where causal."""
  mask = query_segments.reshape(-1, 1) == key_segments
  if first is not None:
    at = functools.partial(jax.lax.broadcasted_iota, jnp.int32, mask.shape)
    mask &= at(1) <= at(0) + start + first
  return mask


def _forward_kernel(*refs, has, head_dim: int, first: int | None, operand):
  _, (q, k, v, query_segments, key_segments), bias, keep, (out,) = _read(refs, has, 0)

  @_each_block(q)
  def block(row, start, at):
    mask = _mask(query_segments[row, :, at], key_segments[row], start, first)
    for head in range(LANES // head_dim):
      lanes = pl.ds(head * head_dim, head_dim)
      query, key, value = (
        x.astype(operand) for x in (q[row, at, lanes], k[row, :, lanes], v[row, :, lanes])
      )
      weights, total = _weights(query, key, mask, None if bias is None else bias[head, at])
      if keep is not None:
        weights *= keep[row, 0, pl.ds(head, 1), :]
      y = jnp.dot(weights.astype(operand), value, preferred_element_type=jnp.float32)
      out[row, at, lanes] = (y / total).astype(out.dtype)


def _backward_kernel(*refs, has, head_dim: int, first: int | None, operand):
  (grad,), (q, k, v, query_segments, key_segments), bias, keep, outs = _read(refs, has, 1)
  grad_q, grad_k, grad_v, *grad_bias, sum_k, sum_v = outs
  product = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
  of_rows, of_columns, transposed = (((1,), (1,)), (((1,), (0,))), (((0,), (0,))))
  if grad_bias:

    @pl.when(pl.program_id(1) == 0)
    def no_bias_yet():
      grad_bias[0][...] = jnp.zeros_like(grad_bias[0])

  @_each_block(q)
  def block(row, start, at):
    @pl.when(start == 0)
    def no_sums_yet():
      sum_k[...] = jnp.zeros_like(sum_k)
      sum_v[...] = jnp.zeros_like(sum_v)

    mask = _mask(query_segments[row, :, at], key_segments[row], start, first)
    for head in range(LANES // head_dim):
      lanes = pl.ds(head * head_dim, head_dim)
      query, key, value, grad_out = (
        x.astype(operand)
        for x in (q[row, at, lanes], k[row, :, lanes], v[row, :, lanes], grad[row, at, lanes])
      )
      weights, total = _weights(query, key, mask, None if bias is None else bias[head, at])
      weights *= 1.0 / total
      kept, grad_kept = weights, product(grad_out, value, (of_rows, ((), ())))
      if keep is not None:
        scale = keep[row, 0, pl.ds(head, 1), :]
        kept, grad_kept = weights * scale, grad_kept * scale
      sum_v[:, lanes] += product(kept.astype(operand), grad_out, (transposed, ((), ())))
      grad_logits = weights * (grad_kept - jnp.sum(grad_kept * weights, axis=-1, keepdims=True))
      grad_logits = jnp.where(mask, grad_logits, 0.0)
      if grad_bias:
        grad_bias[0][head, at] += grad_logits
      grad_logits = grad_logits.astype(operand)
      grad_q[row, at, lanes] = product(grad_logits, key, (of_columns, ((), ()))).astype(
        grad_q.dtype
      )
      sum_k[:, lanes] += product(grad_logits, query, (transposed, ((), ())))

    @pl.when(start == q.shape[1] - at.size)
    def write_sums():
      grad_k[row] = sum_k[...].astype(grad_k.dtype)
      grad_v[row] = sum_v[...].astype(grad_v.dtype)


def _each_block(q):
  """Runs a function of (row, first query, their slice) for blocks of the queries of each row.

  One after the other in a loop: unrolled, they would take minutes to compile.
  """
  size = min(BLOCK, q.shape[1])
  blocks = q.shape[1] // size

  def run(body):
    def step(number, carry):
      start = pl.multiple_of((number % blocks) * size, size)
      body(number // blocks, start, pl.ds(start, size))
      return carry

    jax.lax.fori_loop(0, q.shape[0] * blocks, step, None)

  return run
