"""How large a T5 is, and how many floating-point operations it needs, counted from its shapes.

Owns the analytic count. The compiler's own count is of no use here: it counts the body of a loop
over layers once. Ours counts matrix products, two operations for each multiply-add; norms, softmax,
the loss, the optimizer and recomputation are left out, as is usual for MFU.

Shape letters: rows, S inputs and T targets of a row, e embed, i heads times head_dim, m mlp.
"""

import math

import jax

from dss_jax.models import t5


def train_step(model: t5.T5Config, rows: int, inputs: int, targets: int) -> int:
  """FLOPs of one update: the forward pass, and twice as many for the gradients.

  Args:
    model: the network, with its vocab_size.
    rows: of the global batch.
    inputs: encoder tokens of a row, padding included.
    targets: decoder tokens of a row, padding included.
  """
  return 3 * forward(model, rows, inputs, targets)


def forward(model: t5.T5Config, rows: int, inputs: int, targets: int) -> int:
  """FLOPs of the logits of a batch, by teacher forcing; arguments as of `train_step`."""
  return encode(model, rows, inputs) + _decode_tokens(model, rows, inputs, targets, targets)


def encode(model: t5.T5Config, rows: int, inputs: int) -> int:
  """FLOPs of the encoder's output."""
  inner = model.num_heads * model.head_dim
  projections = 4 * model.emb_dim * inner + _feed_forward(model)
  layer = inputs * projections + _attention(inner, inputs, inputs)
  return 2 * rows * model.num_encoder_layers * layer


def decode(model: t5.T5Config, rows: int, inputs: int, length: int) -> int:
  """FLOPs of greedy decoding of `length` tokens per input, each attending to the whole cache."""
  # The token being decoded follows the cache: length + 1 keys.
  return encode(model, rows, inputs) + _decode_tokens(model, rows, inputs, length, length + 1)


def parameters(model: t5.T5Config) -> int:
  """How many parameters the network has."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(t5.abstract(model)[0]))


def _decode_tokens(model: t5.T5Config, rows: int, inputs: int, tokens: int, keys: int) -> int:
  """The decoder over `tokens` tokens, each attending to `keys` tokens and to all inputs."""
  inner = model.num_heads * model.head_dim
  # Two of the eight projections, the keys and values of cross-attention, apply to the inputs.
  of_tokens = 6 * model.emb_dim * inner + _feed_forward(model)
  of_inputs = 2 * model.emb_dim * inner
  layer = (
    tokens * of_tokens
    + inputs * of_inputs
    + _attention(inner, tokens, keys)
    + _attention(inner, tokens, inputs)
  )
  logits = tokens * model.emb_dim * _vocab_size(model)
  return 2 * rows * (model.num_decoder_layers * layer + logits)


def _attention(inner: int, queries: int, keys: int) -> int:
  """Multiply-adds of query · key and weights · value over all heads."""
  return 2 * math.prod((inner, queries, keys))


def _feed_forward(model: t5.T5Config) -> int:
  """Weights of one feed-forward block, which are its multiply-adds a token."""
  return (len(model.mlp_activations) + 1) * model.emb_dim * model.mlp_dim


def _vocab_size(model: t5.T5Config) -> int:
  if model.vocab_size is None:
    raise ValueError('T5Config.vocab_size (VOCAB_SIZE) must be a number to count FLOPs, not None.')
  return model.vocab_size
