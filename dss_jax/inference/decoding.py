"""Text from a T5: greedy, beam and temperature decoding, jitted, with a key-value cache.

Owns the loops over output tokens. Does not own the network (models/t5.py), batching
(data/pipeline.py), or the use of the tokens (evaluator.py, predictor.py). A loop stops as soon as
every row has ended; on CPUs, rows that have ended leave the batch when that halves it.

Axis legend: b rows (inputs), k beams, l output tokens, v vocabulary.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from dss_jax.models import decoder as decoders
from dss_jax.models import t5
from dss_jax.models.decoder import DecodeCache, Decoder
from dss_jax.parallel import devices
from dss_jax.settings import fields

START_ID = 0
EOS_ID = 1
METHODS = ('greedy', 'beam', 'temperature')


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How to decode; hashable, a static argument of `decode`.

  Attributes:
    method: 'greedy' takes the likeliest token, the first of equals; 'beam' searches; 'temperature'
      samples from softmax(logits / temperature).
    max_length: most tokens of an output, its EOS included.
    beams: hypotheses kept by 'beam'; at most half the vocabulary.
    length_penalty: a score is sum(log p) / length^length_penalty; 'beam' ranks by it.
    temperature: of 'temperature'; above 0.
  """

  method: str = 'greedy'
  max_length: int = 64
  beams: int = 4
  length_penalty: float = 1.0
  temperature: float = 1.0

  def __post_init__(self):
    fields.check(self)
    if self.method not in METHODS:
      raise ValueError(f'Decoding.method is one of {METHODS}, not {self.method!r}.')
    for name in ('max_length', 'beams'):
      if getattr(self, name) < 1:
        raise ValueError(f'Decoding.{name} is at least 1, not {getattr(self, name)}.')
    if not self.temperature > 0:
      raise ValueError(
        f'Decoding.temperature is above 0, not {self.temperature}; '
        "method='greedy' is its limit at 0."
      )


@functools.partial(jax.jit, static_argnames=('config', 'decoding'))
def decode(
  config: t5.T5Config,
  params: t5.Params,
  inputs: Int[Array, 'b s'],
  segments: Int[Array, 'b s'],
  decoding: Decoding,
  row_keys: Key[Array, 'b'] | None = None,
) -> tuple[Int[Array, 'b l'], Float[Array, 'b']]:
  """Decodes every input; compiled once for each config, decoding, shape and mesh of `set_mesh`.

  Args:
    config: the network.
    params: its parameters, replicated or sharded.
    inputs: encoder tokens, 0 on padding. A row of padding alone is a filler and costs no steps.
    segments: 1 on real tokens, 0 on padding.
    decoding: the method and its settings.
    row_keys: the randomness of each row, for 'temperature' only: a row's output depends on its
      own key and not on its neighbours.

  Returns:
    Tokens [b, decoding.max_length], 0 after the EOS, and scores [b] as `Decoding` defines them.

  Raises:
    ValueError: 'temperature' without row_keys, or more beams than half the vocabulary.
  """
  if decoding.method == 'temperature' and row_keys is None:
    raise ValueError("Decoding by method='temperature' needs row_keys, one random key a row.")
  beams = decoding.beams if decoding.method == 'beam' else 1
  network = t5.bind(config, params)
  vocab_size = network.embedding.shape[0]
  if 2 * beams > vocab_size:
    raise ValueError(f'Decoding.beams is at most {vocab_size // 2} here, not {beams}.')
  mask = segments > 0
  decoder = decoders.prepare(network)
  cache = decoder.init_cache(network.encode(inputs, segments), mask, decoding.max_length, beams)
  is_real = mask.any(axis=1)
  if decoding.method == 'beam':
    return _beam_search(decoder, cache, is_real, decoding)
  return _sample(decoder, cache, is_real, decoding, row_keys)


class _Sample(NamedTuple):
  """One hypothesis a row, of the rows that are still computed.

  Attributes:
    tokens: so far, 0 after the EOS.
    last: the token to feed next.
    log_prob: the sum over the tokens.
    done: rows that have their EOS, and fillers.
    cache: of the decoder.
    rows: their places in the batch.
    keys: their randomness, or None.
  """

  tokens: Int[Array, 'b l']
  last: Int[Array, 'b']
  log_prob: Float[Array, 'b']
  done: Bool[Array, 'b']
  cache: DecodeCache
  rows: Int[Array, 'b']
  keys: Key[Array, 'b'] | None


def _sample(decoder: Decoder, cache: DecodeCache, is_real, decoding: Decoding, row_keys):
  """Greedy and temperature decoding."""
  rows, length = is_real.shape[0], decoding.max_length
  tokens, log_prob = jnp.zeros((rows, length), jnp.int32), jnp.zeros((rows,), jnp.float32)
  state = _Sample(
    tokens=tokens,
    last=jnp.full((rows,), START_ID, jnp.int32),
    log_prob=log_prob,
    done=~is_real,
    cache=cache,
    rows=jnp.arange(rows),
    keys=row_keys,
  )
  for fewer in (*_fewer_rows(rows, length), 0):
    state = jax.lax.while_loop(
      functools.partial(_more_than, fewer, length),
      functools.partial(_step, decoder, decoding),
      state,
    )
    tokens = tokens.at[state.rows].set(state.tokens)
    log_prob = log_prob.at[state.rows].set(state.log_prob)
    if fewer:
      state = _take_rows(state, jnp.argsort(state.done)[:fewer])
  ends = tokens == EOS_ID
  tokens_used = jnp.where(ends.any(axis=1), jnp.argmax(ends, axis=1) + 1, length)
  return tokens, log_prob / _divisors(decoding)[tokens_used - 1]


def _fewer_rows(rows: int, length: int) -> list[int]:
  """The numbers of rows to go on with once no more are needed: where it pays, a half and a quarter.

  Each is a loop of its own in the program, which short outputs are not worth.
  """
  if not devices.shrinks_decoding() or length < 32:
    return []
  return [rows // part for part in (2, 4) if rows % part == 0 and rows // part >= 8]


def _more_than(fewer: int, length: int, state: _Sample) -> Bool[Array, '']:
  return (state.cache.position < length) & ((~state.done).sum() > fewer)


def _step(decoder: Decoder, decoding: Decoding, state: _Sample) -> _Sample:
  position = state.cache.position
  logits, cache = decoder.step(state.last, state.cache)
  token = _next_token(logits, decoding, state.keys, position)
  log_prob = log_prob_of(token, logits)
  token = jnp.where(state.done, 0, token)
  return state._replace(
    tokens=state.tokens.at[:, position].set(token),
    last=token,
    log_prob=state.log_prob + jnp.where(state.done, 0.0, log_prob),
    done=state.done | (token == EOS_ID),
    cache=cache,
  )


def _take_rows(state: _Sample, keep: Int[Array, 'n']) -> _Sample:
  """The state of some rows."""
  rest = state._asdict() | {'cache': None}
  kept = jax.tree.map(lambda part: part[keep], rest)
  return _Sample(**kept | {'cache': cache_of(state.cache, keep)})


def cache_of(cache: DecodeCache, keep: Int[Array, 'n']) -> DecodeCache:
  """The cache of some rows."""
  of_rows = functools.partial(jnp.take, indices=keep, axis=-4)
  return cache._replace(
    self_kv=jax.tree.map(of_rows, cache.self_kv),
    cross_kv=jax.tree.map(of_rows, cache.cross_kv),
    inputs_mask=cache.inputs_mask[keep],
  )


def _next_token(
  logits: Float[Array, 'b v'], decoding: Decoding, row_keys, position
) -> Int[Array, 'b']:
  """The likeliest token, or one drawn by the Gumbel-max trick."""
  if decoding.method == 'temperature':
    keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, position)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    logits = logits / decoding.temperature + noise
  return likeliest(logits)


def likeliest(logits: Float[Array, 'b v']) -> Int[Array, 'b']:
  """The index of the largest logit, the first of equals.

  XLA's argmax carries value and index through one scalar loop on CPUs; two reductions of one value
  each are vectorized there and take an eighth of its time.
  """
  size = logits.shape[1]
  index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
  is_best = logits == logits.max(axis=1, keepdims=True)
  return jnp.where(is_best, index, size - 1).min(axis=1)


def log_prob_of(token: Int[Array, 'b'], logits: Float[Array, 'b v']) -> Float[Array, 'b']:
  """log p of each row's token, in nats."""
  chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
  return chosen - jax.nn.logsumexp(logits, axis=1)


class _Beams(NamedTuple):
  """Beam search of every row: hypotheses that still grow, and the best that have ended.

  Attributes:
    tokens, log_prob: of the growing ones, likeliest first.
    ended_tokens, ended_score: of the ended ones, best first; -inf where there is none yet.
    improvable: whether a growing one may still beat the worst of the ended.
    cache: its self-attention rows are the growing ones.
  """

  tokens: Int[Array, 'b k l']
  log_prob: Float[Array, 'b k']
  ended_tokens: Int[Array, 'b k l']
  ended_score: Float[Array, 'b k']
  improvable: Bool[Array, 'b']
  cache: DecodeCache


def _beam_search(decoder: Decoder, cache: DecodeCache, is_real, decoding: Decoding):
  """Beam search with the outputs of `transformers.generate(early_stopping=False)`.

  Of the 2k likeliest continuations at most k end, so k keep growing; only those among the first k
  may end. A row stops when its best growing hypothesis, scored at its present length, does not
  beat the worst of k ended ones: a heuristic where length_penalty > 0, and Hugging Face's.

  Source: transformers 5, generation/utils.py, `_beam_search`.
  """
  rows, beams, length = is_real.shape[0], decoding.beams, decoding.max_length
  divisors = _divisors(decoding)

  def unfinished(state: _Beams):
    return (state.cache.position < length) & state.improvable.any()

  def step(state: _Beams) -> _Beams:
    position = state.cache.position
    last = jnp.where(position == 0, START_ID, state.tokens[:, :, position - 1])
    logits, cache = decoder.step(last.reshape(-1), state.cache)
    log_prob, parent, token = _continuations(logits, state.log_prob)
    tokens = _take(state.tokens, parent).at[:, :, position].set(token)
    ends = (token == EOS_ID) | (position + 1 == length)

    may_end = ends & (jnp.arange(2 * beams) < beams)[None] & state.improvable[:, None]
    score = jnp.where(may_end, log_prob / divisors[position], -jnp.inf)
    ended_score, best = jax.lax.top_k(jnp.append(state.ended_score, score, axis=1), beams)
    ended_tokens = _take(jnp.append(state.ended_tokens, tokens, axis=1), best)

    log_prob, best = jax.lax.top_k(jnp.where(ends, -jnp.inf, log_prob), beams)
    best_growing = log_prob[:, 0] / divisors[position]
    return _Beams(
      tokens=_take(tokens, best),
      log_prob=log_prob,
      ended_tokens=ended_tokens,
      ended_score=ended_score,
      improvable=state.improvable & (best_growing > ended_score.min(axis=1)),
      cache=_reorder(cache, _take(parent, best)),
    )

  empty = jnp.zeros((rows, beams, length), jnp.int32)
  none = jnp.full((rows, beams), -jnp.inf)
  # All beams are equal at the start: only the first may be continued.
  start = _Beams(empty, none.at[:, 0].set(0.0), empty, none, is_real, cache)
  state = jax.lax.while_loop(unfinished, step, start)
  return state.ended_tokens[:, 0], state.ended_score[:, 0]


def _continuations(logits: Float[Array, 'bk v'], log_prob: Float[Array, 'b k']):
  """The 2k likeliest continuations of every row: log p, the beam continued, the token; [b, 2k]."""
  rows, beams = log_prob.shape
  total = jax.nn.log_softmax(logits).reshape(rows, beams, -1) + log_prob[:, :, None]
  best, index = jax.lax.top_k(total.reshape(rows, -1), 2 * beams)
  parent, token = jnp.divmod(index, total.shape[-1])
  return best, parent, token


def _take(values: Array, beams: Int[Array, 'b n']) -> Array:
  """`values` [b, m, ...] at each row's `beams`: [b, n, ...]."""
  index = beams.reshape(beams.shape + (1,) * (values.ndim - 2))
  return jnp.take_along_axis(values, index, axis=1)


def _reorder(cache: DecodeCache, parent: Int[Array, 'b k']) -> DecodeCache:
  """The cache with each beam's past replaced by its parent's; the encoder's part is shared."""

  def reorder(past: Array) -> Array:  # [..., b * k, heads, head_dim, l]
    by_row = past.reshape(-1, *parent.shape, *past.shape[-3:])
    return jax.vmap(_take, (0, None))(by_row, parent).reshape(past.shape)

  return cache._replace(self_kv=jax.tree.map(reorder, cache.self_kv))


def _divisors(decoding: Decoding) -> Float[Array, 'l']:
  """What the log probability of an output of length 1, 2, ... is divided by."""
  lengths = np.arange(1, decoding.max_length + 1, dtype=np.float64)
  return jnp.asarray(lengths**decoding.length_penalty, jnp.float32)
