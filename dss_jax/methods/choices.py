"""The choices of a question: the labels among which the answer is, for methods that score them.

Owns where the choices of a data set are found. Does not own how they are scored
(inference/scoring.py, training/group_losses.py).
"""

import dataclasses
import re
from collections.abc import Sequence

LETTERS = 'abcdefghijklmnopqrstuvwxyz'
_LISTED = re.compile(r'^\(([a-z])\)(.*)$', re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Choices:
  """The choices of every question of a data set; the same number for all.

  Attributes:
    labels: the choices, if they are the same for all questions.
    listed: how many choices each input lists, in lines `(a) text`, `(b) text`, ..., if they differ.
  """

  labels: Sequence[str] = ()
  listed: int = 0

  def __post_init__(self):
    object.__setattr__(self, 'labels', tuple(self.labels))
    if bool(self.labels) == bool(self.listed) or self.count < 2:
      raise ValueError(
        'Choices: expected at least two labels, or listed (at least 2) for choices in the input; '
        f'got labels={self.labels}, listed={self.listed}.'
      )
    if self.listed > len(LETTERS):
      raise ValueError(f'Choices: listed is at most {len(LETTERS)}, (a) to (z), not {self.listed}.')
    if any(not label.strip() or '\n' in label for label in self.labels):
      raise ValueError(f'Choices: each label is one line of text, not one of {self.labels}.')

  @property
  def count(self) -> int:
    """How many choices a question has."""
    return len(self.labels) or self.listed

  def of(self, question: str) -> tuple[str, ...]:
    """The choices of a question, in their order.

    Args:
      question: an example's `input`.

    Raises:
      ValueError: they are to be listed in it, and are not.
    """
    if self.labels:
      return tuple(self.labels)
    found = _LISTED.findall(question)[-self.listed :]
    letters = ''.join(letter for letter, _ in found)
    if letters != LETTERS[: self.listed]:
      raise ValueError(
        f'expected {self.listed} choices in the last lines of the input, "(a) text", "(b) text" '
        f'and so on; found {len(found)} such lines in {question[-200:]!r}.'
      )
    return tuple(text.strip() for _, text in found)
