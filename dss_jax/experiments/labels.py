"""How many labels a row of a batch holds, by which batches get as many labels for every method.

Packing puts several sequences into a row, and how many depends on their lengths: a row holds fewer
of those that end in a rationale.
"""

import functools
from collections.abc import Mapping

import numpy as np

from dss_jax.data import pipeline
from dss_jax.runs import run_config

ROWS = 256  # of the batch that is looked at


def per_row(run: run_config.RunConfig) -> float:
  """Sequences with the answer's task in a row of a training batch, on average.

  Raises:
    ValueError: the run's data or vocabulary cannot be read.
  """
  run = run_config.set_up_tasks(run)
  assert run.method is not None
  method = run.method
  if not run.data.pack or method.answer.task not in {row.task for row in method.rows}:
    return 1 / run_config.rows_per_example(run)
  return _per_packed_row(
    run.data.mixture_or_task_name,
    run.data.split,
    tuple(sorted(run.data.task_feature_lengths.items())),
    method.tasks,
    method.answer.task,
    (str(run.vocabulary), str(run.data_dir)),
  )


@functools.cache
def _per_packed_row(
  name: str,
  split: str,
  lengths: tuple[tuple[str, int], ...],
  tasks: tuple[str, ...],
  answer: str,
  of_data: tuple[str, str],  # what the process is set up with: only a key
) -> float:
  del of_data
  feature_lengths: Mapping[str, int] = dict(lengths)
  config = pipeline.DataConfig(name, feature_lengths, ROWS, split)
  mixture = pipeline.load_mixture(name, split, tasks)
  arrays = next(pipeline.TrainBatches(mixture, config)).arrays
  segments = arrays['decoder_segment_ids']
  before = np.pad(segments, ((0, 0), (1, 0)))[:, :-1]
  is_start = (segments != before) & (segments > 0)
  return float(np.sum(is_start & (arrays['decoder_task_ids'] == tasks.index(answer))) / ROWS)
