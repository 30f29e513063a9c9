"""The annotations of a data set as files: what a teacher said about each row, and who it was.

Owns the exchange form (docs/teacher.md), in which outputs of other tools come in as well:

    OUT/{split}.jsonl   {"input": .., "completions": [..], "finish_reasons": [..]} for each raw row
    OUT/teacher.json    who was asked, how, when, at what cost

Does not own: asking (run.py), what teacher.json says of several files (teacher_notes.py), what is
prepared from it (commands/prepare.py).
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dss_jax.datasets import labels, release, rows
from dss_jax.datasets.completions import MAX_COMPLETION
from dss_jax.settings import whole_files
from dss_jax.settings.errors import ConfigError
from dss_jax.teacher import reading, teacher_notes
from dss_jax.teacher.asking import Asking, Parse
from dss_jax.teacher.prices import DOLLAR
from dss_jax.teacher.requests import Request, Tokens
from dss_jax.teacher.store import Kept, Store

ROWS = 'rows'
"""The folder of parsed rows."""
LICENCE_NOTE = 'Texts written by {teacher}; the terms of its provider may limit their use.'


Read = Callable[[str, Parse, str | None], reading.Reading]


@dataclasses.dataclass(frozen=True)
class Source:
  """The rows of one raw file.

  Attributes:
    name: of the file of annotations.
    path: of the raw file.
    dataset: how its rows and completions read.
    limit: rows that are asked about, from the first; None: all.
    chosen: of these only those with a number in it, from 0.
    read: a completion, by the data set's parser.
  """

  name: str
  path: pathlib.Path
  dataset: release.Dataset
  limit: int | None = None
  chosen: frozenset[int] | None = None
  read: Read = reading.read

  def asked(self) -> Iterator[release.Row]:
    """The rows that are asked about, read anew."""
    for _, row in self._numbered():
      yield row

  def few(self, count: int) -> 'Source':
    """The same with so many of its rows, evenly spread over them."""
    numbers = [number for number, _ in self._numbered()]
    count = min(count, len(numbers))
    chosen = {numbers[one * len(numbers) // count] for one in range(count)}
    return dataclasses.replace(self, chosen=frozenset(chosen))

  def whole(self) -> 'Source':
    """The same with all rows up to the limit."""
    return dataclasses.replace(self, chosen=None)

  def _numbered(self) -> Iterator[tuple[int, release.Row]]:
    for number, (_, row) in enumerate(self.dataset.read(self.path)):
      if self.limit is not None and number >= self.limit:
        return
      if self.chosen is None or number in self.chosen:
        yield number, row


@dataclasses.dataclass
class Written:
  """What was written of a source, or of all: rows, statuses of completions, who answered.

  Attributes:
    rows: that were asked about.
    judged: completions of rows with a gold label; `agree`: those with that label.
    statuses: of completions, counted.
    models: that wrote what is used.
    requests: whose answers are used; `tokens`: of these.
    charged: billionths of a dollar for all that was asked, failures included.
    latest: when the last answer came.
    long: rationales that were to be made short, and were not.
    seen: requests that are counted.
  """

  rows: int = 0
  agree: int = 0
  judged: int = 0
  statuses: dict[str, int] = dataclasses.field(default_factory=dict)
  models: set[str] = dataclasses.field(default_factory=set)
  requests: int = 0
  tokens: Tokens = Tokens(0, 0, 0)  # noqa: RUF009  a tuple
  charged: int = 0
  latest: str = ''
  long: int = 0
  seen: set[bytes] = dataclasses.field(default_factory=set)

  def add(self, request: Request, kept: Kept | None, is_used: bool = True) -> None:
    """Counts what is kept of a request, once."""
    if kept is None or request.key in self.seen:
      return
    self.seen.add(request.key)
    self.charged += kept.charged
    if not is_used or kept.answer is None:
      return
    self.models.add(kept.model)
    self.requests += 1
    self.latest = max(self.latest, kept.at)
    if kept.answer.tokens:
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
      with rows.at(f'{source.path}: the question of {self.asking.prompt.path}'):
        requests = self.asking.requests(row)
      yield from requests

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
    return [
      self._completion(row, request, one, parse, total)
      for request, one in zip(requests, kept, strict=True)
    ]

  def _completion(
    self, row: release.Row, request: Request, kept: Kept | None, parse: Parse, total: Written
  ) -> tuple[str, str | None]:
    total.add(request, kept)
    if kept is None or kept.answer is None:
      return '', None
    text, condensing = None, self.asking.condensing(row, kept.answer, parse)
    if condensing is not None:
      short = self._store.find(condensing, self._same)
      if short and short.answer and self.asking.is_shorter(short.answer, kept.answer, parse):
        text = short.answer.text
      total.add(condensing, short, is_used=text is not None)
      total.long += text is None
    completion = self.asking.completion(kept.answer, parse, text)
    return completion[:MAX_COMPLETION], kept.answer.finish_reason

  def check(self, sources: list[Source], folder: pathlib.Path) -> None:
    """Refuses, before anything is asked, a folder whose other files `write` would refuse.

    Raises:
      ConfigError: it has other splits of another teacher.
    """
    if not self._same:  # else the teacher may be another one
      names = {f'{source.name}.jsonl' for source in sources}
      teacher_notes.others_of(folder, names, self._by(self.asking.model))

  def write(
    self,
    sources: list[Source],
    folder: pathlib.Path,
    has_price: bool,
    refused: Mapping[str, str | None],
    with_rows: bool = False,
  ) -> Written:
    """Writes the files of all sources, and teacher.json; rows that nobody asked about are left out.

    Args:
      sources: the data set's, each with a name of its own.
      folder: is made if there is none.
      has_price: money was counted.
      refused: parameters that the server did not take, and what was sent instead.
      with_rows: also write rows/{split}.jsonl, which tasks.files.source reads.

    Returns:
      The sums over all sources.

    Raises:
      ConfigError: there is no answer, or the folder has other splits of another teacher; files of
        before stay as they are.
    """
    total = Written()
    texts: dict[str, tuple[str, str]] = {}
    records: dict[str, teacher_notes.Record] = {}
    for source in sources:
      before = dataclasses.replace(total)
      lines = [self._lines(source, row, total) for row in source.asked()]
      outputs, parsed = (''.join(line[kind] for line in lines) for kind in (0, 1))
      name = f'{source.name}.jsonl'
      texts[name] = (outputs, parsed)
      records[name] = self._record(outputs, before, total, has_price, refused)
    if not total.requests:
      raise ConfigError('no request has an answer, so there is nothing to write or to prepare.')
    notes = teacher_notes.together(folder, records, self._about(total))
    folder.mkdir(parents=True, exist_ok=True)
    for name, (outputs, parsed) in texts.items():
      whole_files.write_text(folder / name, outputs)
      if with_rows:
        (folder / ROWS).mkdir(exist_ok=True)
        whole_files.write_text(folder / ROWS / name, parsed)
    # Last: until then the hashes of before keep the folder from being prepared.
    teacher_notes.write(folder, notes)
    return total

  def _lines(self, source: Source, row: release.Row, total: Written) -> tuple[str, str]:
    """A row's line in the exchange form, and as a parsed row; both '' if nobody asked about it."""
    found = self.completions(source, row, total)
    if found is None:
      return '', ''
    text, gold = source.dataset.fields(row)
    total.rows += 1
    read = [judge(source, row, gold, *one, total) for one in found]
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

  def _record(
    self,
    outputs: str,
    before: Written,
    total: Written,
    has_price: bool,
    refused: Mapping[str, str | None],
  ) -> teacher_notes.Record:
    """What teacher.json says of a file, from the sums before it and after it."""
    tokens = (after - earlier for after, earlier in zip(total.tokens, before.tokens, strict=True))
    return teacher_notes.Record(
      sha256=teacher_notes.sha256(outputs),
      parameters={
        **self.asking.parameters,
        'mode': 'chat' if self.asking.is_chat else 'completions',
        'samples': self.asking.samples,
        'rationale_from': self.asking.source,
        'condense': self.asking.words,
        'refused': dict(refused),
      },
      requests=total.requests - before.requests,
      tokens=Tokens(*tokens)._asdict(),
      usd=dollars(total.charged - before.charged) if has_price else None,
    )

  def _about(self, total: Written) -> dict[str, Any]:
    """Who was asked."""
    teacher = ', '.join(sorted(total.models))
    note = LICENCE_NOTE.format(teacher=teacher)
    return {**self._by(teacher), 'date': total.latest, 'licence_note': note}

  def _by(self, teacher: str) -> dict[str, Any]:
    prompt = self.asking.prompt
    return {'teacher': teacher, 'prompt': {'name': prompt.name, 'version': prompt.version}}


def parser(dataset: release.Dataset, row: release.Row) -> Parse:
  """The data set's parser of completions, for one row."""
  return lambda completion: dataset.parse(completion, row)


def judge(
  source: Source,
  row: release.Row,
  gold: str,
  completion: str,
  reason: str | None,
  total: Written,
) -> reading.Reading:
  """Reads a completion, and counts its status and whether its label is the gold one."""
  read = source.read(completion, parser(source.dataset, row), reason)
  total.statuses[read.status] = total.statuses.get(read.status, 0) + 1
  total.judged += bool(gold)
  total.agree += bool(gold) and labels.CORRECT[source.dataset.metric](gold, read.label)
  return read


def _json_line(values: Mapping[str, Any]) -> str:
  return f'{json.dumps(values, ensure_ascii=False)}\n'


def dollars(spent: int) -> float:
  """Billionths of a dollar in dollars."""
  return round(spent / DOLLAR, 6)
