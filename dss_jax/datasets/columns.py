"""What the columns of a user's table are: inputs, label, rationale, choices, split.

Owns the guess by names, the record that a row becomes, and how labels are compared. Does not own:
reading the table (tables.py), which record goes to which split (splitting.py).
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dss_jax.datasets import equations, release, rows, tables
from dss_jax.methods import Choices
from dss_jax.settings.printable import one_line

LETTERS = 'abcdefghijklmnopqrstuvwxyz'
MOST_CLASSES = 50
ROWS_OF_A_CLASS = 3
"""On average; labels that are rarer are texts rather than classes."""
ANSWER_MARKS = ('####',)
"""After these stands the answer, in columns that hold a rationale and the answer."""

_NAMES = {
  'label': (
    'label', 'labels', 'gold_label', 'gold', 'answer', 'answerkey', 'correct_answer', 'correct',
    'q_ans', 'target', 'class', 'category', 'output', 'sentiment', 'intent', 'y',
  ),
  'rationale': (
    'rationale', 'rationales', 'explanation', 'explanation_1', 'reasoning', 'reason', 'cot',
    'chain_of_thought', 'solution', 'taska_pos', 'why',
  ),
  'teacher_label': ('teacher_label', 'llm_label', 'model_answer', 'predicted_label'),
  'choices': ('choices', 'options', 'endings', 'question.choices', 'choices.text'),
  'split': ('split', 'subset', 'fold', 'partition'),
}  # fmt: skip
_INPUTS = (  # the first whose columns are all there
  ('input',), ('premise', 'hypothesis'), ('sentence1', 'sentence2'),
  ('passage', 'question'), ('context', 'question'), ('article', 'question'), ('body', 'question'),
  ('question',), ('question.stem',), ('q_text',), ('question_stem',), ('problem',), ('query',),
  ('text',), ('sentence',), ('review',), ('prompt',), ('content',), ('document',),
)  # fmt: skip
_OPTION = re.compile(r'(?:q_)?(?:op|opt|option|choice|ans|answer|ending|sol)[ _.]?([a-z]|\d)')


@dataclasses.dataclass(frozen=True)
class Columns:
  """The columns of a table by what they are.

  Attributes:
    inputs: parts of the input, in order.
    label: gold labels.
    rationale: why the label is right.
    teacher_label: a teacher's answer.
    choices: a column of lists, or a column for each choice.
    split: the name of each row's split.
    answer_after: text after which the label's column has the label, and before it the rationale.
  """

  inputs: tuple[str, ...] = ()
  label: str = ''
  rationale: str = ''
  teacher_label: str = ''
  choices: tuple[str, ...] = ()
  split: str = ''
  answer_after: str = ''

  @property
  def used(self) -> tuple[str, ...]:
    """All of them."""
    singles = (self.label, self.rationale, self.teacher_label, self.split)
    return tuple(filter(None, (*self.inputs, *self.choices, *singles)))


class Record(NamedTuple):
  """What a row becomes; a missing text is ''."""

  input: str
  label: str
  rationale: str | list[str] = ''
  teacher_label: str | list[str] = ''


class Labels(NamedTuple):
  """How the labels of a data set are compared.

  Attributes:
    metric: 'text' or 'equation'.
    choices: among which a label is; None if it is any text.
    notes: what people should know.
  """

  metric: str
  choices: Choices | None
  notes: tuple[str, ...]


# ---------------------------------------------------------------- which column is what


def guess(table: tables.Table, given: Columns) -> Columns:
  """Completes the columns that were named with those that have a usual name.

  Raises:
    ValueError: a named column does not exist, or none looks like input or label; the message shows
      all columns.
  """
  check(table, given)
  free = {name.strip().lower(): name for name in table.columns if name not in given.used}
  found = dataclasses.asdict(given)
  for role, names in _NAMES.items():
    known = next((free[name] for name in names if name in free), '')
    if not found[role] and known and _fits(role, known, table):
      found[role] = (known,) if role == 'choices' else known
      del free[known.strip().lower()]
  found['choices'] = found['choices'] or _options(free)
  for one in found['choices']:
    free.pop(one.strip().lower(), None)
  if not found['inputs']:
    several = next((names for names in _INPUTS if all(name in free for name in names)), ())
    found['inputs'] = tuple(free.pop(name) for name in several)
  _take_the_last(found, free)
  if not found['inputs'] or not found['label']:
    missing = 'input' if not found['inputs'] else 'label'
    raise ValueError(
      f'no column is named like the {missing}; name it by --{missing}=COLUMN. {listing(table)}'
    )
  if not found['answer_after'] and not found['rationale']:
    found['answer_after'] = _mark(tables.values(table.rows, found['label']))
  return Columns(**found)


def check(table: tables.Table, columns: Columns, name: str = '') -> None:
  """Checks that a table has the columns; a teacher's may be missing in a file of its own.

  Raises:
    ValueError: one is missing; the message shows all columns.
  """
  if twice := [one for one in columns.used if columns.used.count(one) > 1]:
    raise ValueError(f'the column {rows.shown(twice[0])} is named for two things. {listing(table)}')
  optional = (columns.rationale, columns.teacher_label) if name else ()
  for column in columns.used:
    if column not in table.columns and column not in optional:
      where = f'{one_line(name)}: ' if name else ''
      raise ValueError(f'{where}there is no column {rows.shown(column)}. {listing(table)}')


def listing(table: tables.Table) -> str:
  """All columns, each with a text of its own, for messages."""
  shown = []
  for column in table.columns[:40]:
    example = next((one for one in tables.values(table.rows, column) if one not in (None, '')), '')
    shown.append(f'{rows.shown(column)} ({rows.shown(example)})')
  return f'The columns are {", ".join(shown)}.'


def _fits(role: str, column: str, table: tables.Table) -> bool:
  """Whether a column of a usual name holds what it should: choices are lists, others texts."""
  values = [one for one in tables.values(table.rows, column) if one is not None][:100]
  are_lists = bool(values) and all(isinstance(one, list) for one in values)
  return are_lists if role == 'choices' else not are_lists or role in ('rationale', 'teacher_label')


def _options(free: Mapping[str, str]) -> tuple[str, ...]:
  """Columns such as option1, option2 or A, B, C, D."""
  numbered = tuple(name for lower, name in free.items() if _OPTION.fullmatch(lower))
  lettered = [letter for letter in LETTERS if letter in free]
  if len(numbered) >= 2:
    return numbered
  return tuple(free[one] for one in lettered) if lettered[:2] == ['a', 'b'] else ()


def _take_the_last(found: dict[str, Any], free: Mapping[str, str]) -> None:
  """If one role is missing and one column is left, they belong together."""
  left = [name for lower, name in free.items() if not re.fullmatch(r'(.*_)?(id|idx|index)', lower)]
  if len(left) == 1 and bool(found['inputs']) != bool(found['label']):
    role = 'label' if found['inputs'] else 'inputs'
    found[role] = left[0] if role == 'label' else (left[0],)


def _mark(values: Iterable[Any]) -> str:
  texts = [one for one in values if isinstance(one, str) and one.strip()]
  found = (mark for mark in ANSWER_MARKS if texts and all(f'\n{mark}' in one for one in texts))
  return next(found, '')


# ---------------------------------------------------------------- rows to records


def records(
  table: tables.Table, columns: Columns, name: str
) -> Iterator[tuple[int, Mapping[str, Any], Record]]:
  """Yields number, row and record of the rows that have an input.

  Args:
    table: of any number of rows.
    columns: what they are.
    name: of the file, for messages.

  Raises:
    ValueError: a cell is of another kind; the message has file and line.
  """
  base = _base(table, columns, name) if columns.choices else None
  for number, row in table.rows:
    with rows.at(f'{one_line(name)}, row at {number}'):
      given = _input(row, columns)
      record = _record(given, row, columns, base) if given else None
    if record is not None:
      yield number, row, record


def _input(row: Mapping[str, Any], columns: Columns) -> str:
  return release.INPUT_SEPARATOR.join(filter(None, (_cell(row, one) for one in columns.inputs)))


def _record(given: str, row: Mapping[str, Any], columns: Columns, base: str | int | None) -> Record:
  label, rationale = _cell(row, columns.label), _samples(row, columns.rationale)
  if columns.answer_after and columns.answer_after in label:
    before, _, label = (one.strip() for one in label.rpartition(columns.answer_after))
    rationale = rationale or before
  if columns.choices:
    options = _choices(row, columns.choices)
    label = _choice(label, options, base)
    lines = (f'\n({letter}) {one}' for letter, one in zip(LETTERS, options, strict=False))
    given = f'{given}\nAnswer Choices:{"".join(lines)}'
  return Record(given, _one_line(label), rationale, _samples(row, columns.teacher_label))


def _cell(row: Mapping[str, Any], column: str) -> str:
  with rows.at(f'column {column!r}'):
    return release.without_separator(tables.text(row.get(column))).strip()


def _one_line(text: str) -> str:
  """No vocabulary returns a line end or several spaces, so that no answer could equal them."""
  return ' '.join(text.split())


def _samples(row: Mapping[str, Any], column: str) -> str | list[str]:
  """A text, or the list of them if a teacher was asked several times."""
  value = row.get(column) if column else None
  if not isinstance(value, list):
    return _cell(row, column) if column else ''
  return [_cell({column: one}, column) for one in value]


def _choices(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
  value = row.get(columns[0])
  given = value if len(columns) == 1 and isinstance(value, list) else [row.get(c) for c in columns]
  options = [_one_line(_cell({'choice': one}, 'choice')) for one in given]
  if not 2 <= len(options) <= len(LETTERS) or not all(options):
    raise ValueError(f'expected 2 to {len(LETTERS)} choices that are not blank, got {options!r}')
  return options


def _base(table: tables.Table, columns: Columns, name: str) -> str | int | None:
  """How labels name choices: None by their text, 'letter', or the number of the first.

  Raises:
    ValueError: in no way that holds for all rows.
  """
  found = []
  for _, row in (one for one in table.rows if _input(one[1], columns)):
    options, label = _choices(row, columns.choices), _one_line(_cell(row, columns.label))
    if label:
      found.append((label, options))
  if all(label in options for label, options in found):
    return None
  bare = [label.strip('() .').lower() for label, _ in found]
  if all(one in LETTERS[: len(options)] and len(one) == 1
         for one, (_, options) in zip(bare, found, strict=True)):  # fmt: skip
    return 'letter'
  if all(one.isascii() and one.isdigit() for one in bare):
    numbers, most = {int(one) for one in bare}, max(len(options) for _, options in found)
    if min(numbers) == 0 and max(numbers) < most:
      return 0
    if min(numbers) > 0 and max(numbers) == most:
      return 1
  label, options = next(one for one in found if one[0] not in one[1])
  raise ValueError(
    f'{name}: the label {rows.shown(label)} is none of the choices {options!r}; expected their '
    'texts in all rows, their letters, or their numbers from 0 or from 1.'
  )


def _choice(label: str, options: Sequence[str], base: str | int | None) -> str:
  if not label or base is None:
    return label
  bare = label.strip('() .').lower()
  at = LETTERS.index(bare) if isinstance(base, str) else int(bare) - base
  if at >= len(options):
    raise ValueError(f'the label {rows.shown(label)} is none of the {len(options)} choices')
  return options[at]


# ---------------------------------------------------------------- labels


def labels_of(found: Sequence[Record], columns: Columns, metric: str = '') -> Labels:
  """How labels are compared: as classes, as choices of each input, by value or as any text.

  Args:
    found: all records.
    columns: where they came from.
    metric: 'text' or 'equation' if it was chosen; '' to choose one.

  Raises:
    ValueError: there is no label, or only one.
  """
  counts = collections.Counter(one.label for one in found if one.label)
  if len(counts) < 2:
    what = f'every label is {rows.shown(next(iter(counts)))}' if counts else 'no row has a label'
    raise ValueError(
      f'column {columns.label!r}: {what}, so there is nothing to learn; name another column by '
      '--label=COLUMN.'
    )
  notes = _odd_labels(counts)
  if columns.choices:
    sizes = {one.input.rpartition('\nAnswer Choices:')[2].count('\n') for one in found}
    if len(sizes) == 1:
      return Labels('text', Choices(listed=sizes.pop()), notes)
    several = f'rows have {min(sizes)} to {max(sizes)} choices, so methods that score choices '
    return Labels('text', None, (*notes, f'{several}(pinto) cannot be used.'))
  folded = {label.lower() for label in counts}
  is_rare = counts.total() < ROWS_OF_A_CLASS * len(counts)
  if not metric and len(counts) <= MOST_CLASSES and not is_rare and len(folded) == len(counts):
    return Labels('text', Choices(sorted(counts)), notes)
  are_numbers = all(equations.evaluate(label) is not None for label in counts)
  return Labels(metric or ('equation' if are_numbers else 'text'), None, notes)


def _odd_labels(counts: Mapping[str, int]) -> tuple[str, ...]:
  """Notes on labels that may be mistakes."""
  notes = []
  empty = [one for one in counts if one.lower() in ('null', 'none', 'nan', 'n/a', 'na', '#n/a')]
  if empty:
    notes.append(f'{counts[empty[0]]} labels are the text {rows.shown(empty[0])}: leave the cell '
                 'empty if it means that there is none.')  # fmt: skip
  spelled = collections.defaultdict(list)
  for label in counts:
    spelled[label.lower()].append(label)
  twice = next((several for several in spelled.values() if len(several) > 1), None)
  if twice:
    notes.append(f'the labels {" and ".join(map(rows.shown, twice[:3]))} differ in case only and '
                 'count as different.')  # fmt: skip
  return tuple(notes)
