"""Losses that look at several rows of an example: over its choices, or over its two tasks.

Owns their formulas. As token losses do, each gives a sum over the batch and the weight that divides
it: the number of examples. The rows of an example are neighbours, in the order of its method.

Axis legend: b rows, n = b / group examples, t target positions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def choice_scores(
  token_losses: Float[Array, 'b t'], weights: Float[Array, 'b t'], group: int
) -> Float[Array, 'n group']:
  """The mean log probability in nats of the tokens of every choice; 0 for a row of padding.

  Args:
    token_losses: cross-entropies, without z-loss and smoothing.
    weights: 1 on real targets, 0 on padding.
    group: choices of an example.

  Source: Wang et al. 2022, and `Text2TextForMultiChoice` of the released code.
  """
  lengths = jnp.maximum(weights.sum(axis=1), 1.0)
  return (-(token_losses * weights).sum(axis=1) / lengths).reshape(-1, group)


def choice_losses(scores: Float[Array, 'n group'], smoothing: float = 0.0) -> Float[Array, 'n']:
  """Cross-entropy in nats of a softmax over each example's choices, of which the first is right.

      -(1 - ε) log p(right) - ε/C Σ_c log p(c),  p = softmax(scores)

  Args:
    scores: of C choices.
    smoothing: ε in [0, 1).

  Source: Wang et al. 2022; ε as in PyTorch's `cross_entropy`.
  """
  log_p = jax.nn.log_softmax(scores, axis=1)
  return -(1.0 - smoothing) * log_p[:, 0] - smoothing * log_p.mean(axis=1)


def choice_correct(scores: Float[Array, 'n group']) -> Float[Array, 'n']:
  """1.0 where no other choice has a higher score than the first, else 0.0."""
  return (scores[:, 0] >= scores.max(axis=1)).astype(jnp.float32)


def agreement_losses(
  logits: Float[Array, 'b t vocab'], weights: Float[Array, 'b t']
) -> Float[Array, 'n']:
  """How far the prediction of each example's second row is from that of its first, in nats.

      -Σ_v p(v) log softmax(q)(v)

  where p(v) is the largest probability of token v at a real position of the first row, without
  gradient, and q(v) that of the second.

  Args:
    logits: of two rows an example.
    weights: 1 on real targets, 0 on padding.

  Source: Chen et al. 2024, `compute_loss` of the released code.
  """
  likely = jax.nn.softmax(logits.astype(jnp.float32), axis=-1) * weights[..., None]
  largest = likely.max(axis=1).reshape(-1, 2, logits.shape[-1])
  p, q = jax.lax.stop_gradient(largest[:, 0]), largest[:, 1]
  return -(p * jax.nn.log_softmax(q, axis=-1)).sum(axis=-1)


def real_examples(segments: Int[Array, 'b t'], group: int) -> Float[Array, 'n']:
  """1.0 for every example, 0.0 where a batch is filled up with empty rows."""
  return (segments[::group, 0] > 0).astype(jnp.float32)
