"""The T5 network, 1.0 and 1.1: `T5Config` says what it is, `T5` computes it.

One network for training (packed rows, dropout), for scoring and for decoding with a cache. It
knows nothing of gin, data, losses or optimizers, and of devices only when to ask partitioning.py.
Layers are stacked along a leading `layers` axis and run by `jax.lax.scan`, so that compile time
does not grow with depth; but for decoding on CPUs.

Source: Raffel et al. 2020 (arXiv 1910.10683); Shazeer 2020 (arXiv 2002.05202) for the gated
feed-forward of T5 1.1.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from dss_jax.models import layers
from dss_jax.models.blocks import DecoderLayer, EncoderLayer, cached, own_width
from dss_jax.parallel import partitioning
from dss_jax.settings import fields

Inputs = Int[Array, 'b s']
Targets = Int[Array, 'b t']
Params = dict[str, Any]

_ATTENDED = jax.checkpoint_policies.save_only_these_names(layers.ATTENDED)
REMAT_POLICIES = {
  'none': None,
  'minimal': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _ATTENDED
  ),
  'full': _ATTENDED,
}


@dataclasses.dataclass(frozen=True)
class T5Config:
  """What a T5 network is; field names as in T5X's `network.T5Config`.

  Attributes:
    vocab_size: rows of the embedding, at least the vocabulary's size; None until that is known.
    dtype: of activations; parameters, norms, softmax and loss are float32 always.
    mlp_activations: ('gelu', 'linear') for T5 1.1, ('relu',) for T5 1.0.
    logits_via_embedding: T5 1.0 ties the logits to the embedding and scales them by emb_dim^-1/2.
    dropout_rate: probability of dropping, in [0, 1).
    remat_policy: what the backward pass keeps: 'none' recomputes nothing, 'minimal' keeps matrix
      products with weights, 'full' only each layer's input; both keep what attention gave.
    scan_layers: false unrolls the loop over layers: the same numbers, a longer compilation.
    relative_bias_per_layer: every layer has a relative position bias of its own, as in umT5 and
      T5X's scalable_t5; otherwise a stack's layers share one.
  """

  vocab_size: int | None
  emb_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  num_encoder_layers: int
  num_decoder_layers: int
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  logits_via_embedding: bool = False
  dtype: str = 'bfloat16'
  dropout_rate: float = 0.1
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128
  remat_policy: str = 'none'
  scan_layers: bool = True
  relative_bias_per_layer: bool = False

  def __post_init__(self):
    activations = tuple(self.mlp_activations)  # gin gives a list where a file has one
    object.__setattr__(self, 'mlp_activations', activations)
    fields.check(self)
    if activations not in (('gelu', 'linear'), ('relu',)):
      raise ValueError(
        f"T5Config.mlp_activations is ('gelu', 'linear') for T5 1.1 or ('relu',) for T5 1.0, "
        f'not {activations}.'
      )
    if self.remat_policy not in REMAT_POLICIES:
      raise ValueError(
        f'T5Config.remat_policy is one of {sorted(REMAT_POLICIES)}, not {self.remat_policy!r}.'
      )
    if self.dtype not in ('float32', 'bfloat16'):
      raise ValueError(f"T5Config.dtype is 'float32' or 'bfloat16', not {self.dtype!r}.")
    if not 0.0 <= self.dropout_rate < 1.0:
      raise ValueError(
        f'T5Config.dropout_rate (DROPOUT_RATE) is in [0, 1), not {self.dropout_rate}.'
      )


class DecodeCache(NamedTuple):
  """What decoding remembers. `r` rows of the decoder (batch times beams), `b` rows of the encoder.

  Keys and values have their positions last, so that no token has to transpose them. What there is
  for every layer is stacked on a leading axis, or a tuple within `jax.set_mesh` of CPUs: there a
  scan copies what it cuts out of a stack, at every token. So it is cut once, which takes the memory
  of the decoder's weights again.

  Attributes:
    layers: the decoder's weights, for every layer.
    self_kv: keys and values of the tokens so far, for every layer [r, heads, head_dim, length].
    cross_kv: of the encoder's output, for every layer [b, heads, head_dim, inputs].
    inputs_mask: true on real inputs; [b, inputs].
    position: how many tokens have been decoded; scalar.
  """

  layers: Any
  self_kv: Any
  cross_kv: Any
  inputs_mask: Array
  position: Array


class T5(nnx.Module):
  """The network. Build it with a key; weights are float32 `nnx.Param`s with logical axes."""

  def __init__(self, config: T5Config, key):
    embed_key, encoder_key, decoder_key, enc_bias_key, dec_bias_key, logits_key = jax.random.split(
      key, 6
    )
    vocab, embed = config.vocab_size, config.emb_dim
    if vocab is None:
      raise ValueError('T5Config.vocab_size (VOCAB_SIZE) is a number when the network is built.')
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
      row_keys: one dropout key a row, or None to compute without dropout.

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
    mask = layers.Segments(segments, segments)
    stacked_bias, bias_of = self._bias(self.encoder_bias, positions, positions)

    def layer(x, inputs):
      module, own_bias, number = inputs
      keys = layers.fold_in(row_keys, number + 2)
      return _whole(module)(x, mask, bias_of(own_bias), keys, rate), None

    # A stack's own dropouts are sites 0 and 1, so its layers' keys start at 2.
    x = layers.dropout(partitioning.place(self._embed(inputs)), row_keys, 0, rate)
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
    mask = layers.Segments(target_segments, target_segments, causal=True)
    cross_mask = layers.Segments(target_segments, input_segments)
    stacked_bias, bias_of = self._bias(self.decoder_bias, positions, positions)

    def layer(x, inputs):
      module, own_bias, number = inputs
      keys = layers.fold_in(row_keys, number + 2)
      return _whole(module)(x, encoded, mask, cross_mask, bias_of(own_bias), keys, rate), None

    x = layers.dropout(partitioning.place(self._embed(targets_in)), row_keys, 0, rate)
    numbers = jnp.arange(self.config.num_decoder_layers)
    x, _ = self._scan(layer, x, (self.decoder_layers, stacked_bias, numbers))
    return self._logits(layers.dropout(self.decoder_norm(x), row_keys, 1, rate))

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
    key, value = map(cached, project(self.decoder_layers))
    count, rows, num_heads, head_dim, _ = key.shape
    empty = jnp.zeros((count, rows * beams, num_heads, head_dim, length), key.dtype)
    stacks: Any = (self.decoder_layers, (empty, empty), (key, value))
    if partitioning.device_kind() == 'cpu':
      stacks = [_unstack(stack, count) for stack in stacks]
    weights, self_kv, cross_kv = stacks
    return DecodeCache(weights, self_kv, cross_kv, inputs_mask, jnp.zeros((), jnp.int32))

  @jax.named_scope('decode_step')
  def decode_step(self, tokens: Int[Array, 'r'], cache: DecodeCache):
    """Feeds one token a row (the first is 0, the start token); at most `length` times a cache.

    Args:
      tokens: the last token of every row, rows of one input side by side.
      cache: `r` rows of self-attention over `b` inputs, r a multiple of b.

    Returns:
      Float32 logits [r, vocab] of the next token, and the cache with these tokens added.
    """
    past = jnp.arange(jax.tree.leaves(cache.self_kv)[0].shape[-1])
    write = functools.partial(
      jax.lax.dynamic_update_slice_in_dim, start_index=cache.position, axis=-1
    )
    unrolled = isinstance(cache.layers, tuple)
    if unrolled:
      extend, positions, seen = write, past, past <= cache.position
    else:  # a scan emits one token's worth, and the cache is written in place after it
      extend, positions = functools.partial(jnp.append, axis=-1), jnp.append(past, cache.position)
      seen = jnp.append(past < cache.position, True)
    stacked_bias, bias_of = self._bias(self.decoder_bias, cache.position[None], positions)
    mask, cross_mask = seen[None, None, None, :], cache.inputs_mask[:, None, None, :]

    def layer(x, of_layer):
      module, own_bias, self_kv, cross_kv = of_layer
      bias = bias_of(own_bias).values
      x, new_kv, all_kv = module.step(x, self_kv, extend, cross_kv, mask, cross_mask, bias)
      return x, all_kv if unrolled else new_kv

    x = own_width(self._embed(tokens[:, None]))
    if unrolled:
      biases = _unstack(stacked_bias, self.config.num_decoder_layers)
      kept = []
      for of_layer in zip(cache.layers, biases, cache.self_kv, cache.cross_kv, strict=True):
        x, all_kv = layer(x, of_layer)
        kept.append(all_kv)
      self_kv = tuple(kept)
    else:
      of_layers = (cache.layers, stacked_bias, cache.self_kv, cache.cross_kv)
      x, new_kv = jax.lax.scan(layer, x, of_layers)
      self_kv = jax.tree.map(write, cache.self_kv, new_kv)
    logits = partitioning.place(self._logits(self.decoder_norm(x)))[:, 0]
    return logits, cache._replace(self_kv=self_kv, position=cache.position + 1)

  def _bias(self, module: layers.RelativeBias, queries: Int[Array, 'q'], keys: Int[Array, 'k']):
    """What a scan over layers takes (None where they share a bias), and a layer's bias from it."""
    if self.config.relative_bias_per_layer:
      return module, lambda own: own(queries, keys)
    shared = module(queries, keys)
    return None, lambda own: shared

  @jax.named_scope('embed')
  def _embed(self, tokens: Int[Array, 'b l']) -> Float[Array, 'b l e']:
    """To be placed once, and all that is computed from it follows: else a compiler may divide
    activations as the weights are, and move them in every layer."""
    return jnp.take(self.embedding[...], tokens, axis=0).astype(self.config.dtype)

  @jax.named_scope('logits')
  def _logits(self, x: Float[Array, 'b l e']) -> Float[Array, 'b l vocab']:
    if self.logits_kernel is None:
      x = x * self.config.emb_dim**-0.5
      kernel = self.embedding[...].T
    else:
      kernel = self.logits_kernel[...]
    return layers.matmul(x, kernel, jnp.float32)

  def _scan(self, layer, x, inputs):
    policy = REMAT_POLICIES[self.config.remat_policy]
    if policy is not None:
      layer = jax.checkpoint(layer, prevent_cse=not self.config.scan_layers, policy=policy)
    return jax.lax.scan(layer, x, inputs, unroll=1 if self.config.scan_layers else True)


def init(config: T5Config, key) -> Params:
  """Fresh parameters as a nested dict of float32 arrays; jit it with out_shardings to shard."""
  return nnx.to_pure_dict(nnx.state(T5(config, key), nnx.Param))


def bind(config: T5Config, params: Params) -> T5:
  """The network with these parameters; inside jit it costs nothing and gradients pass through.

  Within `jax.set_mesh`, parameters that lie divided over the mesh's `data` are brought together
  here, matrices in the compute dtype; those of `fsdp` where a layer of training uses them.
  """

  def whole(path, weight, axes):
    # Norms, biases and the embedding are used in float32, and their gradients are many small sums.
    matrix = path[0].key != 'embedding' and len({*axes} - {'layers', 'buckets'}) == 2
    dtype = config.dtype if matrix else None
    return partitioning.gather(weight, axes, over=('data',), dtype=dtype)

  axes = abstract(config)[1]
  gathered = jax.tree_util.tree_map_with_path(whole, params, axes)
  return nnx.merge(_abstract(config)[0], gathered)


def abstract(config: T5Config) -> tuple[Params, Params]:
  """Two nested dicts, without making an array: ShapeDtypeStructs, and tuples of logical axes."""
  is_param = lambda leaf: isinstance(leaf, nnx.Param)  # noqa: E731
  state = _abstract(config)[1]
  shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), state, is_leaf=is_param)
  axes = jax.tree.map(lambda p: p.get_metadata('out_sharding'), state, is_leaf=is_param)
  return nnx.to_pure_dict(shapes), nnx.to_pure_dict(axes)


def _unstack(stacked: Any, count: int) -> tuple:
  """What is stacked for `count` layers, for each."""
  return tuple(jax.tree.map(lambda stack, i=i: stack[i], stacked) for i in range(count))


def _whole(layer: Any) -> Any:
  """A layer cut out of its stack, its weights no longer divided over the mesh's `fsdp`."""

  def gather(weight: nnx.Param) -> nnx.Variable:
    axes = tuple(axis for axis in weight.get_metadata('out_sharding') if axis != 'layers')
    return weight.replace(partitioning.gather(weight[...], axes, ('fsdp',), gathered=('data',)))

  return jax.tree.map(gather, layer, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))


@functools.cache
def _abstract(config: T5Config):
  # Without a mesh: nnx would take the logical axes for names of the mesh's.
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


def _stack(make: Any, key, config: T5Config, count: int):
  """`count` modules of one form as one module whose weights have a leading `layers` axis."""
  stacked = nnx.transform_metadata(lambda k: make(k, config), partition='layers')
  return jax.vmap(stacked)(jax.random.split(key, count))
