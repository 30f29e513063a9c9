"""The log probability of given outputs: teacher forcing over candidates, one pass for all of them.

Owns the scoring program and its batches. Axis legend: b rows (inputs), s input tokens,
c candidates, t tokens of a candidate.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dss_jax.data.examples import Examples
from dss_jax.inference import evaluator
from dss_jax.models import t5
from dss_jax.training import losses


@functools.partial(jax.jit, static_argnames='config')
def log_probabilities(
  config: t5.T5Config,
  params: t5.Params,
  inputs: Int[Array, 'b s'],
  segments: Int[Array, 'b s'],
  candidates: Int[Array, 'c t'],
) -> Float[Array, 'b c']:
  """log p(candidate | input) in nats, of every candidate for every input.

  Inputs are encoded once; the decoder runs once over all b x c rows.

  Args:
    config: the network.
    params: its parameters.
    inputs: encoder tokens, 0 on padding.
    segments: 1 on real tokens, 0 on padding.
    candidates: output tokens with their EOS, 0 on padding.
  """
  rows, count = inputs.shape[0], candidates.shape[0]
  network = t5.bind(config, params)
  encoded = jnp.repeat(network.encode(inputs, segments), count, axis=0)
  targets = jnp.tile(candidates, (rows, 1))
  shifted = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  real = (targets > 0).astype(jnp.int32)
  logits = network.decode(encoded, jnp.repeat(segments, count, axis=0), shifted, real)
  loss = losses.token_losses(logits, targets) * real.astype(jnp.float32)
  return -loss.sum(axis=1).reshape(rows, count)


def padded(candidates: Sequence[Sequence[int]]) -> np.ndarray:
  """int32 [c, t]: token ids filled up with 0."""
  width = max(map(len, candidates))
  return np.array([[*ids, *[0] * (width - len(ids))] for ids in candidates], np.int32)


def score(
  decoder: evaluator.Decoder, params: t5.Params, examples: Examples, candidates: np.ndarray
) -> np.ndarray:
  """float32 [examples, c]: `log_probabilities` of all examples, in batches as they are decoded."""
  scores = np.zeros((len(examples), len(candidates)), np.float32)
  step = functools.partial(log_probabilities, decoder.config, params)
  for rows, log_probs in decoder.map_batches(
    examples, lambda inputs, segments, _: step(inputs, segments, candidates)
  ):
    scores[rows[rows >= 0]] = log_probs[rows >= 0]
  return scores
