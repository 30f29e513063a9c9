"""The annotations of a data set as files: what a teacher said about each row, and who it was.

Owns the exchange form (docs/teacher.md), in which outputs of other tools come in as well:

    OUT/{split}.jsonl   {"input": .., "completions": [..], "finish_reasons": [..]} for each raw row
    OUT/teacher.json    who was asked, how, when, at what cost

Does not own: asking (run.py), what is prepared from it (commands/prepare.py).
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from dss_jax.datasets import labels, release
from dss_jax.datasets.completions import MAX_COMPLETION
from dss_jax.settings import whole_files
from dss_jax.settings.errors import ConfigError
from dss_jax.teacher import reading
from dss_jax.teacher.asking import Asking, Parse
from dss_jax.teacher.prices import DOLLAR
from dss_jax.teacher.requests import Request, Tokens
from dss_jax.teacher.store import Kept, Store

ROWS = 'rows'
LICENCE_NOTE = 'Texts written by {teacher}; the terms of its provider may limit their use.'


@dataclasses.dataclass(frozen=True)
class Source:
  """The rows of one raw file.

  Attributes:
    name: of the file of annotations.
    path: of the raw file.
    dataset: how its rows and completions read.
    limit: rows that are asked about, from the first; None: all.
    chosen: or only these, by number from 0.
  """

  name: str
  path: pathlib.Path
  dataset: release.Dataset
  limit: int | None = None
  chosen: frozenset[int] | None = None

  def asked(self) -> Iterator[release.Row]:
    """The rows that are asked about, read anew."""
    for _, row in self._numbered():
      yield row

  def few(self, count: int) -> 'Source':
    """The same with so many of its rows, evenly spread over the file."""
    rows = sum(1 for _ in self._numbered())
    chosen = {number * rows // count for number in range(min(count, rows))}
    return dataclasses.replace(self, chosen=frozenset(chosen))

  def _numbered(self) -> Iterator[tuple[int, release.Row]]:
    for number, (_, row) in enumerate(self.dataset.read(self.path)):
      if self.limit is not None and number >= self.limit:
        return
      if self.chosen is None or number in self.chosen:
        yield number, row


@dataclasses.dataclass
class Written:
  """What was written of a source, or of all: rows, statuses of completions, who answered."""

  rows: int = 0
  agree: int = 0
  judged: int = 0
  statuses: dict[str, int] = dataclasses.field(default_factory=dict)
  models: set[str] = dataclasses.field(default_factory=set)
  requests: int = 0
  tokens: Tokens = Tokens(0, 0, 0)  # noqa: RUF009  a tuple
  latest: str = ''

  def add(self, kept: Kept) -> None:
    """Counts an answer that is used."""
    self.models.add(kept.model)
    self.requests += 1
    self.latest = max(self.latest, kept.at)
    if kept.answer and kept.answer.tokens:
      total = zip(self.tokens, kept.answer.tokens, strict=True)
      self.tokens = Tokens(*(before + more for before, more in total))


class Annotator:
  """Requests about sources, and their completions from a store."""

  def __init__(self, asking: Asking, store: Store, same_prompt: bool = False):
    """Args: how is asked, where answers are kept, whether those to the same prompt will do."""
    self.asking, self._store, self._same = asking, store, same_prompt

  def requests(self, source: Source) -> Iterator[Request]:
    """The requests about the rows of a source."""
    for row in source.asked():
      yield from self.asking.requests(row)

  def condensing(self, source: Source) -> Iterator[Request]:
    """The requests that make long rationales of kept answers short."""
    for row in source.asked():
      parse = parser(source.dataset, row)
      for request in self.asking.requests(row):
        kept = self._store.find(request, self._same)
        if kept and kept.answer:
          short = self.asking.condensing(row, kept.answer, parse)
          if short is not None:
            yield short

  def completions(
    self, source: Source, row: release.Row, total: Written
  ) -> list[tuple[str, str | None]] | None:
    """(completion, reason to end) of each sample, '' where it failed; counts what is used.

    Returns:
      None if nobody has asked about the row.
    """
    requests = self.asking.requests(row)
    kept = [self._store.find(one, self._same) for one in requests]
    if not any(one and one.state != 'claimed' for one in kept):
      return None
    parse = parser(source.dataset, row)
    return [self._completion(row, one, parse, total) for one in kept]

  def _completion(
    self, row: release.Row, kept: Kept | None, parse: Parse, total: Written
  ) -> tuple[str, str | None]:
    if kept is None or kept.answer is None:
      return '', None
    total.add(kept)
    text, request = None, self.asking.condensing(row, kept.answer, parse)
    short = self._store.find(request, self._same) if request else None
    if short and short.answer:
      total.add(short)
      text = short.answer.text
    completion = self.asking.completion(kept.answer, parse, text)
    return completion[:MAX_COMPLETION], kept.answer.finish_reason

  def write(
    self,
    sources: list[Source],
    folder: pathlib.Path,
    dollars: float | None,
    refused: Mapping[str, str | None],
    with_rows: bool = False,
  ) -> Written:
    """Writes the files of all sources, and teacher.json; rows that nobody asked about are left out.

    Args:
      sources: the data set's, each with a name of its own.
      folder: is made if there is none.
      dollars: that were spent; None: not counted.
      refused: parameters that the server did not take, and what was sent instead.
      with_rows: also write rows/{split}.jsonl, which tasks.files.source reads.

    Returns:
      The sums over all sources.

    Raises:
      ConfigError: there is no answer; files of before stay as they are.
    """
    total, files = Written(), []
    for source in sources:
      found = [self._lines(source, row, total) for row in source.asked()]
      files.append((source, *(zip(*found, strict=True) if found else ((), ()))))
    if not total.requests:
      raise ConfigError('no request has an answer, so there is nothing to write or to prepare.')
    folder.mkdir(parents=True, exist_ok=True)
    for source, outputs, rows in files:
      whole_files.write_text(folder / f'{source.name}.jsonl', ''.join(outputs))
      if with_rows:
        (folder / ROWS).mkdir(exist_ok=True)
        whole_files.write_text(folder / ROWS / f'{source.name}.jsonl', ''.join(rows))
    about = json.dumps(self._about(total, dollars, refused), indent=2, ensure_ascii=False)
    whole_files.write_text(folder / 'teacher.json', f'{about}\n')
    return total

  def _lines(self, source: Source, row: release.Row, total: Written) -> tuple[str, str]:
    """A row's line in the exchange form, and as a parsed row; both '' if nobody asked about it."""
    found = self.completions(source, row, total)
    if found is None:
      return '', ''
    text, gold = source.dataset.fields(row)
    total.rows += 1
    read = [judge(source.dataset, row, gold, *one, total) for one in found]
    completions, reasons = zip(*found, strict=True)
    rationales, labels_ = [one.rationale for one in read], [one.label for one in read]
    parsed = {
      'input': text,
      'label': gold,
      'rationale': rationales if len(read) > 1 else rationales[0],
      'teacher_label': labels_ if len(read) > 1 else labels_[0],
    }
    raw = {'input': text, 'completions': completions, 'finish_reasons': reasons}
    return _json_line(raw), _json_line(parsed)

  def _about(
    self, total: Written, dollars: float | None, refused: Mapping[str, str | None]
  ) -> Mapping[str, Any]:
    teacher = ', '.join(sorted(total.models)) or self.asking.model
    prompt = self.asking.prompt
    return {
      'teacher': teacher,
      'prompt': {'name': prompt.name, 'version': prompt.version},
      'parameters': {
        **self.asking.parameters,
        'mode': 'chat' if self.asking.is_chat else 'completions',
        'samples': self.asking.samples,
        'rationale_from': self.asking.source,
        'condense': self.asking.words,
        'refused': refused,
      },
      'date': total.latest,
      'requests': total.requests,
      'tokens': total.tokens._asdict(),
      'usd': dollars,
      'licence_note': LICENCE_NOTE.format(teacher=teacher),
    }


def parser(dataset: release.Dataset, row: release.Row) -> Parse:
  """The data set's parser of completions, for one row."""
  return lambda completion: dataset.parse(completion, row)


def judge(
  dataset: release.Dataset,
  row: release.Row,
  gold: str,
  completion: str,
  reason: str | None,
  total: Written,
) -> reading.Reading:
  """Reads a completion, and counts its status and whether its label is the gold one."""
  read = reading.read(completion, parser(dataset, row), reason)
  total.statuses[read.status] = total.statuses.get(read.status, 0) + 1
  total.judged += bool(gold)
  total.agree += bool(gold) and labels.CORRECT[dataset.metric](gold, read.label)
  return read


def _json_line(values: Mapping[str, Any]) -> str:
  return f'{json.dumps(values, ensure_ascii=False)}\n'


def dollars(spent: int) -> float:
  """Billionths of a dollar in dollars."""
  return round(spent / DOLLAR, 6)
