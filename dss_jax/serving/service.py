"""Answers to questions, from the student or from the teacher behind it.

Owns the way of one question through the batcher: its events in the event loop, what is done when
nobody waits for it any more, and the hand-over to the teacher. Does not own HTTP (app.py).
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from dss_jax.serving.batcher import Batcher, Failed, Job
from dss_jax.serving.deferral import Deferral, Taught
from dss_jax.serving.engine import Answer, End, Engine, Piece, Work
from dss_jax.serving.meters import Meters


class FailedError(Exception):
  """A question could not be answered; the message says why."""


class Labelled(NamedTuple):
  """The label that is given: the student's, or the teacher's in its place.

  Attributes:
    label: who answers' label.
    student: what the student says.
    taught: the teacher's answer; None: the student's stands.
  """

  label: str
  student: Answer
  taught: Taught | None = None


Event = Labelled | Piece | End


@dataclasses.dataclass(frozen=True, eq=False)
class Service:
  """A student that answers.

  Attributes:
    engine: the student.
    batcher: its queue.
    meters: what is counted.
    deferral: the teacher behind it, if there is one.
  """

  engine: Engine
  batcher: Batcher
  meters: Meters
  deferral: Deferral | None = None

  async def events(
    self, work: Work, text: str, chat: Mapping[str, Any] | None = None
  ) -> AsyncIterator[Event]:
    """The events of a question: the label, pieces of the rationale, the end.

    Closing the iterator takes the question out of the queue.

    Args:
      work: from `engine.work`.
      text: the input.
      chat: see `Deferral.ask`.

    Raises:
      QueueFullError, DrainingError: it is not accepted.
      FailedError: its batch failed.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any]()

    def send(event: Any) -> None:
      with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(queue.put_nowait, event)

    job = Job(work, len(work.rows), send)
    self.batcher.submit(job)
    try:
      while True:
        event = await queue.get()
        if isinstance(event, Failed):
          raise FailedError(event.reason)
        if isinstance(event, Answer):
          labelled = await self._labelled(event, text, chat)
          if labelled.taught is not None:
            self.batcher.cancel(job)  # the student's rationale, which nobody reads
          yield labelled
          if labelled.taught is not None:
            for rest in _taught(labelled.taught, work):
              yield rest
            return
          continue
        if isinstance(event, End):
          self.meters.tokens.labels('input').inc(event.input_tokens or 0)
          self.meters.tokens.labels('output').inc(event.output_tokens or 0)
        yield event
        if isinstance(event, End):
          return
    finally:
      if self.batcher.cancel(job):
        self.meters.cancelled.inc()

  async def _labelled(self, answer: Answer, text: str, chat: Mapping[str, Any] | None) -> Labelled:
    taught = None
    if self.deferral is not None and answer.confidence < self.deferral.below:
      taught = await self.deferral.ask(text, chat)
      if taught is None:
        self.meters.teacher_failures.inc()
    self.meters.answered.labels('student' if taught is None else 'teacher').inc()
    return Labelled(answer.label if taught is None else taught.label, answer, taught)


def _taught(taught: Taught, work: Work) -> list[Event]:
  """The rationale of the teacher, if one was wanted, and the end."""
  wanted = len(work.rows) > 1 or 'rationale' in work.rows[0].fields
  given, written = (taught.tokens.input, taught.tokens.output) if taught.tokens else (None, None)
  reason = taught.finish_reason or 'stop'
  if not wanted:
    return [End(None, given, written, reason)]
  return [Piece(taught.rationale), End(taught.rationale, given, written, reason)]
