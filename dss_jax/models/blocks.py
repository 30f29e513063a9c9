"""The layers of T5's two stacks: the parts of each, in order.

Owns the residuals, norms and dropout sites around the parts of layers.py. How they are stacked and
run is t5.py's.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dss_jax.models import layers
from dss_jax.models.config import T5Config
from dss_jax.parallel import partitioning


class EncoderLayer(nnx.Module):
  """Self-attention and feed-forward, each after its norm and around a residual."""

  def __init__(self, key, config: T5Config):
    attention_key, mlp_key = jax.random.split(key)
    self.attention_norm = layers.Norm(config.emb_dim)
    self.attention = _attention(attention_key, config)
    self.mlp_norm = layers.Norm(config.emb_dim)
    self.mlp = _feed_forward(mlp_key, config)

  @jax.named_scope('encoder_layer')
  def __call__(self, x, mask, bias, row_keys, rate: float):
    h = self.attention_norm(x)
    x += layers.dropout(self.attention(h, h, mask, bias, row_keys, rate), row_keys, 2, rate)
    return x + layers.dropout(self.mlp(self.mlp_norm(x), row_keys, rate), row_keys, 3, rate)


class DecoderLayer(nnx.Module):
  """Causal self-attention, attention to the encoder, feed-forward."""

  def __init__(self, key, config: T5Config):
    self_key, cross_key, mlp_key = jax.random.split(key, 3)
    self.self_attention_norm = layers.Norm(config.emb_dim)
    self.self_attention = _attention(self_key, config)
    self.cross_attention_norm = layers.Norm(config.emb_dim)
    self.cross_attention = _attention(cross_key, config)
    self.mlp_norm = layers.Norm(config.emb_dim)
    self.mlp = _feed_forward(mlp_key, config)

  @jax.named_scope('decoder_layer')
  def __call__(self, x, encoded, mask, cross_mask, bias, row_keys, rate: float):
    cross_keys = layers.fold_in(row_keys, 8)  # other dropout masks than self-attention's
    h = self.self_attention_norm(x)
    x += layers.dropout(self.self_attention(h, h, mask, bias, row_keys, rate), row_keys, 2, rate)
    h = self.cross_attention_norm(x)
    attended = self.cross_attention(h, encoded, cross_mask, None, cross_keys, rate)
    x += layers.dropout(attended, row_keys, 4, rate)
    return x + layers.dropout(self.mlp(self.mlp_norm(x), row_keys, rate), row_keys, 3, rate)

  @jax.named_scope('decoder_step')
  def step(self, x: Float[Array, 'r 1 e'], self_kv, extend, cross_kv, mask, cross_mask, bias):
    """One token. Returns x [r, 1, e], this token's key and value [r, h, d, 1], and all up to it.

    `extend` adds this token's key or value to a cache of `self_kv` [r, h, d, l]; the result has the
    length of `mask` and `bias`.

    On a mesh, weights stay sharded and activations, which are smaller, are moved instead. For a
    product with weights, the devices along `fsdp` have the same rows, and each has its part of the
    width; for attention, each device has its own rows.

    Source: Pope et al. 2022 (arXiv 2211.05102), the weight-stationary layouts of section 3.2.
    """
    attention = self.self_attention
    h = self.self_attention_norm(x)
    new_kv = tuple(cached(_own_rows(y)) for y in attention.project_key_value(h))
    all_kv = tuple(map(extend, self_kv, new_kv))
    key, value = map(_uncached, all_kv)
    y = layers.attend(_own_rows(attention.project_query(h)), key, value, mask, bias)
    x = own_width(x + attention.project_out(_same_rows(y)))
    # The beams of an input become its queries, so its keys are stored once.
    attention = self.cross_attention
    h = self.cross_attention_norm(x).reshape(cross_kv[0].shape[0], -1, x.shape[-1])
    key, value = map(_uncached, cross_kv)
    y = layers.attend(_own_rows(attention.project_query(h)), key, value, cross_mask, None)
    x = own_width(x + attention.project_out(_same_rows(y)).reshape(x.shape))
    return own_width(x + self.mlp(self.mlp_norm(x), None, 0.0)), new_kv, all_kv


def own_width(x: Float[Array, 'r 1 e']) -> Float[Array, 'r 1 e']:
  """A token's residuals, their width sharded as the weights are."""
  return partitioning.place(x, rows=('data',), embed='fsdp')


def _same_rows(x: Float[Array, 'r q h d']) -> Float[Array, 'r q h d']:
  return partitioning.place(x, rows=('data',))


def _own_rows(x: Float[Array, 'r q h d']) -> Float[Array, 'r q h d']:
  return partitioning.place(x)


def cached(kv: Float[Array, '... k h d']) -> Float[Array, '... h d k']:
  """Keys or values in the layout of a decoding cache, which no token has to transpose."""
  return jnp.moveaxis(kv, -3, -1)


def _uncached(kv: Float[Array, '... h d k']) -> Float[Array, '... k h d']:
  return jnp.moveaxis(kv, -1, -3)


def _attention(key, config: T5Config) -> layers.Attention:
  return layers.Attention(key, config.emb_dim, config.num_heads, config.head_dim)


def _feed_forward(key, config: T5Config) -> layers.FeedForward:
  return layers.FeedForward(key, config.emb_dim, config.mlp_dim, len(config.mlp_activations) == 2)
