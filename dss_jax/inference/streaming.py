"""One output token by token, as it is decoded: what a person watches.

Owns the loop outside of jit; one token is one call of stepping.py. Decoding many inputs at once is
decoding.py's, which runs the whole loop on the devices.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from dss_jax.data import pipeline
from dss_jax.data.examples import Examples
from dss_jax.inference import decoding, evaluator, stepping
from dss_jax.models import t5
from dss_jax.parallel import distributed, partitioning


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
    layers = stepping.layers(config, params)
    rows, _ = stepping.begin(
      config, params, layers,
      arrays['encoder_input_tokens'], arrays['encoder_segment_ids'], length,
    )  # fmt: skip
  stopped = np.zeros(len(batch.rows), bool)
  for _ in range(length):
    with on_mesh():
      found, _, rows = stepping.advance(config, params, layers, rows, stopped, 1)
    token = int(found[0, 0])
    if token == decoding.EOS_ID:
      return
    yield token
