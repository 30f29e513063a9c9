"""The teacher's own format, both ways: its question as the student's input, and the answer's form.

Owns the way between the text that asks a teacher (a prompt's question) and the input that a student
reads, and what the student writes in the teacher's place: rationale, marker, answer. Does not own
prompts or how a completion is read (teacher/), or HTTP (app.py, chat.py).

An application that asked the teacher sends the same messages to its student and reads the answer by
the same marker, so only its base_url changes.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import datasets
from dss_jax.datasets import release
from dss_jax.methods import Choices
from dss_jax.methods.base import pieces
from dss_jax.teacher import answer_section, prompts, reading
from dss_jax.teacher.prompts import LETTERS, Exemplar, Prompt

PLAIN = Prompt(
  name='plain',
  path='the format without a prompt',
  instruction='',
  template='{input}',
  cue='',
  completion='{rationale} The answer is {answer}.',
  stop=(),
  max_tokens=256,
  exemplars=(),
)
"""Where no prompt is known: the last message is the input."""


@dataclasses.dataclass(frozen=True)
class Protocol:
  """The format of one prompt.

  Attributes:
    prompt: what the teacher is asked.
    dataset: how its answers are read.
    choices: of the student's questions; None if a label is any text.
  """

  prompt: Prompt
  dataset: release.Dataset
  choices: Choices | None

  def input(self, question: str) -> str:
    """The student's input in the text that asks the teacher; another text is the input itself."""
    start, between, end = self._literals
    text = question.strip()
    if not (text.startswith(start) and text.endswith(end)):
      return text
    text = text[len(start) : len(text) - len(end)]
    for literal, separator in between:
      text = text.replace(literal, separator, -1 if literal == '\n' else 1)
    return text.strip()

  def question(self, text: str) -> str:
    """The text that asks the teacher about a student's input."""
    start, between, end = self._literals
    for literal, separator in between:
      text = text.replace(separator, literal, 1)
    return start + text.replace(release.INPUT_SEPARATOR, '\n').strip() + end

  def completion(self, text: str, rationale: str | None, label: str) -> str:
    """What the student writes in the teacher's place.

    Args:
      text: the student's input.
      rationale: of the student; None: it has none.
      label: likewise.
    """
    return self.prompt.written(Exemplar({}, rationale or '', self.answer(text, label))).strip()

  @property
  def starts_with_rationale(self) -> bool:
    """Whether a completion can be sent as the rationale grows."""
    return pieces(self.prompt.completion)[0] == ('', 'rationale')

  def answer(self, text: str, label: str) -> str:
    """A label in the form of the prompt's answers: `(c) wildfire` where choices are listed."""
    if self.choices is None or not self.choices.listed:
      return label
    try:
      options = self.choices.of(text)
    except ValueError:  # the input lists none
      return label
    return f'({LETTERS[options.index(label)]}) {label}' if label in options else label

  def read(self, text: str, completion: str, finish_reason: str | None) -> reading.Reading:
    """Rationale and label of what the teacher wrote.

    Args:
      text: the student's input.
      completion: of the teacher.
      finish_reason: why it ends.
    """
    row: dict[str, Any] = {'input': text}
    if self.choices is not None and self.choices.listed:
      row['choices'] = list(self.choices.of(text))
    return reading.read(completion, lambda own: self.dataset.parse(own, row), finish_reason)

  @functools.cached_property
  def _literals(self) -> tuple[str, Sequence[tuple[str, str]], str]:
    """The texts before, between and after the fields of the question.

    Each text between is paired with what stands there in the student's input: the same, or `</s>`.
    The exemplars tell which, and whether an end of line is a `</s>`.
    """
    parts = pieces(self.prompt.template)
    start, end = parts[0][0], parts[-1][0] if not parts[-1][1] else ''
    between = [text for text, name in parts[1:] if name]
    separated = [(text, release.INPUT_SEPARATOR) for text in between or ['\n']]
    for option in ([], separated):
      found = dataclasses.replace(self)
      found.__dict__['_literals'] = start, option, end
      if found.reads_exemplars():
        return start, option, end
    return start, [], end

  def reads_exemplars(self) -> bool:
    """Whether every exemplar's question gives the input that its data set makes of its row."""
    rows = [exemplar.row for exemplar in self.prompt.exemplars]
    return all(self.input(self.prompt.question(row)) == self._input_of(row) for row in rows)

  def _input_of(self, row: Mapping[str, Any]) -> str:
    return self.dataset.fields(row)[0].strip()


def load(prompt: str | None, dataset: str, choices: Choices | None) -> Protocol:
  """The format that a student answers in.

  Args:
    prompt: name or path of a prompt; None: that of the data set, or PLAIN.
    dataset: the name of the one that the student was trained on.
    choices: of its questions.

  Raises:
    ValueError: there is no such prompt, or no exemplar shows how an input is made of it.
  """
  if prompt is None:
    found = prompts.load(dataset) if dataset in prompts.names() else PLAIN
  else:
    found = prompts.load(prompt)
  if found.answer is not None:
    read = found.dataset(found.name)
  elif found.name in datasets.names():
    read = datasets.get(found.name)
  else:
    read = _plain_dataset(choices)
  protocol = Protocol(found, read, choices)
  if not found.exemplars and found is not PLAIN:
    raise ValueError(
      f'{found.path} has no exemplars: at least one [[exemplars]] is needed, which shows how a '
      'question becomes the input of a student.'
    )
  if not protocol.reads_exemplars():
    raise ValueError(
      f'{found.path}: its exemplars do not show how a question becomes the input of a student: '
      'expected the fields of the question in the order of the input.'
    )
  return protocol


def _plain_dataset(choices: Choices | None) -> release.Dataset:
  """How PLAIN's answers are read."""
  answer = answer_section.Answer(answer_section.DEFAULT_MARKER, choices, 'text')
  return answer.dataset('plain', ())
