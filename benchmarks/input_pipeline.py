"""How fast batches are made, against how fast a TPU slice eats them, and how long training waits.

    python benchmarks/input_pipeline.py --work=DIR --raw_dir=DIR [--json=FILE]

Prepared CQA and SVAMP, packed by one thread on one core, in rows per second against
--rows_per_second: by default 128 rows every 0.057 s, what a T5 1.1 base on a v5e-8 learns from at
its fastest (layers unrolled), by the compiler's estimate. Then the share of time that a consumer of
batches waits for the next one, with the prefetching that `dss train` has: for a consumer that takes
the slice's time for each batch, and for real training steps of a small network (2 + 2 layers of
width 128, 8 rows) on this machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pairs
import real_data

from dss_jax.data import pipeline
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.training import losses, optimizers, steps, train_state

ROWS, STEP_SECONDS = 128, 0.057
CPU_ROWS = 8  # of a batch that this machine trains on
LENGTHS = {'inputs': 512, 'targets': 128}
NETWORK = t5.T5Config(
  vocab_size=None, emb_dim=128, num_heads=4, head_dim=32, mlp_dim=256, num_encoder_layers=2,
  num_decoder_layers=2, dtype='float32',
)  # fmt: skip


def main() -> int:
  """Measures and prints."""
  options = _parser().parse_args()
  rows, sleep = [], sleep_of(ROWS / options.rows_per_second)
  for dataset in ('cqa', 'svamp'):
    began = time.perf_counter()
    folder, vocabulary = real_data.prepare(options, dataset)
    prepared = time.perf_counter()
    mixture, size = real_data.load(folder, vocabulary, f'{dataset}_dss')
    loaded = time.perf_counter() - prepared
    print(f'{dataset}: prepared in {prepared - began:.1f} s', file=sys.stderr)
    config = pipeline.DataConfig(f'{dataset}_dss', LENGTHS, ROWS)
    small = pipeline.DataConfig(f'{dataset}_dss', LENGTHS, CPU_ROWS)
    rates = [rate(mixture, config, options.seconds) for _ in range(options.rounds)]
    made = statistics.median(rows for rows, _ in rates)
    rows.append(
      {
        'data': dataset,
        'load, s': loaded,
        'rows/s': round(made),
        'sequences/s': round(statistics.median(sequences for _, sequences in rates)),
        'eaten, rows/s': options.rows_per_second,
        'ratio': made / options.rows_per_second,
        'wait share, slice': wait_share(mixture, config, sleep, options.seconds),
        'wait share, this CPU': wait_share(mixture, small, training_of(size), options.seconds),
      }
    )
  print(f'\nBatches of {ROWS} rows of {LENGTHS}, one core, median of {options.rounds}:\n')
  print(pairs.table(rows))
  machine = pairs.machine('jax', 'numpy')
  print(f'\n{machine}')
  pairs.write_json(options.json, {'machine': machine, 'input_pipeline': rows})
  return 0


def rate(mixture, config: pipeline.DataConfig, seconds: float) -> tuple[float, float]:
  """Rows and real sequences that one thread makes in a second of its own processor time."""
  batches = pipeline.TrainBatches(mixture, config)
  next(batches)
  rows = sequences = 0
  began = time.thread_time()
  while (spent := time.thread_time() - began) < seconds:
    batch = next(batches)
    rows += config.batch_size
    sequences += batch.sequences
  return rows / spent, sequences / spent


def wait_share(
  mixture, config: pipeline.DataConfig, consume: Callable[[Any], None], seconds: float
) -> float:
  """The part of its time that a consumer waits for batches, after the first few."""
  mesh = partitioning.make_mesh(partitioning.MeshConfig())

  def put(batch: pipeline.Batch):
    return partitioning.put_batch(mesh, batch.arrays)

  with pipeline.Prefetch(pipeline.TrainBatches(mixture, config), put) as batches:
    for _ in range(3):  # compilation, and the first window
      consume(next(batches))
    waited, began = batches.wait_seconds, time.perf_counter()
    while time.perf_counter() - began < seconds:
      consume(next(batches))
    return (batches.wait_seconds - waited) / (time.perf_counter() - began)


def sleep_of(seconds: float) -> Callable[[Any], None]:
  """A consumer that leaves the processor alone, as one on another device does."""
  return lambda arrays: time.sleep(seconds)


def training_of(vocab_size: int) -> Callable[[Any], None]:
  """A consumer that trains a network of two layers: more would hide a wait behind its own time."""
  model = t5.T5Config(**{**vars(NETWORK), 'vocab_size': vocab_size})
  settings = optimizers.OptimizerConfig(decay_steps=10_000)
  optimizer = optimizers.make_optimizer(settings, t5.logical_axes(model))
  state = train_state.create(
    model, optimizer, partitioning.make_mesh(partitioning.MeshConfig()), seed=0
  )
  update = steps.make_train_step(model, losses.Objective(), optimizer, seed=0)
  step = jax.jit(update, donate_argnums=0)

  def consume(arrays) -> None:
    nonlocal state
    state, metrics = step(state, arrays)
    assert np.isfinite(metrics['loss'])

  return consume


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
  real_data.add_arguments(parser)
  parser.add_argument('--rows_per_second', type=float, default=ROWS / STEP_SECONDS)
  parser.add_argument('--seconds', type=float, default=5.0, help='of each measurement')
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--json', help='a file for the figures')
  return parser


if __name__ == '__main__':
  sys.exit(main())
