"""The layers of T5's two stacks: what is in one, and in which order.

Owns the residuals, norms and dropout sites around the parts of layers.py. How they are stacked and
run is t5.py's.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dss_jax.models import layers


class EncoderLayer(nnx.Module):
  """Self-attention and feed-forward, each after its norm and around a residual."""

  def __init__(self, key, config: Any):
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

  def __init__(self, key, config: Any):
    self_key, cross_key, mlp_key = jax.random.split(key, 3)
    self.self_attention_norm = layers.Norm(config.emb_dim)
    self.self_attention = _attention(self_key, config)
    self.cross_attention_norm = layers.Norm(config.emb_dim)
    self.cross_attention = _attention(cross_key, config)
    self.mlp_norm = layers.Norm(config.emb_dim)
    self.mlp = _feed_forward(mlp_key, config)

  @jax.named_scope('decoder_layer')
  def __call__(self, x, encoded, mask, cross_mask, bias, row_keys, rate: float):
    cross_keys = layers.fold_in(row_keys, 8)  # attention weights of their own, not the self ones'
    h = self.self_attention_norm(x)
    x += layers.dropout(self.self_attention(h, h, mask, bias, row_keys, rate), row_keys, 2, rate)
    h = self.cross_attention_norm(x)
    attended = self.cross_attention(h, encoded, cross_mask, None, cross_keys, rate)
    x += layers.dropout(attended, row_keys, 4, rate)
    return x + layers.dropout(self.mlp(self.mlp_norm(x), row_keys, rate), row_keys, 3, rate)

  @jax.named_scope('decoder_step')
  def step(self, x: Float[Array, 'r 1 e'], self_kv, cross_kv, mask, cross_mask, bias):
    """One token. Returns x [r, 1, e] and this token's key and value [r, 1, h, d].

    The new key and value are appended to what is attended to rather than written into the cache
    here: then the scan over layers emits one token's worth and the cache is updated in place.
    """
    h = self.self_attention_norm(x)
    key, value = self.self_attention.project_key_value(h)
    y = layers.attend(
      self.self_attention.project_query(h),
      jnp.concatenate([self_kv[0], key], axis=1),
      jnp.concatenate([self_kv[1], value], axis=1),
      mask,
      bias,
    )
    x += self.self_attention.project_out(y)
    # The beams of one input stand side by side as its queries, so its keys are stored once.
    h = self.cross_attention_norm(x).reshape(cross_kv[0].shape[0], -1, x.shape[-1])
    query = self.cross_attention.project_query(h)
    y = layers.attend(query, cross_kv[0], cross_kv[1], cross_mask, None)
    x += self.cross_attention.project_out(y).reshape(x.shape)
    return x + self.mlp(self.mlp_norm(x), None, 0.0), (key, value)


def _attention(key, config: Any) -> layers.Attention:
  return layers.Attention(key, config.emb_dim, config.num_heads, config.head_dim)


def _feed_forward(key, config: Any) -> layers.FeedForward:
  return layers.FeedForward(key, config.emb_dim, config.mlp_dim, len(config.mlp_activations) == 2)
