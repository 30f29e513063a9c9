"""Greedy decoding of a batch, a few tokens at a time, as a server does between looks at its queue.

Owns the compiled programs: encode a batch, decode its next tokens, score candidates from the same
encoding. Their outputs are those of decoding.py, which decodes a batch to its end in one call. Does
not own which inputs are in a batch (serving/).

Axis legend: b rows (inputs), s input tokens, l tokens of the cache, n tokens of a call, c
candidates, t tokens of a candidate.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dss_jax.inference import decoding, scoring
from dss_jax.models import decoder as decoders
from dss_jax.models import t5
from dss_jax.models.decoder import DecodeCache


class Rows(NamedTuple):
  """A batch between two calls. `last` is the token to feed next; `ended` rows have their EOS."""

  last: Int[Array, 'b']
  ended: Bool[Array, 'b']
  cache: DecodeCache


@functools.partial(jax.jit, static_argnames='config')
def layers(config: t5.T5Config, params: t5.Params) -> Any:
  """The decoder's layers as decoding uses them: once for each student."""
  return decoders.prepare(t5.bind(config, params)).layers


@functools.partial(jax.jit, static_argnames=('config', 'length'))
def begin(
  config: t5.T5Config,
  params: t5.Params,
  layers: Any,
  inputs: Int[Array, 'b s'],
  segments: Int[Array, 'b s'],
  length: int,
) -> tuple[Rows, Float[Array, 'b s e']]:
  """Encodes a batch.

  Args:
    config: the network.
    params: its parameters.
    layers: from `layers`.
    inputs: encoder tokens, 0 on padding; a row of padding alone has ended.
    segments: 1 on real tokens, 0 on padding.
    length: most tokens that `advance` will decode.

  Returns:
    The batch before its first token, and its encoding, for `scores`.
  """
  network = t5.bind(config, params)
  encoded, mask = network.encode(inputs, segments), segments > 0
  cache = decoders.Decoder(network, layers).init_cache(encoded, mask, length)
  last = jnp.full(inputs.shape[:1], decoding.START_ID, jnp.int32)
  return Rows(last, ~mask.any(axis=1), cache), encoded


@functools.partial(jax.jit, static_argnames=('config', 'count'), donate_argnames='rows')
def advance(
  config: t5.T5Config,
  params: t5.Params,
  layers: Any,
  rows: Rows,
  stopped: Bool[Array, 'b'],
  count: int,
) -> tuple[Int[Array, 'b n'], Float[Array, 'b n'], Rows]:
  """The next `count` tokens of every row, or fewer if all end before.

  Args:
    config: the network.
    params: its parameters.
    layers: from `layers`.
    rows: the batch; its memory is used again.
    stopped: rows whose further tokens nobody wants.
    count: n; the cache has to hold them.

  Returns:
    Tokens, 0 after an EOS; the log probability of each in nats; and the batch.
  """
  decoder = decoders.Decoder(t5.bind(config, params), layers)
  number = rows.last.shape[0]

  def unfinished(state):
    at, _, _, now = state
    return (at < count) & ~now.ended.all()

  def step(state):
    at, tokens, log_probs, now = state
    logits, cache = decoder.step(now.last, now.cache)
    token = decoding.likeliest(logits)
    log_prob = jnp.where(now.ended, 0.0, decoding.log_prob_of(token, logits))
    token = jnp.where(now.ended, 0, token)
    ended = now.ended | (token == decoding.EOS_ID)
    tokens, log_probs = tokens.at[:, at].set(token), log_probs.at[:, at].set(log_prob)
    return at + 1, tokens, log_probs, Rows(token, ended, cache)

  start = (
    jnp.zeros((), jnp.int32),
    jnp.zeros((number, count), jnp.int32),
    jnp.zeros((number, count), jnp.float32),
    rows._replace(ended=rows.ended | stopped),
  )
  _, tokens, log_probs, rows = jax.lax.while_loop(unfinished, step, start)
  return tokens, log_probs, rows


@jax.jit
def take(rows: Rows, index: Int[Array, 'k']) -> Rows:
  """The batch of some of its rows, so that those that have ended need no more steps."""
  return Rows(rows.last[index], rows.ended[index], decoding.cache_of(rows.cache, index))


@functools.partial(jax.jit, static_argnames='config')
def scores(
  config: t5.T5Config,
  params: t5.Params,
  encoded: Float[Array, 'b s e'],
  segments: Int[Array, 'b s'],
  candidates: Int[Array, 'b c t'],
) -> Float[Array, 'b c']:
  """log p(candidate | input) in nats of every candidate, from the encoding of `begin`.

  Args:
    config: the network.
    params: its parameters.
    encoded: from `begin`.
    segments: as given to `begin`.
    candidates: output tokens with their EOS, 0 on padding.
  """
  return scoring.of_encoded(t5.bind(config, params), encoded, segments, candidates)
