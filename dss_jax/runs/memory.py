"""Memory that does not suffice, said in a sentence with the settings that need less.

Owns a lower bound on what training takes of a CPU's memory, where the kernel would kill the process
without a word, and the words for allocations that fail. What a plan needs is planning/'s, by the
compiler.
"""

import contextlib
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dss_jax.models import t5
from dss_jax.runs.run_config import RunConfig
from dss_jax.settings import free_memory

TRAINING = (
  'Raise NUM_MICROBATCHES (the result is the same) or lower BATCH_SIZE; in validation, lower '
  "EVAL_BATCH_SIZE. REMAT_POLICY = 'full', shorter TASK_FEATURE_LENGTHS and OPTIMIZER = "
  "'adafactor' need less too, and MESH_FSDP divides the parameters among devices. `dss plan` says "
  'what fits.'
)
DECODING = 'Lower BATCH_SIZE, which decoding needs memory for; the answers stay the same.'


@contextlib.contextmanager
def explained(advice: str) -> Iterator[None]:
  """Within it, an allocation that fails is a ValueError that ends with the advice."""
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    text = str(error).strip() or 'an allocation failed'
    if not isinstance(error, MemoryError) and 'RESOURCE_EXHAUSTED' not in text:
      raise
    raise ValueError(f'memory does not suffice: {text.splitlines()[0][:300]} {advice}') from error


def check(run: RunConfig, mesh: Mesh) -> None:
  """Refuses a run that cannot fit into the memory of this machine, where it trains on CPUs.

  Raises:
    ValueError: even a lower bound is more than there is; the message has both.
  """
  available = available_bytes()
  if mesh.devices.flat[0].platform != 'cpu' or available is None:
    return
  needed = least_bytes(run) // jax.process_count()
  if needed > available:
    raise ValueError(
      f'memory does not suffice: an update of {run.data.batch_size // run.num_microbatches:,} rows '
      f'(BATCH_SIZE / NUM_MICROBATCHES) needs at least {needed / 1e9:,.1f} GB, and '
      f'{available / 1e9:,.1f} GB are available. {TRAINING}'
    )


def least_bytes(run: RunConfig) -> int:
  """What an update takes at least, on all devices together.

  Parameters, their gradients and the optimizer's state; of a microbatch the input of each layer and
  the logits, which every REMAT_POLICY keeps.
  """
  model, lengths = run.model, run.data.task_feature_lengths
  parameters = sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(t5.abstract(model)[0])
  )
  copies = 4 if run.optimizer.name == 'adamw' else 2  # two moments; those of Adafactor are small
  rows = run.data.batch_size // run.num_microbatches
  tokens = (
    lengths['inputs'] * model.num_encoder_layers + lengths['targets'] * model.num_decoder_layers
  )
  assert model.vocab_size is not None
  activations = rows * (tokens * model.emb_dim + lengths['targets'] * model.vocab_size)
  return copies * parameters + jnp.dtype(model.dtype).itemsize * activations


def available_bytes() -> int | None:
  """The memory that this machine or container still has; None where it is unknown."""
  found = free_memory.read()
  return None if found is None else found.available
