"""Prompts: what a teacher is asked, from files that ship with the package or a user's own.

Owns: the format of a prompt file, its checks, questions and exemplars as text or messages, the hash
of a version. Does not own: how a completion is read (reading.py, the data sets' parsers), sending.

    instruction = "Solve the problem. ..."
    question = "Q: {input}"                # fields of a raw row; of a list lines (a), (b), ..
    cue = "A:"                             # after the question in completions mode
    completion = "{rationale} The answer is {answer}."
    stop = ["\\nQ:"]
    max_tokens = 256

    [[exemplars]]
    rationale = "Two and three make five."
    answer = "(2 + 3)"
    row = { input = "...", label = "( 2 + 3 )" }

    [answer]                               # for data sets without a parser: see answer_section.py
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import pathlib
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from dss_jax.datasets import labels, release, rows
from dss_jax.settings import plain_files
from dss_jax.teacher import answer_section

FOLDER = pathlib.Path(__file__).with_name('prompts')
MAX_BYTES = 1 << 20
MAX_STOPS = 4
"""Servers of OpenAI's protocol take no more."""
MOST_TOKENS = 100_000
LETTERS = 'abcdefghijklmnopqrstuvwxyz'
_FIELD = re.compile(r'\{(\w+)\}')
_KNOWN = (
  'instruction', 'question', 'cue', 'completion', 'stop', 'max_tokens', 'exemplars', 'answer',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Exemplar:
  """A question with its answer as the teacher should write it.

  Attributes:
    row: as the raw rows of the data set, with its gold label.
    rationale: why.
    answer: in the form that the data set's parser reads.
  """

  row: Mapping[str, Any]
  rationale: str
  answer: str


@dataclasses.dataclass(frozen=True)
class Prompt:
  """What a teacher is asked about each row of a data set.

  Attributes:
    name: of the file.
    path: of the file, for messages.
    instruction: what comes first; may be empty if there are exemplars.
    template: the question, with `{field}` for fields of a raw row.
    cue: what follows a question in completions mode, as 'A:'.
    completion: what a teacher writes, with `{rationale}` and `{answer}`.
    stop: what ends a completion.
    max_tokens: most tokens of a completion, unless told otherwise.
    exemplars: questions with their answers.
    answer: how the answer is read, for data sets that define no parser.
  """

  name: str
  path: str
  instruction: str
  template: str
  cue: str
  completion: str
  stop: tuple[str, ...]
  max_tokens: int
  exemplars: tuple[Exemplar, ...]
  answer: answer_section.Answer | None = None

  @functools.cached_property
  def version(self) -> str:
    """12 hexadecimal digits over what a teacher reads: other comments or limits change nothing."""
    read = [self.instruction, self.template, self.cue, self.completion]
    shown = [[self.question(one.row), self.written(one)] for one in self.exemplars]
    content = json.dumps([*read, shown], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:12]

  def question(self, row: Mapping[str, Any]) -> str:
    """A raw row as the exemplars' questions read; `</s>` between parts becomes a line end.

    Raises:
      ValueError: the row lacks a field of the template, or it holds neither a text nor texts.
    """
    return _FIELD.sub(lambda field: _shown(row, field.group(1)), self.template)

  def written(self, exemplar: Exemplar) -> str:
    """What a teacher would write for an exemplar: its rationale and answer."""
    parts = {'rationale': exemplar.rationale, 'answer': exemplar.answer}
    return _FIELD.sub(lambda field: parts[field.group(1)], self.completion)

  def chat(self, question: str) -> list[dict[str, str]]:
    """The messages that ask a question; all but the last are the same for every question."""
    return [*map(dict, self._messages), {'role': 'user', 'content': question}]

  def text(self, question: str) -> str:
    """The text that asks a question in completions mode; it ends where the answer begins."""
    return f'{self._shots}{question}{self.cue}'

  def dataset(self, name: str) -> release.Dataset:
    """A data set of a user's own, with texts `input` and perhaps `label`, read as [answer] says.

    Raises:
      ValueError: the file has no [answer].
    """
    if self.answer is None:
      raise ValueError(
        f'{self.path}: expected a section [answer], which says how the answer of a data set that '
        "is not registered is read: choices, listed or metric, and where it starts, 'marker'."
      )
    return self.answer.dataset(name, self.stop)

  def check(self, dataset: release.Dataset) -> None:
    """Checks that the data set reads from every exemplar its rationale and its gold label.

    Raises:
      ValueError: it does not; the message names file and exemplar.
    """
    for number, exemplar in enumerate(self.exemplars, start=1):
      with rows.at(f'{self.path}: exemplar {number}'):
        gold = dataset.fields(exemplar.row)[1]
        read = dataset.parse(self.written(exemplar), exemplar.row)
        if read.rationale != exemplar.rationale:
          raise ValueError(
            f'{dataset.name} reads the rationale {rows.shown(read.rationale)} from '
            f"{rows.shown(self.written(exemplar))}; expected that of field 'rationale'"
          )
        if not labels.CORRECT[dataset.metric](gold, read.label):
          raise ValueError(
            f'{dataset.name} reads the label {rows.shown(read.label)} from '
            f'{rows.shown(self.written(exemplar))}; expected {rows.shown(gold)}, which its row has'
          )

  @functools.cached_property
  def _messages(self) -> tuple[dict[str, str], ...]:
    """What comes before every question in a chat."""
    found = [{'role': 'system', 'content': self.instruction}] if self.instruction else []
    for one in self.exemplars:
      found.append({'role': 'user', 'content': self.question(one.row)})
      found.append({'role': 'assistant', 'content': self.written(one)})
    return tuple(found)

  @functools.cached_property
  def _shots(self) -> str:
    """What comes before every question in completions mode."""
    shots = [
      f'{self.question(one.row)}{self.cue} {self.written(one)}\n\n' for one in self.exemplars
    ]
    return ''.join([f'{self.instruction}\n\n' if self.instruction else '', *shots])


def names() -> tuple[str, ...]:
  """The prompts that ship with the package; those of data sets have their names."""
  return tuple(sorted(path.stem for path in FOLDER.glob('*.toml')))


def load(name_or_path: str) -> Prompt:
  """The prompt of a name that ships with the package, or of a user's .toml file.

  Raises:
    ValueError: there is no such prompt, or its file is malformed; the message names file and field.
  """
  if name_or_path in names():
    return _read(FOLDER / f'{name_or_path}.toml')
  if not name_or_path.lower().endswith('.toml'):
    near = difflib.get_close_matches(name_or_path, names(), n=3, cutoff=0.5) or names()
    raise ValueError(
      f'no prompt {name_or_path!r} ships with the package; there are {", ".join(near)}. For your '
      'own give the path of its .toml file.'
    )
  return _read(pathlib.Path(name_or_path).expanduser())


def _read(path: pathlib.Path) -> Prompt:
  content = plain_files.read(path, 'a prompt in TOML', MAX_BYTES)
  with rows.at(str(path)):
    try:
      text = rows.decode(content, 'the file').removeprefix('\ufeff')
      values = tomllib.loads(text.replace('\r\n', '\n'))
    except tomllib.TOMLDecodeError as error:
      raise ValueError(f'not valid TOML: {error}') from error
    except RecursionError:
      raise ValueError('not valid TOML: it is nested too deeply') from None
    rows.refuse_broken(values)
    prompt = _prompt(path, values)
  if prompt.answer is not None:
    prompt.check(prompt.dataset(prompt.name))
  return prompt


def _prompt(path: pathlib.Path, values: Mapping[str, Any]) -> Prompt:
  answer_section.refuse_unknown(values, _KNOWN)
  prompt = Prompt(
    name=path.stem,
    path=str(path),
    instruction=_text(values, 'instruction', default='').strip(),
    template=_text(values, 'question').strip(),
    cue=_text(values, 'cue', default=''),
    completion=_text(values, 'completion').strip(),
    stop=answer_section.texts(values, 'stop', most=MAX_STOPS),
    max_tokens=_max_tokens(values),
    exemplars=_exemplars(values.get('exemplars', [])),
    answer=answer_section.read(values['answer']) if 'answer' in values else None,
  )
  if not _FIELD.search(prompt.template):
    raise ValueError(
      "field 'question': expected fields of a raw row in it, as in 'Q: {input}', got "
      f'{rows.shown(prompt.template)}'
    )
  if sorted(_FIELD.findall(prompt.completion)) != ['answer', 'rationale']:
    raise ValueError(
      "field 'completion': expected {rationale} and {answer} in it, each once, got "
      f'{rows.shown(prompt.completion)}'
    )
  if not prompt.instruction and not prompt.exemplars:
    raise ValueError("expected an 'instruction', [[exemplars]], or both; the file has neither")
  for number, exemplar in enumerate(prompt.exemplars, start=1):
    with rows.at(f'exemplar {number}, row'):
      prompt.question(exemplar.row)
  return prompt


def _exemplars(values: Any) -> tuple[Exemplar, ...]:
  if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
    raise ValueError(f"field 'exemplars': expected tables [[exemplars]], got {rows.shown(values)}")
  found = []
  for number, one in enumerate(values, start=1):
    with rows.at(f'exemplar {number}'):
      answer_section.refuse_unknown(one, ('row', 'rationale', 'answer'))
      row = one.get('row')
      if not isinstance(row, dict):
        raise ValueError(f"field 'row': expected a table of a raw row's fields, got {row!r:.60}")
      rationale, answer = (_text(one, field).strip() for field in ('rationale', 'answer'))
      found.append(Exemplar(row, rationale, answer))
  return tuple(found)


def _text(values: Mapping[str, Any], field: str, default: str | None = None) -> str:
  """A text; it may be blank or missing only if it has a default."""
  value = values.get(field, default)
  if not isinstance(value, str) or (default is None and not value.strip()):
    came = rows.shown(value) if field in values else 'nothing'
    raise ValueError(f'field {field!r}: expected a text, got {came}')
  return value


def _max_tokens(values: Mapping[str, Any]) -> int:
  value = values.get('max_tokens')
  if type(value) is not int or not 1 <= value <= MOST_TOKENS:  # True is an int, too
    raise ValueError(
      f"field 'max_tokens': expected the most tokens of a completion, 1 to {MOST_TOKENS}, got "
      f'{rows.shown(value) if "max_tokens" in values else "nothing"}'
    )
  return value


def _shown(row: Mapping[str, Any], field: str) -> str:
  """A field of a row within a question."""
  value = row.get(field)
  if isinstance(value, list):
    options = [item for item in value if isinstance(item, str)]
    if not 1 <= len(value) == len(options) <= len(LETTERS):
      raise ValueError(
        f'expected 1 to {len(LETTERS)} texts in field {field!r}, got {rows.shown(value)}'
      )
    lines = zip(LETTERS, map(release.without_separator, options), strict=False)
    return '\n'.join(f'({letter}) {option.strip()}' for letter, option in lines)
  return rows.text(row, field).replace(release.INPUT_SEPARATOR, '\n').strip()
