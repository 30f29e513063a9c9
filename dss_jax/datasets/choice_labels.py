"""Which of a question's choices a label names: by its text, its letter or its number.

Owns the choices of a user's row and how labels name them, which is decided once for all files of a
data set. Does not own: which columns hold choices (guessing.py), the record that a row becomes
(columns.py).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dss_jax.datasets import rows
from dss_jax.methods.choices import LETTERS

_MOST_DIGITS = 9


class Question(NamedTuple):
  """A row with choices.

  Attributes:
    place: file and row, for messages.
    label: one line of text; '' if there is none.
    options: the texts of the choices.
  """

  place: str
  label: str
  options: Sequence[str]


class Naming(NamedTuple):
  """How labels name choices; a label that neither attribute speaks of is the choice's text.

  Attributes:
    by_letter: whether a single letter is that of a choice, rather than its text.
    first: the number of the first choice; None if a number is a choice's text.
  """

  by_letter: bool = False
  first: int | None = None


def naming(questions: Iterable[Question]) -> Naming:
  """How labels name choices, in all rows alike.

  Letters are texts if every letter that is a label is the text of a choice of its row, and so are
  numbers.

  Args:
    questions: of all files.

  Raises:
    ValueError: numbers count from neither 0 nor 1, or may count from both.
  """
  by_kind: dict[str, list[Question]] = {'letter': [], 'number': [], 'text': []}
  for one in questions:
    if one.label:
      by_kind[_kind(one.label)].append(one)
  are_texts = {
    kind: all(one.label in one.options for one in found) for kind, found in by_kind.items()
  }
  first = None if are_texts['number'] else _first(by_kind['number'])
  return Naming(not are_texts['letter'], first)


def choice(label: str, options: Sequence[str], named: Naming) -> str:
  """The text of the choice that a label names; '' for no label.

  Raises:
    ValueError: it names none.
  """
  if not label:
    return ''
  kind = _kind(label)
  if kind == 'letter' and named.by_letter:
    at = LETTERS.index(_bare(label))
  elif kind == 'number' and named.first is not None:
    at = int(_bare(label)) - named.first
  else:
    at = options.index(label) if label in options else len(options)
  if not 0 <= at < len(options):
    raise ValueError(
      f'the label {rows.shown(label)} is none of the choices {rows.shown(list(options))}; expected '
      'the text, the letter or the number of one'
    )
  return options[at]


def without_last_blanks(options: Sequence[str]) -> list[str]:
  """The choices of a row, which may have fewer than others: then its last ones are blank.

  Raises:
    ValueError: there are too few or too many, or one between others is blank.
  """
  found = list(options)
  while found and not found[-1]:
    found.pop()
  if not 2 <= len(found) <= len(LETTERS) or not all(found):
    raise ValueError(f'expected 2 to {len(LETTERS)} choices that are not blank, got {options!r}')
  return found


def _bare(label: str) -> str:
  return label.strip('() .').lower()


def _kind(label: str) -> str:
  bare = _bare(label)
  if len(bare) == 1 and bare in LETTERS:
    return 'letter'
  is_number = bare.isascii() and bare.isdigit() and len(bare) <= _MOST_DIGITS
  return 'number' if is_number else 'text'


def _first(numbered: Sequence[Question]) -> int:
  """The number of the first choice, 0 or 1."""
  wrong = {
    first: [one for one in numbered if not 0 <= int(_bare(one.label)) - first < len(one.options)]
    for first in (0, 1)
  }
  fitting = [first for first, found in wrong.items() if not found]
  if len(fitting) == 1:
    return fitting[0]
  if fitting:
    raise ValueError(
      f'{numbered[0].place}: the label {rows.shown(numbered[0].label)} and those of other rows are '
      'numbers of choices that may count from 0 or from 1; name choices by their texts or letters.'
    )
  place, label, options = min(wrong.values(), key=len)[0]
  raise ValueError(
    f'{place}: the label {rows.shown(label)} is none of the choices {rows.shown(options)}; '
    'expected their texts in all rows, their letters, or their numbers from 0 or from 1.'
  )
