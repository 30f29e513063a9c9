"""A loaded student as batches of a few fixed shapes: questions in, labels and pieces of text out.

Owns the shapes and their compilation, what a question becomes (its rows and its candidates), and
the events of a question that is being answered: an `Answer`, then a `Piece` for each new part of
the rationale, then an `End`. Does not own the compiled programs (inference/stepping.py), who is in
a batch (batcher.py), or the student itself (Predictor).

All rows of a question are encoded together and decoded side by side, so its label comes first: it
is short, and the rationale goes on from the same encoding.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dss_jax.inference import decoding, stepping
from dss_jax.inference.predictor import Predictor
from dss_jax.methods import Choices, Row
from dss_jax.methods.base import fields_of
from dss_jax.parallel import devices, partitioning
from dss_jax.serving.batcher import Job
from dss_jax.serving.outputs import Output

CHUNK = 8
"""Tokens between two looks at the queue."""
SMALLEST = 2
"""Rows of the smallest batch: a label and its rationale."""
NARROWEST = 8
"""Widths are its multiples."""


class Answer(NamedTuple):
  """The label of a question.

  Attributes:
    label: as `dss predict` gives it.
    confidence: the probability that the student gives what it wrote, up to the label's end.
    scores: the probability of each candidate label; None if they are not known or not wanted.
    truncated: whether the input was cut.
  """

  label: str
  confidence: float
  scores: dict[str, float] | None
  truncated: bool


class Piece(NamedTuple):
  """A further part of the rationale."""

  text: str


class End(NamedTuple):
  """The end of an answer.

  Attributes:
    rationale: the whole of it; None if none was asked for or learned.
    input_tokens: None where who answers does not count them.
    output_tokens: likewise.
    finish_reason: 'stop', 'length' where the limit of tokens ended the label (a rationale that is
      cut has a whole label), or as the teacher says.
  """

  rationale: str | None
  input_tokens: int | None
  output_tokens: int | None
  finish_reason: str = 'stop'


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
  """A question, encoded.

  Attributes:
    rows: what is asked, the row with the label first.
    tokens: of each row's input.
    labels: candidates that are scored; empty: none.
    candidates: their tokens.
    truncated: whether the input was cut.
    streams: whether pieces of the rationale are wanted before its end.
  """

  rows: tuple[Row, ...]
  tokens: tuple[np.ndarray, ...]
  labels: tuple[str, ...]
  candidates: tuple[tuple[int, ...], ...]
  truncated: bool
  streams: bool = False


class Engine:
  """A student, compiled for a few numbers of rows and widths of inputs.

  Args:
    predictor: the student; its decoders have to be greedy.
    batch_size: most rows of a batch.
    choices: of its questions; None if a label is any text.
  """

  def __init__(self, predictor: Predictor, batch_size: int, choices: Choices | None):
    self.predictor, self.choices = predictor, choices
    answer = predictor.method.answer
    self.decoder = predictor.decoder(answer)
    parts = self.decoder.fewest_rows(1)
    self.sizes = sorted({parts * math.ceil(n / parts) for n in _sizes(batch_size)})
    longest = self.decoder.max_input_length
    self.widths = sorted({min(longest, _rounded(longest / part)) for part in (4, 1)})
    self.rows = {row.task: row for row in (answer, *predictor.method.other_rows)}
    self.limits = {
      task: predictor.decoder(row).decoding.max_length for task, row in self.rows.items()
    }
    self._label_length = self.limits[answer.task]

  @property
  def rationale_row(self) -> Row | None:
    """The row that is asked for a rationale besides the answer's; None if there is none."""
    rows = self.rows.values()
    return next((row for row in rows if 'rationale' in row.fields and not row.has_label), None)

  @property
  def needs(self) -> list[str]:
    """Fields besides `input` without which a question has no answer."""
    return sorted(fields_of(self.predictor.method.answer.input) - {'input'})

  def work(
    self, fields: Mapping[str, str], rationale: bool, scores: bool, streams: bool = False
  ) -> Work:
    """A question as rows and candidates.

    Args:
      fields: `input` and the others that the method needs.
      rationale: whether it is wanted.
      scores: whether those of the candidates are.
      streams: whether pieces of the rationale are wanted as they come.

    Raises:
      ValueError: a field or the listed choices are missing.
    """
    answer = self.predictor.method.answer
    if missing := [name for name in self.needs if name not in fields]:
      raise ValueError(
        f'the student is asked with {answer.input!r}, and `fields` lacks the field {missing[0]!r}: '
        f'expected {{"input": "TEXT", "fields": {{"{missing[0]}": "TEXT"}}}}.'
      )
    rows = [answer]
    other = self.rationale_row
    if rationale and other is not None and fields_of(other.input) <= set(fields):
      rows.append(other)
    tokens = [self.predictor.encode(row, [fields]).inputs for row in rows]
    longest = self.decoder.max_input_length
    cut = [_cut(ids, longest) for ids in tokens]
    labels = self._labels(fields['input']) if scores or answer.each_choice else ()
    truncated = any(len(ids) > longest for ids in tokens)
    candidates = self._candidates(labels)
    return Work(tuple(rows), tuple(cut), labels, candidates, truncated, streams)

  def begin(self, jobs: Sequence[Job]) -> 'Batch':
    """Encodes the questions of a batch, and scores its candidates."""
    return Batch(self, jobs)

  def compile(self, is_stopped: Callable[[], bool] = lambda: False) -> None:
    """Compiles all shapes, and runs each once, unless it is stopped between two."""
    candidates: tuple[tuple[int, ...], ...] = ()
    labels: Sequence[str] = ()
    if self.choices is not None and self.predictor.method.answer.is_label_alone:
      labels = self.choices.labels or tuple(map(str, range(self.choices.count)))
      candidates = self._candidates(labels)
    for size in self.sizes:
      for width in self.widths:
        tokens = np.full(width, decoding.EOS_ID, np.int32)
        row = self.predictor.method.answer
        work = Work((row,), (tokens,), tuple(labels), candidates, False)
        for one in (work, dataclasses.replace(work, labels=(), candidates=())):
          if is_stopped():
            return
          batch = Batch(self, [Job(one, 1, lambda event: None) for _ in range(size)])
          batch.advance()
        batch.compile_smaller()

  @functools.cached_property
  def layers(self) -> Any:
    """The decoder's layers, prepared."""
    with self.on_mesh():
      return stepping.layers(self.decoder.config, self.predictor.params)

  @property
  def length(self) -> int:
    """Tokens that a cache holds."""
    return CHUNK * math.ceil(max(self.limits.values()) / CHUNK)

  def on_mesh(self) -> contextlib.AbstractContextManager:
    """The context in which programs run."""
    mesh = self.decoder.mesh
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)

  def put(self, arrays: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
    """Arrays of a batch, on the devices."""
    mesh = self.decoder.mesh
    return arrays if mesh is None else partitioning.put_batch(mesh, arrays)

  @functools.cached_property
  def candidate_width(self) -> int:
    """Tokens of a candidate, its EOS included: the longest label, or any label's limit."""
    if self.choices is not None and self.choices.labels:
      return max(len(self._encoded(label)) for label in self.choices.labels)
    return self._label_length

  def _labels(self, question: str) -> tuple[str, ...]:
    known = self.choices is not None and self.predictor.method.answer.is_label_alone
    return tuple(self.choices.of(question)) if known and self.choices is not None else ()

  def _candidates(self, labels: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    found = tuple(map(self._encoded, labels))
    for label, ids in zip(labels, found, strict=True):
      if len(ids) > self.candidate_width:
        raise ValueError(
          f'the choice {label[:40]!r} has {len(ids)} tokens; a label has {self.candidate_width} at '
          'most.'
        )
    return found

  def _encoded(self, label: str) -> tuple[int, ...]:
    vocabulary = self.predictor.vocabulary
    return (*vocabulary.encode(label), vocabulary.eos_id)


class Batch:
  """Questions that are being answered: `Running` of batcher.py."""

  def __init__(self, engine: Engine, jobs: Sequence[Job]):
    """Encodes and scores; args: the student, and jobs with a `Work` each."""
    self._engine = engine
    vocabulary = engine.predictor.vocabulary
    self._rows: stepping.Rows
    self._size: int
    self._places: list[tuple[_Question, Output]] = []  # of rows of the batch
    self._questions: list[_Question] = []
    tokens: list[np.ndarray] = []
    for job in jobs:
      outputs = [Output(row, engine.limits[row.task], vocabulary) for row in job.work.rows]
      question = _Question(job, outputs)
      self._questions.append(question)
      self._places += [(question, output) for output in outputs]
      tokens += job.work.tokens
    size = next(one for one in engine.sizes if one >= len(tokens))
    width = next(one for one in engine.widths if one >= max(map(len, tokens)))
    inputs = np.zeros((size, width), np.int32)
    for at, ids in enumerate(tokens):
      inputs[at, : len(ids)] = ids
    arrays = {'inputs': inputs, 'segments': (inputs > 0).astype(np.int32)}
    self._start(arrays, jobs)

  def advance(self) -> bool:
    """Decodes a few tokens of every row; see `Running`."""
    engine = self._engine
    with engine.on_mesh():
      self._shrink()
      stopped = np.ones(self._size, bool)
      stopped[: len(self._places)] = [not _goes_on(*place) for place in self._places]
      (stopped,) = engine.put({'stopped': stopped}).values()
      tokens, log_probs, self._rows = stepping.advance(
        engine.decoder.config, engine.predictor.params, engine.layers, self._rows, stopped, CHUNK
      )
    decoded = zip(np.asarray(tokens).tolist(), np.asarray(log_probs).tolist(), strict=True)
    for (_, output), (ids, of_ids) in zip(self._places, decoded, strict=False):
      output.add(ids, of_ids)
    for question in self._questions:
      question.tell()
    return any(question.job.is_wanted for question in self._questions)

  def compile_smaller(self) -> None:
    """Compiles leaving rows out, down to every smaller size."""
    engine = self._engine
    with engine.on_mesh():
      if not devices.shrinks_decoding():
        return
      for size in (one for one in engine.sizes if one < self._size):
        (index,) = engine.put({'index': np.zeros(size, np.int32)}).values()
        stepping.take(self._rows, index)

  def _shrink(self) -> None:
    """Leaves out rows that have ended, where a smaller batch holds the others."""
    if not devices.shrinks_decoding():
      return
    kept = [at for at, place in enumerate(self._places) if _goes_on(*place)]
    size = next(one for one in self._engine.sizes if one >= len(kept))
    if size < self._size:
      index = np.zeros(size, np.int32)
      index[: len(kept)] = kept
      (index,) = self._engine.put({'index': index}).values()
      self._rows = stepping.take(self._rows, index)
      self._places, self._size = [self._places[at] for at in kept], size

  def _start(self, arrays: Mapping[str, np.ndarray], jobs: Sequence[Job]) -> None:
    """Encodes the inputs, and scores the candidates of the questions that have some."""
    engine, self._size = self._engine, len(arrays['inputs'])
    config, params = engine.decoder.config, engine.predictor.params
    with engine.on_mesh():
      inputs, segments = engine.put(arrays).values()
      self._rows, encoded = stepping.begin(
        config, params, engine.layers, inputs, segments, engine.length
      )
      count = max(len(job.work.candidates) for job in jobs)
      if not count:
        return
      candidates = np.zeros((self._size, count, engine.candidate_width), np.int32)
      at = 0
      for job in jobs:
        for number, ids in enumerate(job.work.candidates):
          candidates[at, number, : len(ids)] = ids
        at += job.rows
      (candidates,) = engine.put({'candidates': candidates}).values()
      found = np.asarray(stepping.scores(config, params, encoded, segments, candidates))
    at = 0
    for question in self._questions:
      question.log_probs = found[at][: len(question.job.work.labels)]
      at += question.job.rows


class _Question:
  """A job of a batch: its outputs, and what was said of them."""

  def __init__(self, job: Job, outputs: list[Output]):
    self.job, self.outputs = job, outputs
    self.log_probs = np.zeros(0, np.float32)
    self._has_answer, self._sent = False, ''

  def tell(self) -> None:
    """Sends what is new: the answer, then the rationale as it grows, then the end."""
    if not self.job.is_wanted:
      return
    complete: dict[str, str] = {}
    growing: dict[str, str] = {}
    for output in self.outputs:
      if output.ended or self.job.work.streams:
        done, more = output.fields()
        complete, growing = done | complete, more | growing
    if not self._has_answer and 'label' in complete:
      self._has_answer = True
      self.job.emit(self._answer(complete['label']))
    rationale = complete.get('rationale', growing.get('rationale'))
    if self._has_answer and rationale and rationale.startswith(self._sent):
      if piece := rationale[len(self._sent) :]:
        self.job.emit(Piece(piece))
      self._sent = rationale
    if all(output.ended for output in self.outputs):
      given = sum(len(ids) for ids in self.job.work.tokens)
      written = sum(len(output.ids) + 1 for output in self.outputs)
      written -= sum(output.is_cut for output in self.outputs)
      reason = 'length' if self.outputs[0].is_cut else 'stop'
      self.job.end(End(complete.get('rationale'), given, written, reason))

  def _answer(self, written: str) -> Answer:
    work, log_prob, label = self.job.work, self.outputs[0].log_prob, written
    if work.rows[0].each_choice and work.labels:
      means = self.log_probs / [len(ids) for ids in work.candidates]
      best = int(np.argmax(means))
      label, log_prob = work.labels[best], float(self.log_probs[best])
    scores = None
    if work.labels:
      pairs = zip(work.labels, self.log_probs.tolist(), strict=True)
      scores = {name: math.exp(value) for name, value in pairs}
    return Answer(label, math.exp(min(log_prob, 0.0)), scores, work.truncated)


def _goes_on(question: _Question, output: Output) -> bool:
  return question.job.is_wanted and not output.ended


def _sizes(most: int) -> list[int]:
  """2, 8, 16, 32, ... below `most`, and `most`."""
  sizes, size = list[int](), SMALLEST
  while size < most:
    sizes.append(size)
    size *= 4 if size == SMALLEST else 2
  return [*sizes, most]


def _rounded(width: float) -> int:
  return NARROWEST * math.ceil(width / NARROWEST)


def _cut(ids: np.ndarray, longest: int) -> np.ndarray:
  """The start of an input that is too long, with its EOS."""
  return ids if len(ids) <= longest else np.append(ids[: longest - 1], ids[-1])
