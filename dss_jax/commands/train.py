"""`dss train`: trains a student, validates it, and keeps its checkpoints.

Owns the way from the command line to one call, and what is printed at the end. The training is
runs/training_loop.py's.
"""

from collections.abc import Sequence

from dss_jax.parallel import distributed
from dss_jax.runs import memory, training_loop
from dss_jax.settings import gin_files


@memory.explained(memory.TRAINING)
def main(argv: Sequence[str]) -> int:
  """Runs `dss train`; returns the exit code."""
  gin_files.parse(argv, 'runs/train.gin')
  result = training_loop.train(gin_files.configured('run_config.RunConfig'))
  if distributed.is_main():
    print(result)
  return 0
