"""The T5 network, 1.0 and 1.1: `T5Config` describes it, `T5` computes it.

One network serves training (packed rows, dropout), scoring and decoding, whose cache and loop over
layers are decoder.py's. It knows nothing of gin, data, losses, optimizers or kinds of devices.
Layers are stacked along a leading `layers` axis and run by `jax.lax.scan`, so that compile time
does not grow with depth.

Source: Raffel et al. 2020 (arXiv 1910.10683); Shazeer 2020 (arXiv 2002.05202) for the gated
feed-forward of T5 1.1.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from dss_jax.models import layers
from dss_jax.models.attention_inputs import Bias, Segments
from dss_jax.models.blocks import DecoderLayer, EncoderLayer
from dss_jax.models.config import T5Config
from dss_jax.parallel import partitioning

Inputs = Int[Array, 'b s']
Targets = Int[Array, 'b t']
Params = dict[str, Any]
Axes = tuple[str, ...]
Module = TypeVar('Module', bound=nnx.Module)

_ATTENDED = jax.checkpoint_policies.save_only_these_names(layers.ATTENDED)
_REMAT_POLICIES = {
  'none': None,
  'minimal': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _ATTENDED
  ),
  'full': _ATTENDED,
  'auto': _ATTENDED,
}


class T5(nnx.Module):
  """The network. Build it with a key; weights are float32 `nnx.Param`s with logical axes."""

  def __init__(self, config: T5Config, key):
    embed_key, encoder_key, decoder_key, enc_bias_key, dec_bias_key, logits_key = jax.random.split(
      key, 6
    )
    vocab, embed = config.vocab_size, config.emb_dim
    if vocab is None:
      raise ValueError(
        'T5Config.vocab_size (VOCAB_SIZE) must be a number to build the network, not None.'
      )
    self.config = config
    self.embedding = layers.weight(
      embed_key, (vocab, embed), layers.unit_normal, ('vocab', 'embed')
    )
    self.encoder_bias = _relative_bias(enc_bias_key, config, config.num_encoder_layers, True)
    self.encoder_layers = _stack(EncoderLayer, encoder_key, config, config.num_encoder_layers)
    self.encoder_norm = layers.Norm(embed)
    self.decoder_bias = _relative_bias(dec_bias_key, config, config.num_decoder_layers, False)
    self.decoder_layers = _stack(DecoderLayer, decoder_key, config, config.num_decoder_layers)
    self.decoder_norm = layers.Norm(embed)
    self.logits_kernel = (
      None
      if config.logits_via_embedding
      else layers.weight(logits_key, (embed, vocab), layers.fan_in_truncated, ('embed', 'vocab'))
    )

  def __call__(
    self, inputs: Inputs, input_segments: Inputs, targets_in: Targets, target_segments: Targets,
    row_keys: layers.RowKeys = None,
  ) -> Float[Array, 'b t vocab']:  # fmt: skip
    """Float32 logits of every target position, by teacher forcing.

    Args:
      inputs: encoder tokens [b, s]; 0 is padding.
      input_segments: which packed sequence each belongs to, from 1; 0 is padding.
      targets_in: decoder tokens, shifted right within each segment [b, t].
      target_segments: as input_segments, for the decoder.
      row_keys: one dropout key per row, or None for no dropout.

    Returns:
      Logits [b, t, vocab].
    """
    encoded = self.encode(inputs, input_segments, row_keys)
    return self.decode(encoded, input_segments, targets_in, target_segments, row_keys)

  @jax.named_scope('encode')
  def encode(
    self, inputs: Inputs, segments: Inputs, row_keys: layers.RowKeys = None
  ) -> Float[Array, 'b s e']:
    """The encoder's output in the compute dtype; arguments as in `__call__`."""
    rate, row_keys = self.config.dropout_rate, layers.fold_in(row_keys, 0)
    positions = jnp.arange(inputs.shape[1])
    mask = Segments(segments, segments)
    stacked_bias, bias_of = self.biases(self.encoder_bias, positions, positions)

    def layer(x, inputs):
      module, own_bias, number = inputs
      keys = layers.fold_in(row_keys, number + 2)
      return _gathered(module)(x, mask, bias_of(own_bias), keys, rate), None

    # A stack's own dropouts are sites 0 and 1, so its layers' keys start at 2.
    x = layers.dropout(partitioning.place(self.embed(inputs)), row_keys, 0, rate)
    numbers = jnp.arange(self.config.num_encoder_layers)
    x, _ = self._scan(layer, x, (self.encoder_layers, stacked_bias, numbers))
    return layers.dropout(self.encoder_norm(x), row_keys, 1, rate)

  @jax.named_scope('decode')
  def decode(
    self, encoded: Float[Array, 'b s e'], input_segments: Inputs, targets_in: Targets,
    target_segments: Targets, row_keys: layers.RowKeys = None,
  ) -> Float[Array, 'b t vocab']:  # fmt: skip
    """Float32 logits [b, t, vocab] given `encode`'s output; arguments as in `__call__`."""
    rate, row_keys = self.config.dropout_rate, layers.fold_in(row_keys, 1)
    positions = jnp.arange(targets_in.shape[1])
    mask = Segments(target_segments, target_segments, causal=True)
    cross_mask = Segments(target_segments, input_segments)
    stacked_bias, bias_of = self.biases(self.decoder_bias, positions, positions)

    def layer(x, inputs):
      module, own_bias, number = inputs
      keys = layers.fold_in(row_keys, number + 2)
      return _gathered(module)(x, encoded, mask, cross_mask, bias_of(own_bias), keys, rate), None

    x = layers.dropout(partitioning.place(self.embed(targets_in)), row_keys, 0, rate)
    numbers = jnp.arange(self.config.num_decoder_layers)
    x, _ = self._scan(layer, x, (self.decoder_layers, stacked_bias, numbers))
    return self.logits(layers.dropout(self.decoder_norm(x), row_keys, 1, rate))

  def biases(
    self, module: layers.RelativeBias, queries: Int[Array, 'q'], keys: Int[Array, 'k']
  ) -> tuple[layers.RelativeBias | None, Callable[[layers.RelativeBias | None], Bias]]:
    """The input of a scan over layers (None if they share a bias), and a layer's bias from it."""
    if self.config.relative_bias_per_layer:
      return module, lambda own: own(queries, keys)  # type: ignore[misc]
    shared = module(queries, keys)
    return None, lambda _: shared

  @jax.named_scope('embed')
  def embed(self, tokens: Int[Array, 'b l']) -> Float[Array, 'b l e']:
    """The embeddings of tokens, in the compute dtype.

    Callers shard them once (`partitioning.place`), and later activations follow. Otherwise a
    compiler may shard activations like the weights, and move them in every layer.
    """
    return jnp.take(self.embedding[...], tokens, axis=0).astype(self.config.dtype)

  @jax.named_scope('logits')
  def logits(self, x: Float[Array, 'b l e']) -> Float[Array, 'b l vocab']:
    """Float32 logits from the decoder's normed output."""
    if self.logits_kernel is None:
      x = x * self.config.emb_dim**-0.5
      kernel = self.embedding[...].T
    else:
      kernel = self.logits_kernel[...]
    return layers.matmul(x, kernel, jnp.float32)

  def _scan(self, layer, x, inputs):
    policy = _REMAT_POLICIES[self.config.remat_policy]
    if policy is not None:
      layer = jax.checkpoint(layer, prevent_cse=not self.config.scan_layers, policy=policy)
    return jax.lax.scan(layer, x, inputs, unroll=1 if self.config.scan_layers else True)


def init(config: T5Config, key) -> Params:
  """Fresh parameters as a nested dict of float32 arrays; jit it with out_shardings to shard."""
  return nnx.to_pure_dict(nnx.state(T5(config, key), nnx.Param))


def bind(config: T5Config, params: Params) -> T5:
  """The network with these parameters; inside jit it costs nothing and gradients pass through.

  Within `jax.set_mesh`, parameters that are sharded over the mesh's `data` are gathered here,
  kernels in the compute dtype; over `fsdp` they are gathered where a layer of training uses them.
  """

  def gather(weight, axes: Axes):
    # Norms, biases and the embedding are used in float32, and their gradients are many small sums.
    dtype = config.dtype if is_kernel(axes) else None
    return partitioning.gather(weight, axes, over=('data',), dtype=dtype)

  return nnx.merge(_abstract(config)[0], jax.tree.map(gather, params, logical_axes(config)))


def abstract(config: T5Config) -> tuple[Params, Params]:
  """Two nested dicts, made without arrays: ShapeDtypeStructs, and tuples of logical axes."""
  is_param = lambda leaf: isinstance(leaf, nnx.Param)  # noqa: E731
  state = _abstract(config)[1]
  shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), state, is_leaf=is_param)
  axes = jax.tree.map(lambda p: p.get_metadata('out_sharding'), state, is_leaf=is_param)
  return nnx.to_pure_dict(shapes), nnx.to_pure_dict(axes)


def logical_axes(config: T5Config) -> Params:
  """A nested dict like the parameters', of tuples of logical axes.

  A weight is stacked over the layers of a stack if, and only if, its first axis is `layers`.
  """
  return abstract(config)[1]


def of_one_layer(axes: Axes) -> Axes:
  """A weight's logical axes without `layers`."""
  return tuple(axis for axis in axes if axis != 'layers')


def is_kernel(axes: Axes) -> bool:
  """Whether a weight with these logical axes is a matrix, or a stack of them, that activations are
  multiplied with: not a table, whose rows or columns are looked up, and not a norm's scale."""
  own = of_one_layer(axes)
  return len(own) == 2 and own[0] != 'vocab' and own[1] != 'buckets'


def _gathered(layer: Module) -> Module:
  """A layer cut out of its stack, its weights no longer sharded over the mesh's `fsdp`."""

  def gather(weight: nnx.Param) -> nnx.Variable:
    axes = of_one_layer(weight.get_metadata('out_sharding'))
    return weight.replace(partitioning.gather(weight[...], axes, ('fsdp',), gathered=('data',)))

  return jax.tree.map(gather, layer, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))


@functools.cache
def _abstract(config: T5Config):
  # Without a mesh: nnx would take the logical axes for names of mesh axes.
  with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
    return nnx.split(nnx.eval_shape(lambda: T5(config, jax.random.key(0))))


def _relative_bias(key, config: T5Config, count: int, bidirectional: bool) -> layers.RelativeBias:
  def make(key, config: T5Config) -> layers.RelativeBias:
    return layers.RelativeBias(
      key,
      config.num_heads,
      config.relative_attention_num_buckets,
      config.relative_attention_max_distance,
      bidirectional,
    )

  return _stack(make, key, config, count) if config.relative_bias_per_layer else make(key, config)


def _stack(make: Callable[[Array, T5Config], Module], key, config: T5Config, count: int) -> Module:
  """`count` equal modules as one, whose weights have a leading `layers` axis."""
  stacked = nnx.transform_metadata(lambda k: make(k, config), partition='layers')
  return jax.vmap(stacked)(jax.random.split(key, count))
