"""`dss train`: trains a student, validates it, and keeps its checkpoints.

Owns the way from the command line to one call, and what is printed at the end. The training is
runs/training_loop.py's.
"""

from collections.abc import Sequence

from dss_jax.parallel import distributed
from dss_jax.runs import memory, training_loop
from dss_jax.settings import gin_files, t5x_explained

RUN_FILE = 'runs/train.gin'


@memory.explained(memory.TRAINING)
def main(argv: Sequence[str]) -> int:
  """Runs `dss train`; returns the exit code."""
  explained = t5x_explained.of(argv)
  if explained is not None:
    for line in t5x_explained.explain(explained, RUN_FILE):
      print(line)
    return 0
  gin_files.parse(argv, RUN_FILE)
  result = training_loop.train(gin_files.configured('run_config.RunConfig'))
  if distributed.is_main():
    print(result)
  return 0
