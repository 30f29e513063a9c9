"""Runs to plan, without data, and answers that a compiler could give, to test planning on."""

import dataclasses
from typing import Any

from dss_jax.data import pipeline
from dss_jax.models import t5
from dss_jax.planning.hlo import Collective, Costs
from dss_jax.planning.programs import Compiled, Memory
from dss_jax.runs import run_config
from dss_jax.training import optimizers

GIB = 2**30
SIZES = {
  'base': t5.T5Config(32128, 768, 12, 64, 2048, 12, 12, remat_policy='minimal'),
  'xxl': t5.T5Config(32128, 4096, 64, 64, 10240, 24, 24, remat_policy='full'),
}
COLLECTIVES = (
  Collective('all-gather', 8, True, 24, 3 * 10**9),
  Collective('all-reduce', 8, False, 2, 10**9),
)


def run_config_of(size: str, **settings: Any) -> run_config.RunConfig:
  """A run of a T5 1.1 with 64 rows of 512 and 128 tokens, and nothing that could be looked at."""
  return run_config.RunConfig(
    **{
      'model_dir': '',
      'model': SIZES[size],
      'data': rows_of(64, 512, 128),
      'vocabulary': '',
      'train_steps': 1000,
      'optimizer': optimizers.OptimizerConfig(decay_steps=1000),
      **settings,
    }
  )


def changed(model: t5.T5Config, **settings: Any) -> t5.T5Config:
  """The network with other settings."""
  return dataclasses.replace(model, **settings)


def rows_of(batch: int, inputs: int, targets: int) -> pipeline.DataConfig:
  """A batch of rows of these lengths, of no data set."""
  return pipeline.DataConfig('', {'inputs': inputs, 'targets': targets}, batch)


def answer(total: int = 12 * GIB, limit: int | None = 16 * GIB) -> Compiled:
  """What a compiler says of a program that needs `total` bytes a device."""
  memory = Memory(
    limit, parameters=GIB, optimizer=2 * GIB, gradients=GIB, batch=2**20, temporaries=GIB,
    code=2**26, total=total,
  )  # fmt: skip
  fits = None if limit is None else total <= limit
  costs = Costs(3 * 10**8, ((0, 819 * 10**6, 2),), COLLECTIVES) if limit else None
  problem = '' if fits is not False else 'RESOURCE_EXHAUSTED: too much'
  return Compiled(fits, memory, costs, 30.0, 40.0, 2 * GIB, problem)
