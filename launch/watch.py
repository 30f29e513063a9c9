"""Sees a Cloud TPU job through: asks for the resource, makes it anew when it is lost, deletes it.

Owns the rule that nothing billed is left behind: from the call that asks for a resource to the end,
whatever happens here (an error, Ctrl-C, a terminal that is closed) deletes it. The hosts delete it
too when the job is over, so that a job whose watcher has vanished does not go on costing.
"""

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from dss_jax.launch.folder import JobFolder
from dss_jax.launch.job import Job
from dss_jax.launch.tpu_vm import NOT_FOUND, AlreadyExists, CloudTpu, Seen

PERIOD_S = 20.0  # between two looks
SILENCE_S = 1800.0  # without a word from a host that is said to be ready
FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 900.0  # before a resource that never ran is asked for again
FAULTS = 30  # looks in a row that may fail


class Lost(OSError):
  """The resource was lost or refused more often than the job allows."""


def say(text: str) -> None:
  """Tells people what happens, with the time."""
  print(f'{time.strftime("%H:%M:%S")} {text}', file=sys.stderr, flush=True)


@dataclasses.dataclass
class Watch:
  """One job and its resource.

  Attributes:
    job: the job.
    folder: its folder, submitted.
    cloud: the calls.
    sleep: waits for so many seconds; a test's may be shorter.
  """

  job: Job
  folder: JobFolder
  cloud: CloudTpu
  sleep: Callable[[float], Any] = time.sleep

  def __post_init__(self):
    self._said: Seen | None = None
    self._log_seen: dict[str, int] = {}
    self._reports: dict[int, Any] = {}
    self._heard = time.monotonic()
    self._losses = self._fruitless = 0

  def check_free(self) -> None:
    """Refuses a name that is taken.

    Raises:
      AlreadyExists: a resource of this name exists.
    """
    if self.cloud.look(self.job.name).queued != NOT_FOUND:
      raise AlreadyExists(_exists(self.job))

  def submit(self, detach: bool = False) -> int:
    """Asks for the resource and, unless `detach`, follows the job to its end.

    Returns:
      The job's exit code; 0 where it was not waited for.

    Raises:
      ValueError: a resource of this name exists; it is left alone.
      Lost: all tries were used; nothing is left.
      OSError: the API refuses; nothing is left, or the message says what may be.
    """
    name = self.job.name
    with _interruptions():
      try:
        self.cloud.create(self.job)
        say(f'asked for {self.job.machine.accelerator_type} as {name} in {self.job.zone}')
        if detach:
          return 0
        return self._until_over()
      except AlreadyExists as error:  # made since `check_free`, by someone else
        raise AlreadyExists(_exists(self.job)) from error
      except BaseException as error:
        self._give_up(error)
        raise

  def attach(self) -> int:
    """Follows a submitted job to its end; Ctrl-C leaves it as it is."""
    with _interruptions():
      try:
        return self._until_over()
      except KeyboardInterrupt:
        say(f'not watched any more; {self.job.name} goes on')
        raise
      except BaseException as error:
        self._give_up(error)
        raise

  def _until_over(self) -> int:
    faults = 0
    while True:
      try:
        result = self._look()
        faults = 0
      except (Lost, AlreadyExists):
        raise
      except Exception as error:  # of the network, mostly: a job is not ended for that
        faults += 1
        if faults > FAULTS:
          raise
        say(f'cannot look ({error}); trying again')
        result = None
      if result is not None:
        self.cloud.delete(self.job.name)
        self.folder.forget_environment()
        say(f'{result["state"]}, exit code {result["exit_code"]} {result["message"]}'.rstrip())
        return result['exit_code']
      self.sleep(PERIOD_S)

  def _look(self) -> dict[str, Any] | None:
    """One look; returns the job's result where it is over."""
    result = self.folder.result()
    seen = Seen('') if result else self.cloud.look(self.job.name)
    for text in self.folder.logs(self._log_seen):
      sys.stdout.write(text)
    sys.stdout.flush()
    if result:
      return result
    if seen != self._said:
      say(str(seen))
      self._said = seen
    reports = self.folder.reports()
    if not seen.ready or reports != self._reports:
      self._reports, self._heard = reports, time.monotonic()
    if seen.ready:
      self._fruitless = 0
    silent = time.monotonic() - self._heard > SILENCE_S
    if seen.lost or silent:
      result = self.folder.result()  # a host may have ended the job and deleted all since
      if result is None:
        self._make_anew('no host reports any more' if silent else str(seen))
    return result

  def _make_anew(self, why: str) -> None:
    self._losses += 1
    if self._losses > self.job.retries:
      raise Lost(f'{self.job.name} was lost {self._losses} times (--retries), the last: {why}.')
    self.cloud.delete(self.job.name)
    if self._fruitless:
      pause = min(FIRST_PAUSE_S * 2 ** (self._fruitless - 1), LONGEST_PAUSE_S)
      say(f'never ran; asking again in {pause:.0f} s')
      self.sleep(pause)
    self._fruitless += 1
    self.cloud.create(self.job)
    self._said, self._heard = None, time.monotonic()
    say(f'lost ({why}); asked for another, {self._losses} of {self.job.retries}')

  def _give_up(self, error: BaseException) -> None:
    """Deletes the resource because of an error; says so where even that fails."""
    name = self.job.name
    say(f'deleting {name} because of: {error or type(error).__name__}')
    try:
      self.cloud.delete(name)
    except BaseException as second:
      say(
        f'COULD NOT DELETE {name}, which may still be billed: {second}. Run: gcloud compute tpus '
        f'queued-resources delete {name} --project={self.job.project} --zone={self.job.zone} '
        '--force'
      )
      return
    with contextlib.suppress(Exception):  # the error at hand matters more
      self.folder.forget_environment()
    say(f'{name} is deleted; what the job saved is in {self.folder.path} and its MODEL_DIR')


@contextlib.contextmanager
def _interruptions() -> Iterator[None]:
  """Makes the end of a terminal or of this process what Ctrl-C is."""

  def interrupt(number, frame):
    raise KeyboardInterrupt(signal.Signals(number).name)

  before = {}
  with contextlib.suppress(ValueError):  # not the main thread
    for number in (signal.SIGTERM, signal.SIGHUP):
      before[number] = signal.signal(number, interrupt)
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _exists(job: Job) -> str:
  return (
    f'{job.zone} has a queued resource {job.name} already: `dss launch watch {job.folder}` follows '
    f'it, `dss launch delete {job.folder}` deletes it, another --name= makes a second one.'
  )
