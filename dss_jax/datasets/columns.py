"""What the columns of a user's table are: inputs, label, rationale, choices, split.

Owns the record that a row becomes, and how labels are compared. Does not own: reading the table
(tables.py), which column is what (guessing.py), which choice a label names (choice_labels.py),
which record goes to which split (splitting.py).
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dss_jax.datasets import choice_labels, equations, release, rows, tables
from dss_jax.methods.choices import LETTERS, Choices
from dss_jax.settings.printable import one_line

MOST_CLASSES = 50
ROWS_OF_A_CLASS = 3
"""On average; labels that are rarer are texts rather than classes."""
CHOICES = '\nAnswer Choices:'
"""Between a question and its choices."""


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
    group: what rows have in common that go to one split; perhaps one of the inputs.
  """

  inputs: tuple[str, ...] = ()
  label: str = ''
  rationale: str = ''
  teacher_label: str = ''
  choices: tuple[str, ...] = ()
  split: str = ''
  answer_after: str = ''
  group: str = ''

  @property
  def used(self) -> tuple[str, ...]:
    """All of them but the group."""
    singles = (self.label, self.rationale, self.teacher_label, self.split)
    return tuple(filter(None, (*self.inputs, *self.choices, *singles)))


class Record(NamedTuple):
  """What a row becomes; a missing text is ''. Rows of one group go to one split."""

  input: str
  label: str
  rationale: str | list[str] = ''
  teacher_label: str | list[str] = ''
  group: str = ''


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


def check(table: tables.Table, columns: Columns, name: str = '') -> None:
  """Checks that a table has the columns; a teacher's may be missing in a file of its own.

  Raises:
    ValueError: one is missing; the message shows all columns.
  """
  if twice := [one for one in columns.used if columns.used.count(one) > 1]:
    raise ValueError(f'the column {rows.shown(twice[0])} is named for two things. {listing(table)}')
  optional = (columns.rationale, columns.teacher_label) if name else ()
  for column in filter(None, (*columns.used, columns.group)):
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


# ---------------------------------------------------------------- rows to records


class _Cells(NamedTuple):
  question: str
  label: str
  rationale: str | list[str]
  options: list[str]


def naming(read: Mapping[str, tables.Table], columns: Columns) -> choice_labels.Naming:
  """How labels name choices, in all files alike.

  Args:
    read: all files, by their names for messages.
    columns: what theirs are.

  Raises:
    ValueError: there is no way that holds for all rows; the message has file and row.
  """
  found = []
  for name, table in read.items() if columns.choices else ():
    for number, row in table.rows:
      place = _place(name, number)
      with rows.at(place):
        cells = _cells(row, columns)
      if cells.question:
        found.append(choice_labels.Question(place, cells.label, cells.options))
  return choice_labels.naming(found)


def records(
  table: tables.Table, columns: Columns, name: str, named: choice_labels.Naming
) -> Iterator[tuple[int, Mapping[str, Any], Record]]:
  """Yields number, row and record of the rows that have an input.

  Args:
    table: of any number of rows.
    columns: what they are.
    name: of the file, for messages.
    named: how labels name choices, see `naming`.

  Raises:
    ValueError: a cell is of another kind; the message has file and line.
  """
  for number, row in table.rows:
    with rows.at(_place(name, number)):
      cells = _cells(row, columns)
      record = _record(cells, row, columns, named) if cells.question else None
    if record is not None:
      yield number, row, record


def _place(name: str, number: int) -> str:
  return f'{one_line(name)}, row at {number}'


def _cells(row: Mapping[str, Any], columns: Columns) -> _Cells:
  """The texts of a row, of which one without an input has none."""
  parts = filter(None, (_cell(row, one) for one in columns.inputs))
  question = release.INPUT_SEPARATOR.join(parts)
  if not question:
    return _Cells('', '', '', [])
  label, rationale = _cell(row, columns.label), _samples(row, columns.rationale)
  if columns.answer_after and label:
    if columns.answer_after not in label:
      raise ValueError(
        f'expected {columns.answer_after!r} and then the answer in column {columns.label!r}, got '
        f'{rows.shown(label)}'
      )
    before, _, label = (one.strip() for one in label.rpartition(columns.answer_after))
    rationale = rationale or before
  options = _choices(row, columns.choices) if columns.choices else []
  return _Cells(question, _one_line(label), rationale, options)


def _record(
  cells: _Cells, row: Mapping[str, Any], columns: Columns, named: choice_labels.Naming
) -> Record:
  given, label = cells.question, cells.label
  if columns.choices:
    label = choice_labels.choice(label, cells.options, named)
    lines = (f'\n({letter}) {one}' for letter, one in zip(LETTERS, cells.options, strict=False))
    given = f'{given}{CHOICES}{"".join(lines)}'
  group = _cell(row, columns.group) if columns.group else ''
  return Record(given, label, cells.rationale, _samples(row, columns.teacher_label), group)


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
  texts = [_one_line(_cell({'choice': one}, 'choice')) for one in given]
  return choice_labels.without_last_blanks(texts)


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
    sizes = {one.input.rpartition(CHOICES)[2].count('\n') for one in found}
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
