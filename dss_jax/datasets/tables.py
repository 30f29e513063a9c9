"""Tables of users as they come: another encoding or separator, one JSON list, XML, gzip.

Owns how such a file becomes rows, and the notes on what was guessed. Does not own: the strict form
that every other command reads (rows.py), into which `dss new-task` writes them; what the columns
mean (columns.py).
"""

import collections
import csv
import gzip
import io
import json
import math
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import defusedxml
from defusedxml import ElementTree

from dss_jax.datasets import rows
from dss_jax.settings import fields, json_form, plain_files
from dss_jax.settings.printable import one_line

FORMATS = (*rows.FORMATS, '.xml')
MAX_BYTES = 1 << 30
"""Of a table, unpacked; it is held in memory."""
FALLBACK = 'windows-1252'
"""What CSV that is not UTF-8 most likely is: a spreadsheet saved it."""
_SEPARATORS = {'.csv': ',;\t|', '.tsv': '\t'}
_MARKS = {b'\xff\xfe\0\0': 'utf-32', b'\0\0\xfe\xff': 'utf-32', b'\xff\xfe': 'utf-16',
          b'\xfe\xff': 'utf-16', b'\xef\xbb\xbf': 'utf-8-sig'}  # fmt: skip
_UTF8 = re.compile(b'[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}')
"""A letter of several bytes: a file with one is hardly of another encoding."""
_DECLARED = re.compile(rb'\s*<\?xml[^>]*\sencoding\s*=\s*["\']([\w.:-]+)["\']')
_ADVICE = {
  'xls': 'save the sheet as CSV UTF-8', 'xlsx': 'save the sheet as CSV UTF-8',
  'ods': 'save the sheet as CSV UTF-8', 'parquet': 'DataFrame.to_json(orient="records", '
  'lines=True) of pandas writes JSON lines', 'txt': 'rename it to .tsv if tabs separate columns',
}  # fmt: skip


class Table(NamedTuple):
  """The rows of a file.

  Attributes:
    rows: numbered as in the file; a nested value has a dotted name.
    columns: the names of all of them, in order.
    notes: what was guessed about the file, for people.
  """

  rows: list[tuple[int, dict[str, Any]]]
  columns: tuple[str, ...]
  notes: tuple[str, ...]


def read(path: str | pathlib.Path, encoding: str | None = None) -> Table:
  """Reads a table of a user's.

  Args:
    path: JSON lines, one JSON list, CSV, TSV or XML, by its name, perhaps with .gz.
    encoding: of its text; None: what its byte-order mark or XML says, else UTF-8, but FALLBACK for
      a CSV or TSV without any letter of UTF-8.

  Raises:
    ValueError: there is no such file, or it is malformed; the message has file and line.
  """
  if '://' in str(path):
    raise ValueError(f'{one_line(str(path))}: a table is read from this machine; copy it here.')
  path = pathlib.Path(fields.expanded(str(path)))
  name, form = one_line(str(path)), _format(path)
  content, notes = _text(_content(path), name, form, encoding)
  if form == '.xml':
    found = list(_xml_rows(content, name))
  else:
    if form in _SEPARATORS:
      content = _with_commas(content, name, form, notes)
    elif content.lstrip().startswith('['):
      content = _lines_of_list(content, name)
    stream = io.BytesIO(content.encode())
    read_as = '.csv' if form in _SEPARATORS else '.jsonl'
    found = [(number, dict(_flat(row))) for number, row in rows.read(path, read_as, stream)]
  if not found:
    raise ValueError(f'{name}: the file has no rows.')
  columns = dict.fromkeys(column for _, row in found for column in row if column)
  return Table(found, tuple(columns), tuple(notes))


def text(value: Any) -> str:
  """A cell as text: a number or true as JSON writes it, '' for null and NaN.

  Raises:
    ValueError: it is a list or an object.
  """
  if value is None or (isinstance(value, float) and math.isnan(value)):
    return ''
  if isinstance(value, str):
    return value.strip()
  if isinstance(value, bool | int | float):
    return json.dumps(value)
  raise ValueError(f'expected a text or a number, got {rows.shown(value)}')


def _format(path: pathlib.Path) -> str:
  name = path.name.lower().removesuffix('.gz')
  form = next((form for form in FORMATS if name.endswith(form)), None)
  if form is None and path.is_dir():
    raise ValueError(f'{one_line(str(path))} is a folder; expected a table in it.')
  if form is None:
    advice = _ADVICE.get(name.rpartition('.')[2])
    raise ValueError(
      f'{one_line(str(path))}: expected a table in {", ".join(FORMATS)}, perhaps with .gz'
      + (f'; {advice}.' if advice else '.')
    )
  return form


def _content(path: pathlib.Path) -> bytes:
  content = plain_files.read(path, 'a table', MAX_BYTES)
  if not path.name.lower().endswith('.gz'):
    return content
  try:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
      content = file.read(MAX_BYTES + 1)
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise ValueError(f'{one_line(str(path))}: not a sound gzip file ({error}).') from error
  if len(content) > MAX_BYTES:
    raise ValueError(f'{one_line(str(path))}: expected at most {MAX_BYTES} bytes when unpacked.')
  return content


def _text(content: bytes, name: str, form: str, encoding: str | None) -> tuple[str, list[str]]:
  """The text of a file, with `\\n` at the end of its lines, and notes on its encoding."""
  used, note = (encoding, '') if encoding else _encoding(content, form)
  try:
    decoded = content.decode(used)
  except UnicodeDecodeError as error:
    if not used.startswith('utf-8') or encoding:
      problem = one_line(str(error), 120)
      raise ValueError(f'{name}: not text in {used} ({problem}); give --encoding=NAME.') from error
    line = len(re.findall(rb'\r\n|\r|\n', content[: error.start])) + 1
    raise ValueError(
      f'{name}, line {line}: byte {error.start + 1} of the file is 0x{content[error.start]:02x}, '
      'which is not UTF-8 there; save the file as UTF-8, or give --encoding=NAME, such as '
      f'--encoding={FALLBACK}.'
    ) from error
  except (LookupError, UnicodeError) as error:
    raise ValueError(
      f'{name}: Python knows no such encoding as {one_line(used)!r}; give --encoding=NAME, e.g. '
      "'windows-1252' or 'latin-1'."
    ) from error
  if '\0' in decoded:
    raise ValueError(f'{name}: expected text, got a NUL byte; is it UTF-16? Give --encoding=NAME.')
  return decoded.replace('\r\n', '\n').replace('\r', '\n'), [f'{name} {note}'] if note else []


def _encoding(content: bytes, form: str) -> tuple[str, str]:
  """The encoding of a file's text, and what people should know if it was guessed."""
  marked = next((one for mark, one in _MARKS.items() if content.startswith(mark)), None)
  if marked is not None:
    note = f'was read as {marked}, which its first bytes say.'
    return marked, note if marked != 'utf-8-sig' else ''
  declared = _DECLARED.match(content) if form == '.xml' else None
  if declared:
    return declared.group(1).decode().lower(), ''
  if form in _SEPARATORS and not _is_utf8(content) and not _UTF8.search(content):
    return FALLBACK, (f'is not UTF-8; it was read as {FALLBACK}. If letters below look wrong, give '
                      '--encoding=NAME.')  # fmt: skip
  return 'utf-8', ''


def _is_utf8(content: bytes) -> bool:
  try:
    content.decode()
  except UnicodeDecodeError:
    return False
  return True


# ---------------------------------------------------------------- CSV, JSON, XML


def _with_commas(content: str, name: str, form: str, notes: list[str]) -> str:
  """A CSV with commas between its cells, whichever of the usual separators it has."""
  first, _, rest = content.partition('\n')
  if told := re.fullmatch(r'"?sep=(.)"?', first.strip('\ufeff ')):  # of a spreadsheet
    separator, content = told.group(1), f'\n{rest}'  # an empty line, to keep numbers of lines
  else:
    counts = {one: len(next(csv.reader([first], delimiter=one), ())) for one in _SEPARATORS[form]}
    separator = max(counts, key=counts.__getitem__)
    if form == '.csv' and separator != ',':
      notes.append(f'{separator!r} separates the columns.')
  if separator == ',':
    return content
  csv.field_size_limit(rows.MAX_LINE_BYTES)
  written = io.StringIO()
  writer = csv.writer(written, lineterminator='\n')
  try:
    writer.writerows(csv.reader(io.StringIO(content, newline=''), delimiter=separator, strict=True))
  except csv.Error as error:
    raise ValueError(f'{name}: not valid CSV ({one_line(str(error))}).') from error
  return written.getvalue()


def _lines_of_list(content: str, name: str) -> str:
  """JSON lines of one JSON list."""
  values = json_form.parse(content, name)
  if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
    raise ValueError(f'{name}: expected a list of JSON objects, or one object a line.')
  return '\n'.join(map(json.dumps, values))


def _flat(row: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
  """The values of a row; those within an object have dotted names."""
  for name, value in row.items():
    if isinstance(value, dict):
      yield from _flat(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', _texts_of(value)


def _texts_of(value: Any) -> Any:
  """A list of objects that each have a `text`, as choices often do, is the list of the texts."""
  has_texts = isinstance(value, list) and value and all(
    isinstance(one, dict) and 'text' in one for one in value
  )  # fmt: skip
  return [one['text'] for one in value] if has_texts else value


def _xml_rows(content: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
  """A row for each of the elements that repeat and have parts of their own, numbered from 1."""
  declared = re.sub(r'^\s*<\?xml[^>]*\?>', '', content)  # what is text has no encoding
  try:
    root = ElementTree.fromstring(declared, forbid_dtd=True)
  except defusedxml.DefusedXmlException as error:
    raise ValueError(f'{name}: expected XML without a document type or entities.') from error
  except (ElementTree.ParseError, ValueError) as error:
    raise ValueError(f'{name}: not valid XML ({one_line(str(error), 200)}).') from error
  parts = collections.Counter(one.tag for one in root.iter() if one is not root and len(one))
  tag = max(parts, key=parts.__getitem__, default=None)
  for number, element in enumerate(root.iter(tag) if tag else (), start=1):
    yield number, {**element.attrib, **_children(element)}


def _children(element: Any) -> dict[str, Any]:
  """The texts of an element's parts; of parts with the same name, the list of them."""
  found: dict[str, list[str]] = collections.defaultdict(list)
  for child in element:
    found[child.tag].append(''.join(child.itertext()))
  return {tag: texts[0] if len(texts) == 1 else texts for tag, texts in found.items()}


def values(table: Sequence[tuple[int, Mapping[str, Any]]], column: str) -> list[Any]:
  """A column of numbered rows; None where a row has none."""
  return [row.get(column) for _, row in table]
