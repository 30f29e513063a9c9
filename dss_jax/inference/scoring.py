"""The log probability of given outputs: teacher forcing over candidates, one pass for all of them.

Owns the scoring program, its batches, and the likeliest of several choices. Axis legend: n
examples, b rows (inputs), s input tokens, c candidates, t tokens of a candidate.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from jaxtyping import Array, Float, Int

from dss_jax.data.examples import Examples
from dss_jax.inference.decoder import Decoder, Progress
from dss_jax.models import t5
from dss_jax.training import losses


@functools.partial(jax.jit, static_argnames='config')
def log_probabilities(
  config: t5.T5Config,
  params: t5.Params,
  inputs: Int[Array, 'b s'],
  segments: Int[Array, 'b s'],
  candidates: Int[Array, 'b c t'],
) -> Float[Array, 'b c']:
  """log p(candidate | input) in nats, of every candidate of every input.

  Inputs are encoded once; the decoder runs once over all b x c rows.

  Args:
    config: the network.
    params: its parameters.
    inputs: encoder tokens, 0 on padding.
    segments: 1 on real tokens, 0 on padding.
    candidates: output tokens with their EOS, 0 on padding.
  """
  network = t5.bind(config, params)
  return of_encoded(network, network.encode(inputs, segments), segments, candidates)


def of_encoded(
  network: t5.T5,
  encoded: Float[Array, 'b s e'],
  segments: Int[Array, 'b s'],
  candidates: Int[Array, 'b c t'],
) -> Float[Array, 'b c']:
  """As `log_probabilities`, of inputs that are encoded already."""
  rows, count, width = candidates.shape
  encoded = jnp.repeat(encoded, count, axis=0)
  targets = candidates.reshape(rows * count, width)
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
  decoder: Decoder,
  params: t5.Params,
  examples: Examples,
  candidates: np.ndarray,
  progress: Progress | None = None,
) -> np.ndarray:
  """float32 [n, c]: `log_probabilities` of all examples, in batches as they are decoded.

  Args:
    decoder: gives network, batches and mesh.
    params: of the network.
    examples: n inputs.
    candidates: output tokens with their EOS [n, c, t], or [c, t] if they are the same for all.
    progress: called after each batch.
  """
  candidates = np.broadcast_to(candidates, (len(examples), *candidates.shape[-2:]))
  scores = np.zeros(candidates.shape[:2], np.float32)
  done = 0

  def step(inputs, segments, rows):
    own = jnp.take(candidates, jnp.maximum(rows, 0), axis=0)
    return log_probabilities(decoder.config, params, inputs, segments, own)

  for rows, log_probs in decoder.map_batches(examples, step):
    real = rows >= 0
    scores[rows[real]] = log_probs[real]
    done += int(real.sum())
    if progress is not None:
      progress(done, len(examples))
  return scores


class Chosen(NamedTuple):
  """The likeliest of each example's choices, and the mean log probability of its tokens [n]."""

  texts: list[str]
  scores: np.ndarray


def choose(
  decoder: Decoder,
  params: t5.Params,
  examples: Examples,
  choices: Sequence[Sequence[str]],
  vocabulary: seqio.Vocabulary,
  progress: Progress | None = None,
) -> Chosen:
  """The choice whose tokens, EOS included, have the highest mean log probability in nats.

  Args:
    decoder: see `score`.
    params: likewise.
    examples: likewise.
    choices: n times c texts.
    vocabulary: of the outputs.
    progress: likewise.

  Source: Wang et al. 2022, arXiv 2211.01562.
  """
  ids = [[*vocabulary.encode(text), vocabulary.eos_id] for of in choices for text in of]
  tokens = padded(ids).reshape(len(choices), len(choices[0]), -1)
  means = score(decoder, params, examples, tokens, progress) / (tokens > 0).sum(axis=2)
  best = means.argmax(axis=1)
  texts = [of[at] for of, at in zip(choices, best, strict=True)]
  return Chosen(texts, means[np.arange(len(texts)), best])
