"""The rows of users' files, and the texts in them: the one door through which text comes in.

Owns: formats, encodings, what a text is, and the sentence that names file, line and field. Does not
own: which fields are read (release.py, commands/predict.py, tasks/files.py).

    .jsonl, .json   one JSON object a line
    .csv, .tsv      a line of field names, then the rows; a cell with a quote, a separator or a line
                    end in it stands in double quotes
    .gz             after any of these: compressed

Text is UTF-8, with or without a byte-order mark. Lines end with \\n or \\r\\n; no other character
ends one.
"""

import codecs
import collections
import contextlib
import csv
import difflib
import gzip
import io
import json
import math
import os
import re
import reprlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from etils import epath

from dss_jax.settings import fields, json_form, plain_files
from dss_jax.settings.printable import one_line

Row = Mapping[str, Any]

FORMATS = ('.jsonl', '.json', '.csv', '.tsv')
EXPECTED = 'expected JSON lines (.jsonl, .json), .csv or .tsv, or one of these with .gz'
MAX_LINE_BYTES = 1 << 24

_DELIMITERS = {'.csv': ',', '.tsv': '\t'}
_LIKE_A_PATH = re.compile(
  r'(?i)\.(jsonl?|csv|tsv|txt|parquet|arrow|feather|xlsx?|pkl|npy)(\.?(gz|bz2|xz|zst|zip))?$'
  r'|^\w+://\S|^(~|\.{1,2})?/\S*$'
)
_MARKS = {  # in this order: one of UTF-32 starts with one of UTF-16
  'UTF-32': (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
  'UTF-16': (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
_NO_CHARACTER = re.compile('[\0\ud800-\udfff]')
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def format_of(path: epath.PathLike) -> str | None:
  """Which of FORMATS a file is by its name; None if none of them."""
  name = os.fspath(path).lower().removesuffix('.gz')
  return next((form for form in FORMATS if name.endswith(form)), None)


def is_path(value: str) -> bool:
  """Whether a value that may be a text is a file or folder: it exists, or is named like one."""
  named = value.strip(' \t"\'')
  exists = bool(named) and os.path.lexists(os.path.expanduser(named))
  return exists or _LIKE_A_PATH.search(named) is not None


def read(
  path: epath.PathLike, form: str | None = None, stream: BinaryIO | None = None
) -> Iterator[tuple[int, Row]]:
  """Yields (number of its first line, from 1; row) of a file; blank lines are no rows.

  Args:
    path: local or gs://; of a stream, its name for messages.
    form: one of FORMATS; None: by the file's name.
    stream: what is read instead of the file.

  Raises:
    ValueError: there is no such file, no row in it, or one that is malformed; the message has file
      and line.
  """
  form, name = form or format_of(path), one_line(os.fspath(path))
  if form is None:
    raise ValueError(f'{name}: {EXPECTED}.')
  rows = 0
  try:
    with _opened(path) if stream is None else contextlib.nullcontext(stream) as file:
      lines = _lines(file, name)
      delimiter = _DELIMITERS.get(form)
      found = _json_rows(lines, name) if delimiter is None else _cells(lines, name, delimiter)
      for rows, numbered in enumerate(found, start=1):  # noqa: B007
        yield numbered
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise ValueError(f'{name}: not a sound gzip file ({error}).') from error
  if not rows:
    raise ValueError(f'{name}: the file has no rows; {EXPECTED}, of one row at least.')


def read_texts(
  path: epath.PathLike,
  required: Sequence[str],
  optional: Sequence[str] = (),
  form: str | None = None,
  stream: BinaryIO | None = None,
) -> Iterator[dict[str, str | list[str]]]:
  """Yields the texts of each row, by field; see `read`.

  Args:
    path: as in `read`; so are form and stream.
    required: fields that hold a text.
    optional: fields that hold a text, or null or NaN, which become ''; or lists of texts, of the
      same length in all of them.

  Yields:
    Both kinds of fields, and the row's other texts.

  Raises:
    ValueError: as `read`, or a field is missing or holds anything else.
  """
  for number, row in read(path, form, stream):
    with at(f'{one_line(os.fspath(path))}, line {number}'):
      texts = {field: value for field, value in row.items() if isinstance(value, str)}
      known: dict[str, Any] = {field: text(row, field) for field in required}
      known |= {field: text_or_texts(row, field) for field in optional}
      counts = {
        field: len(value) if isinstance(value, list) else 1
        for field, value in known.items()
        if field in optional and value
      }
      if len(set(counts.values())) > 1:
        raise ValueError(
          f'expected as many texts in each of {", ".join(counts)}, got {list(counts.values())}'
        )
    yield texts | known


def read_json(path: epath.PathLike) -> Any:
  """The value of a file that is a single JSON document.

  Raises:
    ValueError: it is none, or a text in it holds what is no character.
  """
  plain_files.size(path, 'a JSON document')
  with _opened(path) as file:
    content = file.read()
  name = one_line(os.fspath(path))
  return _parsed(decode(_without_mark(content, name), name), name)


def text(row: Row, field: str, optional: bool = False) -> str:
  """A row's text; if it is optional, null and NaN are ''.

  Raises:
    ValueError: the row lacks the field, or its value is no text.
  """
  value = row.get(field)
  if isinstance(value, str):
    return value
  if optional and field in row and _is_nothing(value):
    return ''
  if field in row:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    repair = f'; write it in quotes, "{shown(value)}"' if number and not _is_nothing(value) else ''
    raise ValueError(f'expected a text in field {field!r}, got {shown(value)}{repair}')
  near = difflib.get_close_matches(field.lower(), [key.lower() for key in row][:100], n=1)
  has = ', '.join(shown(key) for key in row if not near or key.lower() in near)
  came = f'the row has {"" if near else "only "}{_cut(has)}' if has else 'the row is empty'
  repair = '; where there is no text write null or ""' if optional else ''
  raise ValueError(f'expected a text in field {field!r}, but {came}{repair}')


def text_or_texts(row: Row, field: str) -> str | list[str]:
  """An optional text, or the list of them if a teacher was asked several times; see `text`."""
  value = row.get(field)
  if not isinstance(value, list):
    return text(row, field, optional=True)
  with at(f'the list in field {field!r}'):
    return [text({str(n): item}, str(n), optional=True) for n, item in enumerate(value, start=1)]


def decode(content: bytes, place: str) -> str:
  """UTF-8 as text.

  Args:
    content: what is decoded.
    place: where it is, for messages.

  Raises:
    ValueError: it is something else, or holds a NUL byte.
  """
  try:
    decoded = content.decode('utf-8')
  except UnicodeDecodeError as error:
    byte = f'byte {error.start + 1} is 0x{content[error.start]:02x}'
    raise ValueError(
      f'{place}: {byte}, which is not UTF-8 there; save the text as UTF-8 (is it Windows-1252?).'
    ) from error
  if '\0' in decoded:
    raise ValueError(f'{place}: expected text in UTF-8, got a NUL byte (is it UTF-16 or UTF-32?).')
  return decoded


def refuse_broken(value: Any) -> None:
  """Refuses halves of surrogate pairs and NULs in any text of a JSON value.

  Raises:
    ValueError: there is one; the message names the field, or the number of the item in a list.
  """
  named = value.items() if isinstance(value, dict) else enumerate(_items(value), start=1)
  for name, item in named:
    waiting = [name, item]
    while waiting:
      part = waiting.pop()
      if isinstance(part, str) and (match := _NO_CHARACTER.search(part)):
        where = 'field' if isinstance(value, dict) else 'item'
        raise ValueError(
          f'{where} {shown(name)} holds {match.group()!r}, which is no character; remove it'
        )
      if isinstance(part, dict):
        waiting += part
      waiting += _items(part)


def shown(value: Any) -> str:
  """A value for messages: short, without control characters, and null and true as in JSON."""
  if value is None or isinstance(value, bool | float):
    return json.dumps(value)
  return _cut(_SHORT.repr(value), 120)


@contextlib.contextmanager
def at(place: str) -> Iterator[None]:
  """Puts a place before the message of a ValueError; a KeyError is that of a row."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{place}: {str(error).removesuffix(".")}.') from error
  except KeyError as error:
    raise ValueError(f'{place}: the row has no field {error}.') from error


@contextlib.contextmanager
def _opened(path: epath.PathLike) -> Iterator[BinaryIO]:
  """A file's content, decompressed if its name ends with .gz."""
  path = epath.Path(fields.expanded(os.fspath(path)))
  name = one_line(os.fspath(path))
  if path.is_dir():
    raise ValueError(f'{name} is a folder; {EXPECTED}.')
  try:
    remote = '://' in os.fspath(path)  # a bucket's file knows no bounded lines
    opened = io.BytesIO(path.read_bytes()) if remote else path.open('rb')
  except FileNotFoundError as error:
    problem = 'a link to nothing' if os.path.islink(path) else 'no such file'
    raise ValueError(f'{name}: {problem}; {EXPECTED}.') from error
  with opened as file:
    packed = os.fspath(path).lower().endswith('.gz')
    yield gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[misc]


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
  """Numbered lines as text, each with `\\n` at its end but perhaps the last."""
  for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b''), start=1):
    place = f'{name}, line {number}'
    line = _without_mark(line, name) if number == 1 else line
    if len(line) > MAX_LINE_BYTES:
      raise ValueError(f'{place}: more than {MAX_LINE_BYTES >> 20} MiB; is each row a line?')
    yield number, decode(line, place).replace('\r\n', '\n')


def _without_mark(content: bytes, name: str) -> bytes:
  """Content without UTF-8's byte-order mark; refuses those of other encodings."""
  for encoding, marks in _MARKS.items():
    if content.startswith(marks):
      raise ValueError(f'{name} is {encoding}; save it as UTF-8: iconv -f {encoding} -t UTF-8.')
  return content.removeprefix(codecs.BOM_UTF8)


def _json_rows(lines: Iterable[tuple[int, str]], name: str) -> Iterator[tuple[int, Row]]:
  """Rows of JSON lines."""
  for number, line in lines:
    if not (line := line.strip(' \t\r\n')):
      continue
    place = f'{name}, line {number}'
    if not line.startswith('{'):
      hint = ' (jq -c ".[]" makes JSON lines of a list)' if line.startswith('[') else ''
      raise ValueError(f'{place}: expected a JSON object a line, got {shown(line)}{hint}.')
    yield number, _parsed(line, place)


def _cells(
  lines: Iterable[tuple[int, str]], name: str, delimiter: str
) -> Iterator[tuple[int, Row]]:
  """Rows of CSV, named by the first of them."""
  last = 0

  def texts() -> Iterator[str]:
    nonlocal last
    for last, line in lines:  # noqa: B007
      yield line

  header: list[str] = []
  csv.field_size_limit(MAX_LINE_BYTES)
  reader = csv.reader(texts(), delimiter=delimiter, strict=True)
  while True:
    place, number = f'{name}, line {last + 1}', last + 1
    try:
      cells = next(reader, None)
    except csv.Error as error:
      problem = str(error).partition(' - ')[0]  # then comes advice about Python's `open`
      raise ValueError(f'{place}: not valid CSV ({one_line(problem)}).') from error
    if cells is None:
      return
    if not any(cell.strip() for cell in cells):
      continue
    if not header:
      header = _checked_header(cells, place, delimiter)
    elif len(cells) != len(header):
      raise ValueError(
        f'{place}: expected {len(header)} cells, as the first line has, got {len(cells)}: '
        f'{_cut(", ".join(map(shown, cells[:10])))}.'
      )
    else:
      yield number, dict(zip(header, cells, strict=True))


def _checked_header(cells: list[str], place: str, delimiter: str) -> list[str]:
  """The names of the cells; those without a name have none in common with a field."""
  if twice := _repeated(filter(None, cells)):
    raise ValueError(f'{place}: two cells of the first line are named {shown(twice[0])}.')
  if len(cells) == 1 and re.search('[;,\t|]', cells[0]):
    raise ValueError(
      f'{place}: expected names of fields with {delimiter!r} between them, got {shown(cells[0])}.'
    )
  return cells


def _parsed(content: str, place: str) -> Any:
  """A JSON value whose keys stand once each and whose texts have characters only."""
  value = json_form.parse(content, place, _object)
  if '\\u' in content:  # only escapes can make what is no character
    with at(place):
      refuse_broken(value)
  return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError(f'the field {shown(_repeated(key for key, _ in pairs)[0])} stands twice')
  return found


def _repeated(names: Iterable[str]) -> list[str]:
  return [name for name, times in collections.Counter(names).items() if times > 1]


def _items(value: Any) -> Iterable[Any]:
  """What a list or an object holds; nothing for other values."""
  return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _is_nothing(value: Any) -> bool:
  return value is None or (isinstance(value, float) and math.isnan(value))


def _cut(value: str, most: int = 300) -> str:
  return value if len(value) <= most else f'{value[:most]}...'
