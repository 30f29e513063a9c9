"""Files of raw completions: the release's JSON lists, and the JSON lines of `dss annotate`.

Owns: both forms, what is refused in them, `teacher.json`. Does not own: which rows they belong to
(release.py), what is in a completion (teacher_outputs.py).

    <split>_CoT_<k>.json  a JSON list with a completion a row, or a list of K; the k-th of a split
    <split>.jsonl         {"input": "..", "completions": [".."], "finish_reasons": ["stop"]} a row;
                          null or "" where the teacher failed; the reasons may be left out
    teacher.json          beside the JSON lines: who wrote them, see Provenance
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dss_jax.datasets import rows
from dss_jax.settings import json_form
from dss_jax.settings.errors import ConfigError

MAX_COMPLETION = 1_000_000
"""Characters; the longest of the release has some thousands."""
MAX_SAMPLES = 256
"""Completions of one row; votes compare each with each."""
TEACHER_FILE = 'teacher.json'
_LIST = (
  'expected a JSON list of texts, the raw completions, or of lists of texts if each row has several'
)


class Outputs(NamedTuple):
  """What a teacher wrote about one row.

  Attributes:
    completions: one, or K.
    finish_reasons: why each ends, as its server said; None where that is not known.
    input: what it was asked about; None where the file does not say.
    place: file and line, for messages.
  """

  completions: Sequence[str]
  finish_reasons: Sequence[str | None]
  input: str | None = None
  place: str = ''


@dataclasses.dataclass(frozen=True)
class Provenance:
  """Who wrote completions, and how: what `teacher.json` holds. All but the teacher may be missing.

  Attributes:
    teacher: the model's name, for model cards.
    prompt: its `name` and `version`.
    parameters: of the requests.
    date: in ISO form.
    requests: how many were answered.
    tokens: `input`, `cached` and `output`.
    usd: what they cost, in US dollars; None: not known.
    licence_note: what the teacher's terms say about its outputs.
  """

  teacher: str
  prompt: Mapping[str, str] = dataclasses.field(default_factory=dict)
  parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  date: str = ''
  requests: int = 0
  tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
  usd: float | None = None
  licence_note: str = ''

  def __post_init__(self):
    if not self.teacher.strip():
      raise ValueError('expected the name of a model in field "teacher", got a blank text.')


def provenance_of(values: Any, where: str) -> Provenance:
  """The provenance in a JSON value; fields that it does not have are passed over.

  Raises:
    ConfigError: a field is missing or of another type.
  """
  known = {field.name for field in dataclasses.fields(Provenance)}
  if isinstance(values, Mapping):
    values = {name: value for name, value in values.items() if name in known}
  return json_form.from_dict(Provenance, values, where)


def read_provenance(folder: pathlib.Path) -> Provenance:
  """The provenance of a folder of JSON lines.

  Raises:
    ConfigError: `teacher.json` is missing or malformed, or has the hashes of other files.
  """
  path = folder / TEACHER_FILE
  if not path.is_file():
    raise ConfigError(
      f'{path} is missing; expected who wrote the completions, at least {{"teacher": "NAME OF THE '
      'MODEL"}, so that model cards name the right one.'
    )
  values = json_form.read_object(path)
  found = provenance_of(values, str(path))
  if 'files' in values:  # of other tools it may be missing
    for file in files_in(folder):
      check_file(file, values)
  return found


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """The JSON lines in a folder."""
  return sorted(path for path in folder.glob('*.jsonl*') if is_lines(path))


def check_file(path: pathlib.Path, notes: Mapping[str, Any]) -> None:
  """Compares a file with its hash in `files` of teacher.json.

  Raises:
    ConfigError: it is another one.
  """
  files = notes['files']
  record = files.get(path.name) if isinstance(files, Mapping) else None
  wanted = record.get('sha256') if isinstance(record, Mapping) else None
  with path.open('rb') as file:
    if hashlib.file_digest(file, 'sha256').hexdigest() == wanted:
      return
  raise ConfigError(
    f'{path} is not the file that {TEACHER_FILE} speaks of: run the same dss annotate again, or if '
    f'you changed the file yourself, take "files" out of {TEACHER_FILE}.'
  )


def read(paths: Sequence[pathlib.Path]) -> Iterator[Outputs]:
  """Yields the outputs of each row, from files of either form in this order.

  Raises:
    ValueError: a file is missing or malformed.
  """
  for path in paths:
    yield from _read_lines(path) if is_lines(path) else _read_list(path)


def is_lines(path: pathlib.Path) -> bool:
  """Whether a file has JSON lines, which say what was asked."""
  return path.name.lower().removesuffix('.gz').endswith('.jsonl')


def _read_list(path: pathlib.Path) -> Iterator[Outputs]:
  batch = rows.read_json(path)
  if not isinstance(batch, list):
    raise ValueError(f'{path}: {_LIST}, got {rows.shown(batch)}.')
  for number, item in enumerate(batch, start=1):
    texts = item if isinstance(item, list) else [item]
    for text in texts:
      if not isinstance(text, str):
        raise ValueError(f'{path}: {_LIST}; item {number} has {rows.shown(text)}.')
      _check_length(text, f'{path}: item {number}')
    yield Outputs(texts, [None] * len(texts))


def _read_lines(path: pathlib.Path) -> Iterator[Outputs]:
  if path.is_file() and not path.stat().st_size:
    return  # nothing was asked about the split
  for number, row in rows.read(path, '.jsonl'):
    place = f'{path}, line {number}'
    with rows.at(place):
      texts = _texts_or_null(row, 'completions')
      if not 1 <= len(texts) <= MAX_SAMPLES:
        raise ValueError(
          f"expected 1 to {MAX_SAMPLES} texts in field 'completions' (null where the teacher "
          f'failed), got {len(texts)}'
        )
      reasons = _texts_or_null(row, 'finish_reasons') if 'finish_reasons' in row else []
      if reasons and len(reasons) != len(texts):
        raise ValueError(
          f'expected as many finish_reasons as completions, {len(texts)}; got {len(reasons)}'
        )
      asked = rows.text(row, 'input')
    for text in texts:
      _check_length(text or '', place)
    yield Outputs([text or '' for text in texts], reasons or [None] * len(texts), asked, place)


def _texts_or_null(row: rows.Row, field: str) -> list[str | None]:
  values = row.get(field)
  if not isinstance(values, list) or any(not isinstance(one, str | None) for one in values):
    came = rows.shown(values) if field in row else 'no such field'
    raise ValueError(f'expected a list of texts or null in field {field!r}, got {came}')
  return values


def _check_length(text: str, place: str) -> None:
  if len(text) > MAX_COMPLETION:
    raise ValueError(
      f'{place} has {len(text)} characters; expected a completion of {MAX_COMPLETION} at most.'
    )
