"""What a finished cell leaves for whoever reads it: its score, and the names of the files.

Owns these types and names alone, and imports no framework, so that `dss report` starts at once.
Training, scoring and writing are cells.py's.
"""

import dataclasses

CELL_FILE = 'cell.json'
RESULTS = 'results.jsonl'
SWEEP_FILE = 'sweep.json'
"""What a sweep asks for now: the names of its cells' folders with their identities, and devices."""
TEACHER = 'few_shot_cot'
"""Stands in METHODS for the teacher itself, whose stored answers are scored: nothing is trained."""
SEED = 'RANDOM_SEED'
"""The axis over which accuracies are averaged."""


@dataclasses.dataclass(frozen=True)
class Score:
  """One line of a table.

  Attributes:
    name: of the method, and how it was trained if that differs.
    folder: of its run, below the comparison's.
    accuracy: with the ends of its 95 % interval, accuracy_low and accuracy_high.
    examples: scored.
    labels_per_step: rows with a label in a batch, on average.
    steps: updates.
    compute: of training, as a multiple of the first line's.
    seconds: of training steps alone.
    processors: that trained it: cores of a CPU, else devices.
    published: the paper's accuracy of the same, in percent, or None.
    published_error: its standard error, in points.
  """

  name: str
  folder: str
  accuracy: float
  accuracy_low: float
  accuracy_high: float
  examples: int
  labels_per_step: float
  steps: int
  compute: float
  seconds: float
  published: float | None = None
  published_error: float | None = None
  processors: int = 1
