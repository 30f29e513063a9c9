"""Many requests, few batches: a queue, and the one thread that decodes what waits in it.

Owns who is in a batch, when a batch starts, and that every accepted job gets exactly one end: an
event of the model's, or `Failed`. Does not own what a job is (engine.py) or who asks (service.py):
it knows neither JAX nor HTTP.

Nothing waits for a batch to fill up: while one is decoded, the next requests gather, and two
batches take turns. A job that is cancelled in the queue leaves it before it is batched; one that is
being decoded is no longer counted, and its batch ends without it.
"""

import collections
import dataclasses
import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

RUNNING = 2
"""Batches that take turns: a short one need not wait for the end of a long one."""


class QueueFullError(Exception):
  """As many jobs wait as may."""


class DrainingError(Exception):
  """No more jobs are accepted."""


class Failed(NamedTuple):
  """The end of a job whose batch failed."""

  reason: str


@dataclasses.dataclass(eq=False)
class Job:
  """One request.

  Attributes:
    work: what the model decodes.
    rows: how many rows of a batch it takes.
    send: gets each event, in the batcher's thread; must not block.
    cancelled: nobody waits for it any more.
    ended: its last event was sent.
  """

  work: Any
  rows: int
  send: Callable[[Any], None]
  cancelled: bool = False
  ended: bool = False

  @property
  def is_wanted(self) -> bool:
    """Whether somebody waits for more of it."""
    return not (self.cancelled or self.ended)

  def emit(self, event: Any) -> None:
    """Sends an event, unless nobody waits for it."""
    if self.is_wanted:
      self.send(event)

  def end(self, event: Any) -> None:
    """Sends the last event; it has ended before anybody can answer that."""
    was_wanted, self.ended = self.is_wanted, True
    if was_wanted:
      self.send(event)


class Running(Protocol):
  """A batch that is being decoded."""

  def advance(self) -> bool:
    """Decodes a little, and sends what is new; returns whether there is more."""


class Batcher:
  """The queue and its thread; use with `with`.

  Args:
    begin: starts a batch of jobs.
    rows: most rows of a batch.
    queue: most jobs that wait.
    on_batch: called with the number of rows of each batch.
  """

  def __init__(
    self,
    begin: Callable[[Sequence[Job]], Running],
    rows: int,
    queue: int,
    on_batch: Callable[[int], None] = lambda rows: None,
  ):
    self._begin, self._rows, self._most, self._on_batch = begin, rows, queue, on_batch
    self._waiting: collections.deque[Job] = collections.deque()
    self._changed = threading.Condition()
    self._active: list[tuple[Running, list[Job]]] = []
    self._draining = self._stopped = False
    self._thread = threading.Thread(target=self._run, name='dss-batcher', daemon=True)

  def __enter__(self) -> 'Batcher':
    self._thread.start()
    return self

  def __exit__(self, *error: object) -> None:
    with self._changed:
      self._draining = self._stopped = True
      self._changed.notify_all()
    self._thread.join()

  @property
  def waiting(self) -> int:
    """How many jobs wait for a batch."""
    return len(self._waiting)

  def submit(self, job: Job) -> None:
    """Accepts a job.

    Raises:
      QueueFullError: too many wait.
      DrainingError: `drain` was called.
      ValueError: it has more rows than a batch.
    """
    if job.rows > self._rows:
      raise ValueError(f'a request of {job.rows} rows does not fit a batch of {self._rows}.')
    with self._changed:
      if self._draining:
        raise DrainingError
      if len(self._waiting) >= self._most:
        raise QueueFullError
      self._waiting.append(job)
      self._changed.notify_all()

  def cancel(self, job: Job) -> bool:
    """Forgets a job; returns whether it had not ended yet."""
    with self._changed:
      was_wanted = job.is_wanted
      job.cancelled = True
      if job in self._waiting:
        self._waiting.remove(job)
      return was_wanted

  def drain(self) -> None:
    """Accepts no more jobs; those that were accepted are finished."""
    with self._changed:
      self._draining = True

  def _take(self) -> list[Job]:
    """The jobs of the next batch: from the front of the queue, as many as fit."""
    taken: list[Job] = []
    rows = 0
    while self._waiting and rows + self._waiting[0].rows <= self._rows:
      taken.append(self._waiting.popleft())
      rows += taken[-1].rows
    return taken

  def _run(self) -> None:
    while True:
      with self._changed:
        while not (self._waiting or self._active or self._stopped):
          self._changed.wait()
        if self._stopped:
          break
        jobs = self._take() if len(self._active) < RUNNING else []
      if jobs:
        self._start(jobs)
      self._active = [one for one in self._active if self._advance(*one)]
    for job in [*self._waiting, *(job for _, jobs in self._active for job in jobs)]:
      job.end(Failed('the server stopped'))

  def _start(self, jobs: list[Job]) -> None:
    self._on_batch(sum(job.rows for job in jobs))
    try:
      self._active.append((self._begin(jobs), jobs))
    except Exception as error:
      _fail(jobs, error)

  def _advance(self, running: Running, jobs: list[Job]) -> bool:
    try:
      if running.advance():
        return True
    except Exception as error:
      _fail(jobs, error)
    for job in jobs:
      if job.is_wanted:
        job.end(Failed('the batch ended without an answer'))
    return False


def _fail(jobs: Sequence[Job], error: Exception) -> None:
  """Ends jobs whose batch failed; the log has the kind and place of the error, and no request."""
  place = ''.join(traceback.format_tb(error.__traceback__))
  logging.getLogger(__name__).error('a batch failed: %s\n%s', type(error).__name__, place)
  for job in jobs:
    job.end(Failed('the student could not be asked'))
