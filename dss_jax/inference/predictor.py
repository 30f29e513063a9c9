"""A student that is loaded once and asked many times: labels, rationales, scores, text as decoded.

Owns the way from a question's text to the answer's, without tf.data: the vocabulary turns questions
into the same tokens that the SeqIO tasks give (tests compare them). Does not own loading
(runs/student.py), decoding (evaluator.py, decoding.py) or what is asked (dss_jax/methods).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import seqio

from dss_jax.data.examples import Examples, offsets_of
from dss_jax.inference import evaluator, scoring, streaming
from dss_jax.methods import Choices, Method, Row
from dss_jax.methods.base import fields_of, fill
from dss_jax.models import t5
from dss_jax.tasks.preprocessors import SEPARATOR

REPLACEMENT = '\ufffd'
"""What a vocabulary of bytes shows for an incomplete character."""
Question = str | Mapping[str, str]
"""An input without prefix, its parts joined by `</s>`; or a dict of `input` and the other fields
that the method needs, such as the teacher's `rationale`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
  """A loaded student.

  Attributes:
    params: of the network, placed.
    method: how it was trained, so how it is asked.
    vocabulary: of its inputs and outputs.
    decoder: gives the decoder of a row's outputs.
    choices: of its questions, for a method that scores them.
  """

  params: t5.Params
  method: Method
  vocabulary: seqio.Vocabulary
  decoder: Callable[[Row], evaluator.Decoder]
  choices: Choices | None = None

  def answers(
    self, questions: Sequence[Question], progress: evaluator.Progress | None = None
  ) -> list[dict[str, str | None]]:
    """The student's answer to each question.

    Returns:
      A dict per question, in order: `input`, `label`, `rationale` and other outputs of its method's
      rows. The rationale is None where the student never learned to write one.

    Raises:
      ValueError: a question lacks a field that the method needs.
    """
    asked = [_fields(question) for question in questions]
    if not asked:
      return []
    answers: list[dict[str, str | None]] = [
      {'input': fields['input'], 'label': None, 'rationale': None} for fields in asked
    ]
    for row in self.rows(asked):
      outputs = self.outputs(row, asked, progress)
      for answer, output in zip(answers, outputs, strict=True):
        # The answer's row comes first, and no other may replace what it says.
        answer |= {k: v for k, v in row.parse(output).items() if answer.get(k) is None}
    return answers

  def rows(self, questions: Sequence[Question]) -> list[Row]:
    """The rows to ask for: the method's answer, and others whose fields all questions have."""
    given = frozenset.intersection(*(frozenset(_fields(question)) for question in questions))
    others = [row for row in self.method.other_rows if fields_of(row.input) <= given]
    return [self.method.answer, *others]

  def outputs(
    self, row: Row, questions: Sequence[Question], progress: evaluator.Progress | None = None
  ) -> list[str]:
    """The student's outputs for a row, one per question: where it has choices, the likeliest."""
    examples = self.encode(row, questions)
    if row.each_choice and self.choices is not None:
      options = [self.choices.of(_fields(question)['input']) for question in questions]
      return scoring.choose(
        self.decoder(row), self.params, examples, options, self.vocabulary, progress
      ).texts
    decoded = self.decoder(row)(self.params, examples, progress)
    return [evaluator.to_text(tokens, self.vocabulary) for tokens in decoded.tokens]

  def label_scores(self, questions: Sequence[Question], labels: Sequence[str]) -> np.ndarray:
    """How likely each of several labels is, from one pass of the decoder over all of them.

    Args:
      questions: n of them.
      labels: c candidates, the same for every question.

    Returns:
      float32 [n, c]: log p(label | question) in nats, EOS included, of every label.

    Raises:
      ValueError: the method's answer is more than a label, or a label is blank.
    """
    row = self.method.answer
    if not row.is_label_alone:
      raise ValueError(
        f'the method {self.method.name} writes {row.target!r}: the score of a label alone is not '
        'defined for it.'
      )
    if not labels or not all(label.strip() for label in labels):
      raise ValueError(f'expected at least one label, each with some text; got {list(labels)}.')
    decoder = self.decoder(row)
    candidates = scoring.padded(
      [[*self.vocabulary.encode(label), self.vocabulary.eos_id] for label in labels]
    )
    return scoring.score(decoder, self.params, self.encode(row, questions), candidates)

  def stream(self, question: Question, row: Row | None = None) -> Iterator[str]:
    """The student's output, greedily decoded, piece by piece as it is decoded.

    Args:
      question: a single one.
      row: the one that is asked for; None: the answer's.

    Yields:
      Texts that make up the output; none ends within a character.
    """
    row = row or self.method.answer
    if row.each_choice and self.choices is not None:
      yield from self.outputs(row, [question])
      return
    ids: list[int] = []
    sent = ''
    for token in streaming.tokens(self.decoder(row), self.params, self.encode(row, [question])):
      ids.append(token)
      text = self.vocabulary.decode(ids)
      piece = text[len(sent) :]
      if piece and text.startswith(sent) and not text.endswith(REPLACEMENT):
        yield piece
        sent = text
    if rest := self.vocabulary.decode(ids)[len(sent) :]:
      yield rest

  def truncated(self, row: Row, questions: Sequence[Question]) -> int:
    """How many of the inputs are cut when a row is asked for."""
    return self.decoder(row).truncated(self.encode(row, questions))

  def encode(self, row: Row, questions: Sequence[Question]) -> Examples:
    """Questions as examples of a row whose targets are dummies.

    Raises:
      ValueError: a question lacks a field of the row's input.
    """
    texts = [_filled(row, _fields(question)) for question in questions]
    return encode(texts, self.vocabulary)


def encode(texts: Sequence[str], vocabulary: seqio.Vocabulary) -> Examples:
  """Texts as inputs of examples; each `</s>` in them becomes the EOS id, and one ends each text.

  The tokens are those of `tasks.preprocessors.encode_parts`.
  """
  eos = vocabulary.eos_id
  tokens = [
    [id_ for part in text.split(SEPARATOR) for id_ in (*vocabulary.encode(part.strip()), eos)]
    for text in texts
  ]
  count = np.arange(len(texts) + 1)
  return Examples(
    inputs=np.array([id_ for ids in tokens for id_ in ids], np.int32),
    input_offsets=offsets_of(np.array([len(ids) for ids in tokens], np.int64)),
    targets=np.ones(len(texts), np.int32),
    target_offsets=count,
    task_ids=np.zeros(len(texts), np.int32),
    example_ids=count[:-1],
  )


def _fields(question: Question) -> Mapping[str, str]:
  return {'input': question} if isinstance(question, str) else question


def _filled(row: Row, fields: Mapping[str, str]) -> str:
  missing = sorted(fields_of(row.input) - set(fields))
  if missing:
    raise ValueError(
      f'the student is asked with {row.input!r}, so every question needs the field '
      f'{missing[0]!r}: give JSON lines {{"input": "TEXT", "{missing[0]}": "TEXT"}}.'
    )
  return fill(row.input, fields)
