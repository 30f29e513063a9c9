"""Few-shot chain of thought of the teacher itself: how often its labels are right, no student.

The horizontal line of the paper's figures. Owns which examples the teacher is right on, by the
labels of a prepared data set; `dss prepare --parser=released` stores them as the paper's code reads
them. Does not own the metrics (tasks/metrics.py).
"""

from typing import NamedTuple

import numpy as np

from dss_jax.datasets import release
from dss_jax.tasks import metrics, prepared, registration


class TeacherAnswers(NamedTuple):
  """The teacher on one split.

  Attributes:
    dataset: its name.
    split: of it.
    parser: how its outputs were read, one of release.PARSERS; '' if they were not read here.
    example_ids: int64 [n], those of students' evaluations: every example with a gold label.
    correct: bool [n], whether the teacher's label is right; a missing one is wrong.
  """

  dataset: str
  split: str
  parser: str
  example_ids: np.ndarray
  correct: np.ndarray

  @property
  def accuracy(self) -> float:
    """The fraction that is right."""
    return float(self.correct.mean())


def teacher_answers(dataset: str, split: str = 'test') -> TeacherAnswers:
  """Scores the teacher's labels of a registered data set by its metric.

  If the teacher was asked K times, its first label that is not blank counts.

  Args:
    dataset: its name, such as 'svamp'; prepared, in the folder that TFDS_DATA_DIR names.
    split: of it.

  Raises:
    ValueError: no such data set or split, or no label of the teacher's or of a human in it.
  """
  info = registration.dataset_named(dataset)
  if split not in info.source.splits:
    raise ValueError(
      f'the data set {dataset} has no split {split!r}, only {", ".join(info.source.splits)}.'
    )
  is_correct = metrics.LABEL_CORRECT[info.metric]
  ids, correct, has_teacher = [], [], False
  for row in info.source.get_dataset(split, shuffle=False).as_numpy_iterator():
    labels = np.atleast_1d(row['teacher_label']).tolist()
    said = next((label for label in labels if label.strip()), b'').decode()
    gold = row['label'].decode()
    has_teacher |= bool(said)
    if gold.strip():
      ids.append(int(row['example_id']))
      correct.append(bool(said) and is_correct(gold, said))
  if not has_teacher or not ids:
    missing = 'label of the teacher' if ids else 'gold label'
    raise ValueError(f'the split {split} of {dataset} has no {missing}, so it has no accuracy.')
  parser = ''
  if info.parts:
    notes = prepared.read_metadata(prepared.newest(info.parts[0]))
    parser = notes.get('parser', release.PARSERS[0])
  return TeacherAnswers(dataset, split, parser, np.array(ids), np.array(correct))
