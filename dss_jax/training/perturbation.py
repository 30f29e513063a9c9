"""Spoilt rationales: inputs whose rationale is hidden, or partly replaced by random tokens.

Owns where the rationale of an input is, and what becomes of it. Everything is drawn from a row's
own key, so it does not depend on devices and microbatches.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

HIDDEN = 0.5
"""Probability with which a rationale is hidden as a whole."""
REPLACED = 0.3
"""Fraction of its tokens that are replaced otherwise, rounded down to a number of tokens."""
EOS_ID, FIRST_ID = 1, 3  # no random token is padding, an end of sequence or unknown


def rationale_positions(
  inputs: Int[Array, 'b s'], segments: Int[Array, 'b s'], mark: Sequence[int]
) -> Bool[Array, 'b s']:
  """Where the tokens of the rationale are: after the last `mark`, up to the end of sequence.

  Args:
    inputs: encoder tokens.
    segments: 0 on padding.
    mark: tokens that precede a rationale. A row without them has none.
  """
  width = inputs.shape[1]
  found = jnp.ones_like(inputs, bool)
  for offset, token in enumerate(mark):
    found &= jnp.pad(inputs, ((0, 0), (0, offset)))[:, offset : offset + width] == token
  positions = jnp.arange(width)[None]
  starts = jnp.where(found, positions + len(mark), -1).max(axis=1, keepdims=True)
  after = (starts >= 0) & (positions >= starts)
  return after & (segments > 0) & (inputs != EOS_ID)


def perturbed(
  inputs: Int[Array, 'b s'],
  segments: Int[Array, 'b s'],
  mark: Sequence[int],
  keys: Array,
  vocab_size: int,
) -> tuple[Int[Array, 'b s'], Int[Array, 'b s']]:
  """Inputs and segment ids with spoilt rationales.

  Hidden tokens get the segment 0, so that nothing attends to them. Random tokens are any of the
  embedding's, up to its padding, except for padding, end of sequence and unknown.

  Args:
    inputs: encoder tokens, one sequence a row.
    segments: 1 on real tokens, 0 on padding.
    mark: see `rationale_positions`.
    keys: one per row [b].
    vocab_size: rows of the embedding.

  Source: Wang et al. 2022, and `Data_Collator_for_Training` of the released code.
  """
  rationale = rationale_positions(inputs, segments, mark)
  hide_keys, order_keys, token_keys = jnp.moveaxis(
    jax.vmap(lambda k: jax.random.split(k, 3))(keys), 1, 0
  )
  width = inputs.shape[1]
  hidden = jax.vmap(jax.random.uniform)(hide_keys)[:, None] < HIDDEN
  draws = jax.vmap(lambda key: jax.random.uniform(key, (width,)))(order_keys)
  ranks = jnp.argsort(jnp.argsort(jnp.where(rationale, draws, 2.0), axis=1), axis=1)
  lengths = rationale.sum(axis=1, keepdims=True).astype(jnp.float32)
  count = jnp.floor(REPLACED * lengths).astype(ranks.dtype)
  tokens = jax.vmap(lambda key: jax.random.randint(key, (width,), FIRST_ID, vocab_size))(token_keys)
  inputs = jnp.where(rationale & ~hidden & (ranks < count), tokens.astype(inputs.dtype), inputs)
  return inputs, jnp.where(rationale & hidden, 0, segments)
