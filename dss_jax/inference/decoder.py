"""The decoder of examples: batches of few shapes, divided over the mesh, compiled once for each.

Owns the way from examples and parameters to output tokens. Does not own batches (data/pipeline.py)
or decoding itself (decoding.py).
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dss_jax.data import pipeline
from dss_jax.data.examples import Examples
from dss_jax.inference import decoding
from dss_jax.models import t5
from dss_jax.parallel import devices, partitioning

Progress = Callable[[int, int], None]
"""Called after every batch with the numbers of examples done and in all."""


class Decoded(NamedTuple):
  """The outputs of n examples: tokens int32 [n, l] with 0 after the EOS, scores float32 [n]."""

  tokens: np.ndarray
  scores: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Decoder:
  """Decodes examples in batches bucketed by length; compiled once per batch width.

  Attributes:
    config: the network.
    decoding: method and settings.
    batch_size: rows decoded at once, over all devices; with a mesh, a multiple of data x fsdp.
    max_input_length: in tokens; longer inputs are cut and keep their EOS.
    mesh: divides the rows over its batch axes; None leaves them on one device.
    seed: of temperature sampling; an example's sample depends on seed and position alone.
  """

  config: t5.T5Config
  decoding: decoding.Decoding
  batch_size: int
  max_input_length: int
  mesh: Mesh | None = None
  seed: int = 0

  def __post_init__(self):
    for name in ('batch_size', 'max_input_length'):
      if getattr(self, name) < 1:
        raise ValueError(f'Decoder.{name} is at least 1, not {getattr(self, name)}.')
    if self.mesh is not None:
      partitioning.check_batch(self.mesh, self.batch_size, 'the batch size of decoding')

  def __call__(
    self, params: t5.Params, examples: Examples, progress: Progress | None = None
  ) -> Decoded:
    """The output of every example, in their order."""
    total = len(examples)
    tokens = np.zeros((total, self.decoding.max_length), np.int32)
    scores = np.zeros(total, np.float32)
    done = 0

    def step(inputs, segments, rows):
      keys = self._row_keys(rows)
      return decoding.decode(self.config, params, inputs, segments, self.decoding, keys)

    for rows, (batch_tokens, batch_scores) in self.map_batches(examples, step):
      real = rows >= 0
      tokens[rows[real]] = batch_tokens[real]
      scores[rows[real]] = batch_scores[real]
      done += int(real.sum())
      if progress is not None:
        progress(done, total)
    return Decoded(tokens, scores)

  def truncated(self, examples: Examples) -> int:
    """How many of the inputs are cut."""
    return int((examples.input_lengths > self.max_input_length).sum())

  def map_batches(self, examples: Examples, step: Callable[..., Any]) -> Iterator[tuple]:
    """Runs a function on every batch of the examples' inputs; gathers its results everywhere.

    Args:
      examples: whose inputs are taken, longest first.
      step: (tokens [rows, width], segment ids [rows, width], example [rows]) -> arrays [rows, ...].

    Yields:
      int32 [rows]: the index of each row's example, -1 for a filler row; and the result of `step`.
    """
    parts, count = ((0,), 1) if self.mesh is None else partitioning.local_parts(self.mesh)
    batches = pipeline.inference_batches(
      examples,
      min(self.batch_size, self.fewest_rows(len(examples))),
      self.max_input_length,
      devices.narrowest_inputs(self.mesh),
      parts=parts,
      count=count,
    )

    def run(batch: pipeline.InferenceBatch) -> tuple:
      arrays: Any = {**batch.arrays, 'rows': batch.rows.astype(np.int32)}
      if self.mesh is not None:
        arrays = partitioning.put_batch(self.mesh, arrays)
      with contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh):
        outputs = step(
          arrays['encoder_input_tokens'], arrays['encoder_segment_ids'], arrays['rows']
        )
      return multihost_utils.process_allgather((arrays['rows'], outputs), tiled=True)

    threads = devices.decoding_threads(self.mesh)
    yield from map(run, batches) if threads == 1 else _side_by_side(run, batches, threads)

  def fewest_rows(self, total: int) -> int:
    """Rows that hold all examples: what the mesh divides evenly, times a power of two.

    So programs are compiled for few numbers of rows, however many questions come at once.
    """
    parts = 1 if self.mesh is None else self.mesh.shape['data'] * self.mesh.shape['fsdp']
    return parts * 2 ** (-(-total // parts) - 1).bit_length()

  def _row_keys(self, rows):
    if self.decoding.method != 'temperature':
      return None
    return _fold_in(jax.random.key(self.seed), rows)


def _side_by_side(
  run: Callable[[Any], tuple], batches: Iterator[Any], threads: int
) -> Iterator[tuple]:
  """`map(run, batches)` in several threads; the first batch of a shape alone, which compiles it."""
  compiled, running = set(), collections.deque[concurrent.futures.Future]()
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for batch in batches:
      running.append(pool.submit(run, batch))
      shape = batch.arrays['encoder_input_tokens'].shape
      if shape not in compiled:
        compiled.add(shape)
        concurrent.futures.wait(running)
      if len(running) > threads:
        yield running.popleft().result()
    while running:
      yield running.popleft().result()


@jax.jit
def _fold_in(key, rows):
  return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
