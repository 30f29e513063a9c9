"""One output token by token, as it is decoded: what a person watches.

Owns the loop outside of jit; one token is one call of a compiled step. Decoding many inputs at once
is decoding.py's, which runs the whole loop on the devices.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from dss_jax.data import pipeline
from dss_jax.data.examples import Examples
from dss_jax.inference import decoding, evaluator
from dss_jax.models import decoder as decoders
from dss_jax.models import t5
from dss_jax.models.decoder import DecodeCache
from dss_jax.parallel import distributed, partitioning


@functools.partial(jax.jit, static_argnames=('config', 'length'))
def _start(config: t5.T5Config, params: t5.Params, inputs, segments, length: int):
  """The decoder's layers as decoding uses them, and an empty cache for `length` tokens."""
  network = t5.bind(config, params)
  decoder = decoders.prepare(network)
  return decoder.layers, decoder.init_cache(network.encode(inputs, segments), segments > 0, length)


@functools.partial(jax.jit, static_argnames='config', donate_argnames='cache')
def _step(config: t5.T5Config, params: t5.Params, layers: Any, last, cache: DecodeCache):
  """The likeliest next token of every row, int32 [rows], and the cache."""
  decoder = decoders.Decoder(t5.bind(config, params), layers)
  logits, cache = decoder.step(last, cache)
  return decoding.likeliest(logits), cache


def tokens(decoder: evaluator.Decoder, params: t5.Params, example: Examples) -> Iterator[int]:
  """The tokens of the greedy output of one input, up to its EOS, each as soon as it is known.

  Args:
    decoder: network, length and mesh; its method has to be 'greedy'.
    params: of the network, placed.
    example: one input.

  Raises:
    ValueError: more than one input, another method, or one of several processes.
  """
  if distributed.is_multiprocess():
    raise ValueError('text as it comes is for a single process; DSS_NUM_PROCESSES=1 runs it alone.')
  if len(example) != 1 or decoder.decoding.method != 'greedy':
    raise ValueError(
      'streaming decodes one input, greedily; got '
      f'{len(example)} inputs and DECODING {decoder.decoding.method!r}.'
    )
  (batch,) = pipeline.inference_batches(example, decoder.fewest_rows(1), decoder.max_input_length)
  mesh = decoder.mesh
  arrays: Any = batch.arrays if mesh is None else partitioning.put_batch(mesh, batch.arrays)
  on_mesh = contextlib.nullcontext if mesh is None else functools.partial(jax.set_mesh, mesh)
  config, length = decoder.config, decoder.decoding.max_length
  with on_mesh():
    layers, cache = _start(
      config, params, arrays['encoder_input_tokens'], arrays['encoder_segment_ids'], length
    )
  last: Any = np.full(len(batch.rows), decoding.START_ID, np.int32)
  for _ in range(length):
    with on_mesh():
      last, cache = _step(config, params, layers, last, cache)
    token = int(last[0])
    if token == decoding.EOS_ID:
      return
    yield token
