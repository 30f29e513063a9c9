"""The paper's test accuracies, to be printed beside ours.

Source: Hsieh et al. 2023, T5 1.1 Base, all training data. The text of the paper gives no other
numbers: those of its figures cannot be read off exactly, and are left out.
"""

import math
from typing import NamedTuple

from dss_jax.runs.run_config import RunConfig
from dss_jax.tasks import registration

BASE = 't5-v1_1-base'
TEST_ITEMS = {'esnli': 9824, 'anli1': 1000, 'cqa': 1221, 'svamp': 200}
PERCENT = {
  ('esnli', 'standard'): 88.38,
  ('anli1', 'standard'): 43.58,
  ('cqa', 'standard'): 62.19,
  ('svamp', 'standard'): 62.63,
  ('esnli', 'single_task'): 88.88,
  ('anli1', 'single_task'): 43.50,
  ('cqa', 'single_task'): 61.37,
  ('svamp', 'single_task'): 63.00,
  ('esnli', 'dss'): 89.51,
  ('anli1', 'dss'): 49.58,
  ('cqa', 'dss'): 63.29,
  ('svamp', 'dss'): 65.50,
}
_SAME_ROWS = {'paired': 'dss'}  # the form of the paper's code


class Published(NamedTuple):
  """A published accuracy.

  Attributes:
    percent: the accuracy.
    error: standard error of one run from the number of test items alone, in points.
  """

  percent: float
  error: float

  def is_compatible(self, percent: float, error: float) -> bool:
    """Whether an accuracy, with its standard error in points, is within 1.96 errors of both."""
    return abs(percent - self.percent) <= 1.96 * math.hypot(error, self.error)


def published(run: RunConfig) -> Published | None:
  """The paper's accuracy of a run's method on its data set; None where there is none.

  There is one for all training data and a start from the paper's Base weights.
  """
  start = str(run.initial_checkpoint_path or '').rstrip('/').rsplit('/', 1)[-1]
  if start != BASE or run.data.fraction != 1.0 or run.method is None:
    return None
  try:
    dataset = registration.dataset_of(run.data.mixture_or_task_name).name
  except ValueError:  # somebody else's SeqIO task
    return None
  method = run.method.name
  percent = PERCENT.get((dataset, _SAME_ROWS.get(method, method)))
  if percent is None:
    return None
  items = TEST_ITEMS[dataset]
  return Published(percent, math.sqrt(percent * (100 - percent) / items))
