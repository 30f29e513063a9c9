"""Few-shot chain of thought of the teacher itself: how often its labels are right, no student.

The horizontal line of the paper's figures. Owns which examples the teacher is right on, by the
labels of a prepared data set; `dss prepare --parser=released` stores them as the paper's code reads
them. Does not own the metrics (tasks/metrics.py).
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dss_jax.datasets import release
from dss_jax.experiments.results import TEACHER as NAME
from dss_jax.runs import evaluation
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import whole_files
from dss_jax.tasks import metrics, prepared, registration


class TeacherAnswers(NamedTuple):
  """The teacher on one split.

  Attributes:
    dataset: its name.
    split: of it.
    parser: how its outputs were read, one of release.PARSERS; '' if they were not read here.
    example_ids: int64 [n], those of students' evaluations: every example with a gold label.
    correct: bool [n], whether the teacher's label is right; a missing one is wrong.
    records: a dict per example, as of students' evaluations: id, input, target, prediction,
      rationale and correct.
  """

  dataset: str
  split: str
  parser: str
  example_ids: np.ndarray
  correct: np.ndarray
  records: tuple[dict[str, Any], ...] = ()

  @property
  def accuracy(self) -> float:
    """The fraction that is right."""
    return float(self.correct.mean())

  def write(self, folder: RunFolder) -> None:
    """Writes the answers into a folder in the form of an evaluation, of step 0."""
    files = folder.evaluation_files(NAME, self.split, 0)
    evaluation.write_records(files.records, self.records)
    summary = {
      'task': NAME, 'split': self.split, 'examples': len(self.records),
      'metrics': {'accuracy': self.accuracy}, 'step': 0,
    }  # fmt: skip
    whole_files.write_text(files.summary, json.dumps(summary, indent=2) + '\n')


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
  records: list[dict[str, Any]] = []
  has_teacher = False
  for row in info.source.get_dataset(split, shuffle=False).as_numpy_iterator():
    said, rationale = _first_answer(row)
    gold = row['label'].decode()
    has_teacher |= bool(said)
    if gold.strip():
      records.append(
        {
          'id': int(row['example_id']),
          'input': row['input'].decode(),
          'target': gold,
          'prediction': said,
          'rationale': rationale,
          'correct': bool(said) and is_correct(gold, said),
        }
      )
  if not has_teacher or not records:
    missing = 'label of the teacher' if records else 'gold label'
    raise ValueError(f'the split {split} of {dataset} has no {missing}, so it has no accuracy.')
  parser = ''
  if info.parts:
    notes = prepared.read_metadata(prepared.newest(info.parts[0]))
    parser = notes.get('parser', release.PARSERS[0])
  ids, correct = ([one[name] for one in records] for name in ('id', 'correct'))
  return TeacherAnswers(dataset, split, parser, np.array(ids), np.array(correct), tuple(records))


def _first_answer(row: Mapping[str, Any]) -> tuple[str, str]:
  """The teacher's first label that is not blank, and the rationale beside it; '' without one."""
  labels = np.atleast_1d(row['teacher_label']).tolist()
  rationales = np.atleast_1d(row.get('rationale', b'')).tolist()
  place = next((place for place, label in enumerate(labels) if label.strip()), None)
  if place is None:
    return '', ''
  beside = rationales[place] if place < len(rationales) else b''
  return labels[place].decode(), beside.decode()
