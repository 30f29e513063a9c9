"""Runs of a tiny student on a part of the embedded data, in this process, to test training on.

Owns their settings, and the fixture that a test file imports to read the data once.
"""

import dataclasses

import pytest

from dss_jax.data import pipeline, shared_tables
from dss_jax.models import t5
from dss_jax.runs.run_config import EvalConfig, RunConfig
from dss_jax.training.optimizers import OptimizerConfig

STEPS = 12


@pytest.fixture(scope='module', autouse=True)
def small_data():
  """A part of the embedded data, which the runs of this file read once."""
  from dss_jax.datasets import embedded_arithmetic

  sizes = dict(embedded_arithmetic.SIZES)
  embedded_arithmetic.SIZES.update(train=600, validation=40, test=40)
  embedded_arithmetic.problems.cache_clear()  # another file's tests may have read the whole of it
  with shared_tables.keeping():
    yield
  embedded_arithmetic.SIZES.update(sizes)
  embedded_arithmetic.problems.cache_clear()


def untrained_run(folder) -> RunConfig:
  """Settings of a run that is not trained: with a vocabulary of bytes, and no method."""
  return RunConfig(
    model_dir=str(folder),
    model=t5.T5Config(64, 16, 2, 8, 32, 2, 2),
    data=pipeline.DataConfig(
      'embedded_arithmetic_dss', {'inputs': 64, 'targets': 32}, batch_size=8
    ),
    vocabulary='bytes',
    train_steps=10,
    optimizer=OptimizerConfig(decay_steps=10),
  )


def config_of(folder, **changes) -> RunConfig:
  """A run of 12 steps, validated each fourth, with dropout and packed rows."""
  return dataclasses.replace(
    RunConfig(
      model_dir=str(folder),
      model=t5.T5Config(None, 16, 2, 8, 32, 1, 1, dtype='float32'),
      data=pipeline.DataConfig(
        'embedded_arithmetic_dss', {'inputs': 96, 'targets': 64}, batch_size=8
      ),
      vocabulary='embedded_arithmetic',
      train_steps=STEPS,
      optimizer=OptimizerConfig(learning_rate=0.01, decay_steps=STEPS),
      eval=EvalConfig(period=4, num_examples=8, batch_size=8, max_decode_length=24),
      log_period=1,
      save_period=3,
    ),
    **changes,
  )
