"""Memory that does not suffice is a sentence with the settings to change."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from small_runs import untrained_run

from dss_jax.commands import predict, train
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.runs import memory, training_setup


def _mesh():
  return partitioning.make_mesh(partitioning.MeshConfig())


def _run(folder, rows=8, parts=1):
  run = untrained_run(folder)
  model = dataclasses.replace(run.model, vocab_size=384)
  data = dataclasses.replace(run.data, batch_size=rows)
  return dataclasses.replace(run, model=model, data=data, num_microbatches=parts)


def test_the_least_is_that_of_the_state_and_of_a_microbatch(tmp_path):
  run = _run(tmp_path, rows=8, parts=2)
  parameters = sum(4 * leaf.size for leaf in jax.tree.leaves(t5.abstract(run.model)[0]))
  # 4 rows; bfloat16; 2 + 2 layers on 64 inputs and 32 targets of 16 numbers; 384 logits a target
  activations = 2 * 4 * (2 * 64 * 16 + 2 * 32 * 16 + 32 * 384)
  assert memory.least_bytes(run) == 4 * parameters + activations
  adafactor = dataclasses.replace(
    run, optimizer=dataclasses.replace(run.optimizer, name='adafactor', weight_decay=0.0)
  )
  assert memory.least_bytes(adafactor) == 2 * parameters + activations


@pytest.mark.parametrize('rows', [10**9, 10**20])
def test_a_batch_that_no_memory_holds_is_refused_at_the_start(tmp_path, rows):
  run = dataclasses.replace(_run(tmp_path, rows), vocabulary='bytes')
  with pytest.raises(ValueError) as caught:
    training_setup.set_up(run, contextlib.ExitStack())
  text = str(caught.value)
  assert text.startswith(f'memory does not suffice: an update of {rows:,} rows (BATCH_SIZE / NUM_')
  assert 'GB are available. Raise NUM_MICROBATCHES' in text
  assert not list(tmp_path.iterdir())


def test_what_fits_is_not_refused(tmp_path, monkeypatch):
  run = _run(tmp_path)
  memory.check(run, _mesh())
  monkeypatch.setattr(memory, 'available_bytes', lambda: memory.least_bytes(run))
  memory.check(run, _mesh())
  monkeypatch.setattr(memory, 'available_bytes', lambda: memory.least_bytes(run) - 1)
  with pytest.raises(ValueError, match='memory does not suffice'):
    memory.check(run, _mesh())
  monkeypatch.setattr(memory, 'available_bytes', lambda: None)
  memory.check(run, _mesh())


@pytest.mark.parametrize('verb', [train, predict])
@pytest.mark.parametrize(
  'error',
  [
    jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\nmore'),
    MemoryError('Unable to allocate 7.28 TiB for an array'),
    MemoryError(),
  ],
)
def test_an_allocation_that_fails_is_a_sentence(verb, error, monkeypatch):
  def fail(*unused):
    raise error

  monkeypatch.setattr(verb.gin_files, 'parse', fail)
  with pytest.raises(ValueError, match=r'^memory does not suffice: .*BATCH_SIZE') as caught:
    verb.main([])
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('zeros', [np.zeros, jax.numpy.zeros])
def test_more_than_the_address_space_is_explained(zeros):
  told = pytest.raises(ValueError, match=r'memory does not suffice: .*llocat.*BATCH_SIZE')
  with told, memory.explained(memory.TRAINING):
    zeros(1 << 46, np.float32)


def test_other_errors_of_xla_stay():
  told = pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL')
  with told, memory.explained(memory.DECODING):
    raise jax.errors.JaxRuntimeError('INTERNAL: a bug')
