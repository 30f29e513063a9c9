"""The parts of a report whatever shows them: tables, figures, sections.

Owns their types and how a value is written in a page and in CSV. Does not own what is in them
(sections.py) or HTML (page.py).
"""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

P = 'p'
NOTHING = '–'  # noqa: RUF001  what a page shows where there is no value


class Column(NamedTuple):
  """A column of a table.

  Attributes:
    title: its header, with the unit.
    form: how numbers are shown, as in format(), or P for a p value; '' for text.
  """

  title: str
  form: str = ''

  def shown(self, value: Any) -> str:
    """A value as a page shows it."""
    if value is None or value == '':
      return NOTHING
    if isinstance(value, str) or not self.form:
      return str(value)
    if isinstance(value, float) and not math.isfinite(value):
      return NOTHING
    if self.form == P:
      return f'{value:.4f}' if value >= 0.0001 else '< 0.0001'
    return format(value, self.form)


class Table(NamedTuple):
  """A table of raw values.

  Attributes:
    name: of its CSV file.
    title: its caption.
    columns: of it; the first is the header of its row.
    rows: one value a column; None where there is none.
    note: how it is to be read.
  """

  name: str
  title: str
  columns: tuple[Column, ...]
  rows: Sequence[Sequence[Any]]
  note: str = ''

  def shown(self) -> list[list[str]]:
    """The rows as a page shows them."""
    return [
      [column.shown(value) for column, value in zip(self.columns, row, strict=True)]
      for row in self.rows
    ]

  def with_values(self) -> 'Table':
    """The table without columns that are empty in all rows."""
    kept = [
      place
      for place in range(len(self.columns))
      if not place or any(row[place] not in (None, '') for row in self.rows)
    ]
    rows = [[row[place] for place in kept] for row in self.rows]
    return self._replace(columns=tuple(self.columns[place] for place in kept), rows=rows)

  def csv(self) -> str:
    """The table as CSV; no cell can be taken for a formula by a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([_plain(column.title) for column in self.columns])
    writer.writerows([[_plain(value) for value in row] for row in self.rows])
    return text.getvalue()

  def values(self) -> list[dict[str, Any]]:
    """The rows as JSON values, by column; numbers that are not finite become None."""
    titles = [column.title for column in self.columns]
    return [dict(zip(titles, map(_finite, row), strict=True)) for row in self.rows]


class Figure(NamedTuple):
  """A figure.

  Attributes:
    name: of its files.
    title: its caption.
    svg: standalone.
    png: the same.
    inline: the svg with the colours of the page.
    table: what it shows.
  """

  name: str
  title: str
  svg: bytes
  png: bytes
  inline: str
  table: Table


class Section(NamedTuple):
  """A part of the page.

  Attributes:
    anchor: its id.
    title: its heading.
    text: paragraphs: what it shows, or why it is empty.
    figures: of it.
    tables: of it.
  """

  anchor: str
  title: str
  text: tuple[str, ...] = ()
  figures: tuple[Figure, ...] = ()
  tables: tuple[Table, ...] = ()


def _plain(value: Any) -> Any:
  """A cell of CSV; text that a spreadsheet would calculate starts with an apostrophe."""
  if value is None:
    return ''
  if isinstance(value, str) and value.startswith(('=', '+', '-', '@', '\t', '\r')):
    return f"'{value}"
  return value


def _finite(value: Any) -> Any:
  return None if isinstance(value, float) and not math.isfinite(value) else value
