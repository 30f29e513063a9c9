"""A T5's decoder one token at a time, with a cache of keys and values.

Owns the decoding cache (`DecodeCache`) and how the decoder's layers run over it. The network
and its weights are t5.py's; inference/decoding.py chooses the next token.

Axis legend: r rows of the decoder (batch times beams), b rows of the encoder, h heads, d head_dim,
l output tokens.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dss_jax.models.blocks import DecoderLayer, cached, own_width
from dss_jax.models.t5 import T5
from dss_jax.parallel import devices, partitioning

KeyValue = tuple[Array, Array]


class DecodeCache(NamedTuple):
  """The keys and values of the tokens so far, and of the encoder's output.

  Keys and values have their positions last, so that no token has to transpose them. They are
  stacked over layers on a leading axis, or, if decoding is unrolled, a tuple with a pair for every
  layer.

  Attributes:
    self_kv: keys and values of the tokens so far, for every layer [r, h, d, l].
    cross_kv: keys and values of the encoder's output, for every layer [b, h, d, inputs].
    inputs_mask: true on real inputs.
    position: how many tokens have been decoded.
  """

  self_kv: KeyValue | tuple[KeyValue, ...]
  cross_kv: KeyValue | tuple[KeyValue, ...]
  inputs_mask: Bool[Array, 'b s']
  position: Int[Array, '']


@dataclasses.dataclass(frozen=True, eq=False)
class Decoder:
  """A network prepared for decoding; `prepare` makes it once per batch, before the token loop.

  Attributes:
    network: owns the weights.
    layers: of the decoder: one stack that a scan runs over, or, if decoding is unrolled, a tuple.
  """

  network: T5
  layers: DecoderLayer | tuple[DecoderLayer, ...]

  @property
  def unrolled(self) -> bool:
    """Whether layers run one after the other instead of in a scan."""
    return isinstance(self.layers, tuple)

  @jax.named_scope('init_cache')
  def init_cache(
    self,
    encoded: Float[Array, 'b s e'],
    inputs_mask: Bool[Array, 'b s'],
    length: int,
    beams: int = 1,
  ) -> DecodeCache:
    """An empty cache for `length` tokens of `beams` hypotheses for every input."""
    project = jax.vmap(lambda layer: layer.cross_attention.project_key_value(encoded))
    key, value = map(cached, project(self.network.decoder_layers))
    count, rows, num_heads, head_dim, _ = key.shape
    empty = jnp.zeros((count, rows * beams, num_heads, head_dim, length), key.dtype)
    self_kv, cross_kv = (empty, empty), (key, value)
    if self.unrolled:
      self_kv, cross_kv = _unstack(self_kv, count), _unstack(cross_kv, count)
    return DecodeCache(self_kv, cross_kv, inputs_mask, jnp.zeros((), jnp.int32))

  @jax.named_scope('decode_step')
  def step(
    self, tokens: Int[Array, 'r'], cache: DecodeCache
  ) -> tuple[Float[Array, 'r vocab'], DecodeCache]:
    """Feeds one token per row (first 0, the start token); at most `length` times per cache.

    Args:
      tokens: the last token of every row, rows of one input side by side.
      cache: `r` rows of self-attention over `b` inputs, r a multiple of b.

    Returns:
      Float32 logits [r, vocab] of the next token, and the cache with these tokens added.
    """
    network = self.network
    past = jnp.arange(jax.tree.leaves(cache.self_kv)[0].shape[-1])
    write = functools.partial(
      jax.lax.dynamic_update_slice_in_dim, start_index=cache.position, axis=-1
    )
    if self.unrolled:
      extend, positions, seen = write, past, past <= cache.position
    else:  # a scan emits one token's worth, and the cache is written in place after it
      extend, positions = functools.partial(jnp.append, axis=-1), jnp.append(past, cache.position)
      seen = jnp.append(past < cache.position, True)
    stacked_bias, bias_of = network.biases(network.decoder_bias, cache.position[None], positions)
    mask, cross_mask = seen[None, None, None, :], cache.inputs_mask[:, None, None, :]

    def layer(x, of_layer):
      module, own_bias, self_kv, cross_kv = of_layer
      bias = bias_of(own_bias).values
      x, new_kv, all_kv = module.step(x, self_kv, extend, cross_kv, mask, cross_mask, bias)
      return x, all_kv if self.unrolled else new_kv

    x = own_width(network.embed(tokens[:, None]))
    if isinstance(self.layers, tuple):
      biases = _unstack(stacked_bias, len(self.layers))
      kept = []
      for of_layer in zip(self.layers, biases, cache.self_kv, cache.cross_kv, strict=True):
        x, all_kv = layer(x, of_layer)
        kept.append(all_kv)
      self_kv = tuple(kept)
    else:
      x, new_kv = jax.lax.scan(layer, x, (self.layers, stacked_bias, cache.self_kv, cache.cross_kv))
      self_kv = jax.tree.map(write, cache.self_kv, new_kv)
    logits = partitioning.place(network.logits(network.decoder_norm(x)))[:, 0]
    return logits, cache._replace(self_kv=self_kv, position=cache.position + 1)


def prepare(network: T5) -> Decoder:
  """The network's decoder, its layers stacked or, on devices where that is faster, separate.

  On CPUs a scan copies each layer out of the stack at every token. There the stack is split once,
  which takes the memory of the decoder's weights a second time.
  """
  stack = network.decoder_layers
  if devices.unrolls_decoding():
    return Decoder(network, _unstack(stack, network.config.num_decoder_layers))
  return Decoder(network, stack)


def _unstack(stacked, count: int) -> tuple:
  """Splits a tree that is stacked over `count` layers into one for each layer."""
  return tuple(jax.tree.map(lambda stack, i=i: stack[i], stacked) for i in range(count))
