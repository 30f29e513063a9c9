"""The parts of a T5 network: norm, dropout, relative position bias, attention, feed-forward.

Owns how each part is computed and which weights it has. Knows nothing of how parts are combined
(models/t5.py), of losses, or of devices: every weight only names its logical axes.

Axis legend of the shape strings: b batch, q query length, k key length, h heads, d head_dim,
e embed, m mlp.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Key

from dss_jax.models import flash
from dss_jax.models.attention_inputs import Bias, Segments
from dss_jax.parallel import devices

NORM_EPSILON = 1e-6
ATTENDED = 'attended'  # the name of attention's output, before its projection, for remat
MASKED = -1e10  # added to logits of masked keys; finite, so that a fully masked row stays finite

Initializer = Callable[[Key[Array, ''], Sequence[int], jnp.dtype], Array]
RowKeys = Key[Array, 'b'] | None

fan_in_normal = nnx.initializers.variance_scaling(1.0, 'fan_in', 'normal')
fan_in_truncated = nnx.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
fan_avg_uniform = nnx.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')
unit_normal = nnx.initializers.normal(1.0)


def weight(key, shape: tuple[int, ...], init: Initializer, axes: tuple[str, ...]) -> nnx.Param:
  """One float32 weight: its shape, initializer and logical axes on one line."""
  return nnx.Param(init(key, shape, jnp.float32), out_sharding=axes, eager_sharding=False)


def dropout(
  x: Float[Array, 'b ...'], row_keys: RowKeys, site: int, rate: float, broadcast: int = 1
):
  """Drops entries of `x` with probability `rate`; identity where `row_keys` is None.

  The mask is drawn per row from that row's own key and shared along axis `broadcast` (the query
  length, as in Mesh TensorFlow's T5 and T5X). A row's mask therefore does not depend on how rows
  are spread over devices or microbatches, and each device draws only the bits of its own rows.

  Args:
    x: activations, row first.
    row_keys: one key per row, or None for no dropout.
    site: a number that is unique among the dropouts of a layer.
    rate: probability in [0, 1) of dropping.
    broadcast: the axis of `x` along which one mask is shared.

  Returns:
    Array like `x`, kept entries scaled by 1 / (1 - rate).
  """
  if row_keys is None or rate == 0.0:
    return x
  shape = list(x.shape)
  shape[broadcast] = 1
  keep = _kept(row_keys, site, rate, tuple(shape[1:]))
  # A product: for its gradient, `where` may keep a mask of the size of `x`.
  scale = keep.astype(jnp.float32) / jnp.float32(1.0 - rate)
  return (x.astype(jnp.float32) * scale).astype(x.dtype)


def _kept(row_keys: Key[Array, 'b'], site: int, rate: float, shape: tuple[int, ...]) -> Array:
  """Which entries [b, *shape] are not dropped, drawn from each row's own key."""
  draw = lambda key: jax.random.bernoulli(key, 1.0 - rate, shape)  # noqa: E731
  return jax.vmap(draw)(fold_in(row_keys, site))


def fold_in(row_keys: RowKeys, data) -> RowKeys:
  """Every row's key with the number `data` folded in; None stays None."""
  return None if row_keys is None else jax.vmap(jax.random.fold_in, (0, None))(row_keys, data)


def relative_position_bucket(
  distance: Int[Array, '...'], bidirectional: bool, num_buckets: int, max_distance: int
) -> Int[Array, '...']:
  """The bucket of a relative position: exact up to half the buckets, logarithmic beyond.

  Args:
    distance: key position minus query position.
    bidirectional: whether keys after the query get buckets of their own (encoder); otherwise they
      all share bucket 0 (decoder, where they are masked).
    num_buckets: how many buckets there are.
    max_distance: from this distance on, all share the last bucket.

  Returns:
    Buckets in [0, num_buckets).

  Source: Raffel et al. 2020, section 2.1; bit for bit `_relative_position_bucket` of Mesh
    TensorFlow, T5X and Hugging Face.
  """
  bucket = jnp.zeros_like(distance)
  if bidirectional:
    num_buckets //= 2
    bucket += (distance > 0).astype(jnp.int32) * num_buckets
    distance = jnp.abs(distance)
  else:
    distance = -jnp.minimum(distance, 0)
  exact = num_buckets // 2
  log_ratio = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(max_distance / exact)
  far = exact + (log_ratio * (num_buckets - exact)).astype(jnp.int32)
  return bucket + jnp.where(distance < exact, distance, jnp.minimum(far, num_buckets - 1))


def matmul(x: Float[Array, '*b i'], kernel: Float[Array, 'i o'], dtype=None):
  """`x @ kernel` [*b, o] in the dtype of `x`, accumulated in `dtype`."""
  product = functools.partial(jnp.matmul, preferred_element_type=dtype)
  kernel = kernel.astype(x.dtype)
  if not devices.flattens_matmul():
    return product(x, kernel)
  y = product(x.reshape(-1, x.shape[-1]), kernel)
  return y.reshape(*x.shape[:-1], kernel.shape[-1])


class Norm(nnx.Module):
  """Root-mean-square norm without mean or offset, computed in float32."""

  def __init__(self, embed: int):
    self.scale = weight(None, (embed,), lambda _, s, t: jnp.ones(s, t), ('embed',))

  @jax.named_scope('norm')
  def __call__(self, x: Float[Array, 'b l e']) -> Float[Array, 'b l e']:
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + NORM_EPSILON)
    return (x32 * scale * self.scale[...][None, None]).astype(x.dtype)


class RelativeBias(nnx.Module):
  """A learned bias for each head and bucket of relative position."""

  def __init__(self, key, num_heads: int, num_buckets: int, max_distance: int, bidirectional: bool):
    self.embedding = weight(key, (num_heads, num_buckets), fan_avg_uniform, ('heads', 'buckets'))
    self.num_buckets = num_buckets
    self.max_distance = max_distance
    self.bidirectional = bidirectional

  @jax.named_scope('relative_bias')
  def __call__(self, queries: Int[Array, 'q'], keys: Int[Array, 'k']) -> Bias:
    distance = keys[None, :] - queries[:, None]
    bucket = relative_position_bucket(
      distance, self.bidirectional, self.num_buckets, self.max_distance
    )
    embedding = self.embedding[...]
    return Bias(embedding[:, bucket][None], embedding, bucket)


class Attention(nnx.Module):
  """Multi-head attention without scaling of the logits, as T5 has it."""

  def __init__(self, key, embed: int, num_heads: int, head_dim: int):
    q_key, k_key, v_key, o_key = jax.random.split(key, 4)
    inner = num_heads * head_dim

    def scaled(key, shape, dtype):  # other transformers scale the logits instead
      return fan_in_normal(key, shape, dtype) / math.sqrt(head_dim)

    self.query = weight(q_key, (embed, inner), scaled, ('embed', 'heads'))
    self.key = weight(k_key, (embed, inner), fan_in_normal, ('embed', 'heads'))
    self.value = weight(v_key, (embed, inner), fan_in_normal, ('embed', 'heads'))
    self.out = weight(o_key, (inner, embed), fan_in_normal, ('heads', 'embed'))
    self.num_heads = num_heads
    self.head_dim = head_dim

  def _heads(self, x: Float[Array, '*b l e'], kernel: nnx.Param) -> Float[Array, '*b l h d']:
    y = matmul(x, kernel[...])
    return y.reshape(*x.shape[:-1], self.num_heads, self.head_dim)

  def project_query(self, x: Float[Array, 'b q e']) -> Float[Array, 'b q h d']:
    """The queries of every head."""
    return self._heads(x, self.query)

  def project_key_value(self, x: Float[Array, '*b k e']):
    """The keys and values of every head, each [*b, k, h, d]: what a decoding cache holds."""
    return self._heads(x, self.key), self._heads(x, self.value)

  def project_out(self, y: Float[Array, 'b q h d']) -> Float[Array, 'b q e']:
    """The heads' outputs merged back to the width of the stack."""
    merged = checkpoint_name(y.reshape(*y.shape[:2], -1), ATTENDED)
    return matmul(merged, self.out[...])

  def __call__(self, x, x_kv, segments: Segments, bias: Bias | None, row_keys, rate: float):
    """Attends from `x` [b, q, e] to `x_kv` [b, k, e]; one dropout mask is shared by all queries."""
    query = self.project_query(x)
    if x_kv is x:
      key, value = self.project_key_value(x)
    else:
      # XLA for TPUs fills with zeros what both stacks' scans keep in one shape for their gradients:
      # 10 of 85 ms of T5 Base. With REMAT_POLICY minimal this axis tells these products from the
      # encoder's; those of self-attention differ if inputs and targets differ in length.
      key, value = (y.squeeze(0) for y in self.project_key_value(x_kv[None]))
    keep = None
    if row_keys is not None and rate > 0.0:
      keep = _kept(row_keys, 0, rate, (self.num_heads, 1, key.shape[1]))[:, :, 0]
      keep = keep.astype(jnp.float32) / (1.0 - rate)
    return self.project_out(attend_segments(query, key, value, segments, bias, keep))


def attend_segments(
  query: Float[Array, 'b q h d'],
  key: Float[Array, 'b k h d'],
  value: Float[Array, 'b k h d'],
  segments: Segments,
  bias: Bias | None,
  keep: Float[Array, 'b h k'] | None,
) -> Float[Array, 'b q h d']:
  """`attend` within packed sequences, as one kernel if there is one for these devices."""
  rows, queries, num_heads, head_dim = query.shape
  if not flash.usable(rows, queries, key.shape[1], num_heads, head_dim):
    return attend(query, key, value, segments.mask(), bias and bias.values, keep)
  of_all_heads = [array.reshape(*array.shape[:2], -1) for array in (query, key, value)]
  out = flash.attend(of_all_heads, segments, bias, keep, head_dim)
  return out.reshape(query.shape)


@jax.named_scope('attend')
def attend(
  query: Float[Array, 'b q h d'],
  key: Float[Array, 'b k h d'],
  value: Float[Array, 'b k h d'],
  mask: Bool[Array, '#b 1 #q k'],
  bias: Float[Array, '1 h #q k'] | None,
  keep: Float[Array, 'b h k'] | None = None,
) -> Float[Array, 'b q h d']:
  """softmax(query · key + bias) · value over the keys where `mask` is true, softmax in float32.

  `keep` is dropout of the weights: a factor for each key, 0 or 1 / (1 - rate). It is the same for
  all queries, so it multiplies the values, which are fewer. The output, which is smaller than the
  weights, is divided by their sum.
  """
  by_head = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
  query, key, value = by_head(query), by_head(key), by_head(value)
  logits = jnp.einsum('bhqd,bhkd->bhqk', query, key, preferred_element_type=jnp.float32)
  if bias is not None:
    logits = _add_bias(logits, bias)
  logits = jnp.where(mask, logits, MASKED)
  weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
  total = weights.sum(axis=-1, keepdims=True)
  if keep is not None:
    value = value * keep[..., None].astype(value.dtype)
  weights = weights.astype(value.dtype)
  out = jnp.einsum('bhqk,bhkd->bhqd', weights, value, preferred_element_type=jnp.float32)
  return by_head((out / total).astype(value.dtype))


@jax.custom_vjp
def _add_bias(logits: Float[Array, 'b h q k'], bias: Float[Array, '1 h q k']):
  """`logits + bias`; its gradient is summed over rows by a product, 50 times faster on a CPU."""
  return logits + bias


def _bias_gradient(rows: int, gradient: Float[Array, 'b h q k']):
  total = jnp.matmul(jnp.ones((1, rows)), gradient.reshape(rows, -1), precision='highest')
  return gradient, total.reshape(1, *gradient.shape[1:])


_add_bias.defvjp(lambda logits, bias: (logits + bias, logits.shape[0]), _bias_gradient)


class FeedForward(nnx.Module):
  """T5 1.0: relu(x wi) wo. T5 1.1: (gelu(x wi_0) * (x wi_1)) wo, with the tanh form of gelu."""

  def __init__(self, key, embed: int, mlp: int, gated: bool):
    key_0, key_1, key_out = jax.random.split(key, 3)
    self.wi_0 = weight(key_0, (embed, mlp), fan_in_truncated, ('embed', 'mlp'))
    self.wi_1 = weight(key_1, (embed, mlp), fan_in_truncated, ('embed', 'mlp')) if gated else None
    self.wo = weight(key_out, (mlp, embed), fan_in_truncated, ('mlp', 'embed'))

  @jax.named_scope('feed_forward')
  def __call__(self, x: Float[Array, 'b l e'], row_keys: RowKeys, rate: float):
    hidden = matmul(x, self.wi_0[...])
    if self.wi_1 is None:
      hidden = jax.nn.relu(hidden)
    else:
      hidden = jax.nn.gelu(hidden, approximate=True) * matmul(x, self.wi_1[...])
    hidden = dropout(hidden, row_keys, site=1, rate=rate)
    return matmul(hidden, self.wo[...])
