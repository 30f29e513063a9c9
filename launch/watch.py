"""Follows a Cloud TPU job: requests the resource, makes it again when it is lost, deletes it.

Owns the rule that nothing billed is left behind: from the request to the end, any failure here (an
error, Ctrl-C, a closed terminal) deletes the resource. The hosts delete it too when the job is
over, so that a job whose watcher is gone does not keep costing money. What others wrote, as a
host's log, is shown with its control characters visible.
"""

import contextlib
import dataclasses
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from dss_jax.launch.folder import JobFolder
from dss_jax.launch.job import Job
from dss_jax.launch.tpu_vm import NOT_FOUND, AlreadyExists, CloudTpu, Seen
from dss_jax.settings.printable import printable

PERIOD_S = 20.0  # between two checks
SILENCE_S = 1800.0  # without a report from hosts whose resource is ready
FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 900.0  # before a resource that never ran is requested again
FAULTS = 30  # checks in a row that may fail


class Lost(OSError):
  """The resource was lost or refused more often than the job allows."""


def say(text: str) -> None:
  """Prints a line for the user, with the time."""
  print(f'{time.strftime("%H:%M:%S")} {printable(text)}', file=sys.stderr, flush=True)


@dataclasses.dataclass
class Watch:
  """One job and its resource.

  Attributes:
    job: the job.
    folder: its folder, submitted.
    cloud: the calls.
    sleep: waits for a number of seconds; shorter in tests.
  """

  job: Job
  folder: JobFolder
  cloud: CloudTpu
  sleep: Callable[[float], Any] = time.sleep

  def __post_init__(self):
    self._last_seen: Seen | None = None
    self._log_seen: dict[str, int] = {}
    self._reports: dict[int, Any] = {}
    self._heard_at = time.monotonic()
    self._losses = self._failed_starts = 0

  def check_free(self) -> None:
    """Refuses a name that is taken.

    Raises:
      AlreadyExists: a resource of this name exists, or one of the job that the folder is of, which
        may be in another zone.
    """
    _refuse_existing(self.job, self.cloud)
    try:
      before = self.folder.job()
    except ValueError:  # there is none yet
      return
    if before.zone and (before.project, before.zone) != (self.job.project, self.job.zone):
      _refuse_existing(before, type(self.cloud)(before.project, before.zone))

  def submit(self, detach: bool = False, write: Callable[[], Any] = lambda: None) -> int:
    """Requests the resource and, unless `detach`, follows the job to its end.

    Args:
      detach: returns once the resource is requested.
      write: fills the folder before.

    Returns:
      The job's exit code; 0 if it was not waited for.

    Raises:
      ValueError: a resource of this name exists; it is left alone.
      Lost: all retries were used; the resource is deleted.
      OSError: the API refuses; the resource is deleted, or a printed line says that it may exist.
    """
    name, requested = self.job.name, False
    with interruptions():
      try:
        write()
        requested = True
        self.cloud.create(self.job)
        say(f'requested {self.job.machine.accelerator_type} as {name} in {self.job.zone}')
        if detach:
          say(f'{name} is left running; {_advice(self.job)}')
          return 0
        return self._until_over()
      except AlreadyExists as error:  # made since `check_free`, by someone else
        self._forget_environment()
        raise AlreadyExists(_exists(self.job)) from error
      except BaseException as error:
        if requested:
          self._give_up(error)
        else:
          self._forget_environment()
          say(f'nothing was requested; the next submission replaces what is in {self.folder.path}')
        raise

  def attach(self) -> int:
    """Follows a submitted job to its end; Ctrl-C leaves it running."""
    with interruptions():
      try:
        return self._until_over()
      except KeyboardInterrupt:
        say(f'no longer watched; {self.job.name} continues and is billed; {_advice(self.job)}')
        raise
      except AlreadyExists as error:  # of another watcher, or of someone else: it is left alone
        raise AlreadyExists(_exists(self.job)) from error
      except BaseException as error:
        self._give_up(error)
        raise

  def _until_over(self) -> int:
    faults = 0
    while True:
      try:
        result = self._check()
        faults = 0
      except (Lost, AlreadyExists):
        raise
      except Exception as error:  # mostly of the network, which must not end a job
        faults += 1
        if faults > FAULTS:
          raise
        say(f'cannot check the job ({error}); trying again')
        result = None
      if result is not None:
        self._forget_environment()
        self.cloud.delete(self.job.name)
        say(f'{result["state"]}, exit code {result["exit_code"]} {result["message"]}'.rstrip())
        return result['exit_code']
      self.sleep(PERIOD_S)

  def _check(self) -> dict[str, Any] | None:
    """Checks the job once; returns its result if it is over."""
    result = self.folder.result()
    seen = Seen('') if result else self.cloud.look(self.job.name)
    for text in self.folder.logs(self._log_seen):
      sys.stdout.write(printable(text))
    sys.stdout.flush()
    if result:
      return result
    if seen != self._last_seen:
      say(str(seen))
      self._last_seen = seen
    reports = self.folder.reports()
    if not seen.ready or reports != self._reports:
      self._reports, self._heard_at = reports, time.monotonic()
    if seen.ready:
      self._failed_starts = 0
    silent = time.monotonic() - self._heard_at > SILENCE_S
    if seen.lost or silent:
      result = self.folder.result()  # a host may have ended the job and deleted the resource
      if result is None:
        self._replace('no host has reported for too long' if silent else str(seen))
    return result

  def _replace(self, why: str) -> None:
    self._losses += 1
    if self._losses > self.job.retries:
      raise Lost(f'{self.job.name} was lost {self._losses} times (--retries), the last: {why}.')
    self.cloud.delete(self.job.name)
    if self._failed_starts:
      pause = min(FIRST_PAUSE_S * 2 ** (self._failed_starts - 1), LONGEST_PAUSE_S)
      say(f'it never ran; requesting it again in {pause:.0f} s')
      self.sleep(pause)
    self._failed_starts += 1
    self.cloud.create(self.job)
    self._last_seen, self._heard_at = None, time.monotonic()
    say(f'lost ({why}); requested another, {self._losses} of {self.job.retries}')

  def _give_up(self, error: BaseException) -> None:
    """Deletes the resource because of an error; reports if even that fails."""
    name = self.job.name
    say(f'deleting {name} because of: {error or type(error).__name__}')
    self._forget_environment()
    try:
      self.cloud.delete(name)
    except BaseException as second:
      where = [f'--project={self.job.project}', f'--zone={self.job.zone}', '--force']
      line = shlex.join(['gcloud', 'compute', 'tpus', 'queued-resources', 'delete', name, *where])
      say(f'COULD NOT DELETE {name}, which may still be billed: {second}. Run: {line}')
      return
    say(f'{name} is deleted; what the job saved is in {self.folder.path} and its MODEL_DIR')

  def _forget_environment(self) -> None:
    """Removes the values of variables from the folder; reports if that fails."""
    try:
      self.folder.forget_environment()
    except Exception as error:  # the resource matters more
      say(f'COULD NOT REMOVE {self.folder.path}/env.json, the values of variables: {error}')


@contextlib.contextmanager
def interruptions() -> Iterator[None]:
  """Treats SIGTERM and a closed terminal like Ctrl-C."""

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


def _refuse_existing(job: Job, cloud: CloudTpu) -> None:
  if cloud.look(job.name).queued != NOT_FOUND:
    raise AlreadyExists(_exists(job))


def _exists(job: Job) -> str:
  return (
    f'{job.zone} has a queued resource {job.name} already: {_advice(job)}, another --name=... '
    'makes a second one.'
  )


def _advice(job: Job) -> str:
  return f'`dss launch watch {job.folder}` follows it, `dss launch delete {job.folder}` deletes it'
