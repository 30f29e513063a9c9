"""What runs on every host of a remote job: `python -m dss_jax.launch.host FOLDER HOST WORK`.

Runs the job's command, copies its output to the bucket, reports, and tells when the job is over.
Owns no cloud: it is handed the job's folder. Exit codes: 0 when the job is over, whatever its own
exit code; 75 when this host is told to go down and the job goes on elsewhere.

A command that ends with 0 has not always finished: `dss train` saves and ends with 0 on all hosts
when one is told to go down. The job is done when all hosts have ended with 0 and none was told to.
"""

import contextlib
import datetime
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from dss_jax.launch.folder import JobFolder

OVER, GOING_DOWN = 0, 75
USERS_ERROR = 2  # an exit code that another try would only repeat
UPLOAD_S = 10.0
REPORT_S = 30.0
GRACE_S = 60.0  # for a command to end in, when the job is over without it
OTHERS_S = 600.0  # how long a host waits for the others' ends
PART_BYTES = 256 * 2**10  # a part of the log is written again until it has so many


def main(argv: Sequence[str]) -> int:
  """Runs one host's part of a job; returns OVER or GOING_DOWN."""
  folder, host, work = argv
  return Host(JobFolder(folder), int(host), pathlib.Path(work)).run()


class Host:
  """One host of a job.

  Args:
    folder: the job's.
    host: its number; 0 says when the job is over.
    work: a folder on this machine, the working directory of the command.
  """

  def __init__(self, folder: JobFolder, host: int, work: pathlib.Path):
    self.folder, self.host, self.work = folder, host, work
    self.job = folder.job()
    self.hosts = self.job.machine.hosts
    self.process: subprocess.Popen | None = None
    self.going_down = self.stop_asked = False
    started = datetime.datetime.now(datetime.UTC).strftime('%Y%m%dT%H%M%S')
    self.log = _Log(folder, work.parent / f'{started}.log', f'{started}-host-{host}')
    self.state: dict[str, Any] = {}
    self.ended_at = self._reported = self._looked = 0.0

  def run(self) -> int:
    """Runs the command until the job is over or this host goes down."""
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._go_down)
    self.work.mkdir(parents=True, exist_ok=True)
    for life in range(self.job.restarts + 1):
      if self.folder.result() is not None:
        return OVER
      last = life == self.job.restarts
      code = self._run_command()
      if self.going_down:
        self._tell('stopped', code)
        return GOING_DOWN
      if self.stop_asked:
        self._tell('stopped', code)
        self._wait(lambda reports: not _any(reports, 'running'))
        return self._over('stopped', code)
      self._tell('done' if code == 0 else 'failed', code)
      if code == 0 and self._all_done():
        return self._over('done', 0)
      if self.going_down:
        return GOING_DOWN
      if last or code == USERS_ERROR:
        return self._over('failed', code or 1, f'host {self.host}')
      self.log.write(f'dss launch: ended with {code}; once more\n')
    raise AssertionError('the last life ends above')

  def _run_command(self) -> int:
    self.folder.lay_out_files(self.work)
    environment = {
      **os.environ,
      'JAX_COMPILATION_CACHE_DIR': str(self.folder.compiled),
      **self.folder.environment(),
      'PYTHONUNBUFFERED': '1',
    }
    command = [sys.executable, '-m', 'dss_jax', *self.job.command]
    self._tell('running', None)
    with self.log.local.open('ab') as output:
      self.process = subprocess.Popen(
        command, cwd=self.work, env=environment, stdout=output, stderr=subprocess.STDOUT
      )
      if self.going_down:  # told while the process was made
        self.process.terminate()
      while self.process.poll() is None:
        time.sleep(0.2)
        self._now_and_then()
    code = self.process.returncode
    return 128 - code if code < 0 else code  # a signal's number, as shells have it

  def _now_and_then(self) -> None:
    """Uploads the log, reports, and sees whether someone asks to stop; faults are passing."""
    now = time.monotonic()
    if now - self._looked < UPLOAD_S:
      return
    self._looked = now
    with _tolerant():
      self.log.upload()
      if now - self._reported > REPORT_S:
        self._tell(**self.state)
      assert self.process is not None
      if self.folder.result() is not None:  # of another host: this one may wait for it in vain
        self.ended_at = self.ended_at or now
        self.process.terminate() if now - self.ended_at < GRACE_S else self.process.kill()
      elif not self.stop_asked and self.folder.stop_asked():
        self.stop_asked = True
        self.log.write('dss launch: asked to stop; saving\n')
        self.process.terminate()

  def _tell(self, state: str, exit_code: int | None) -> None:
    self.state = {'state': state, 'exit_code': exit_code}
    self._reported = time.monotonic()
    with _tolerant():
      if state != 'running':
        self.log.upload()
      self.folder.report(self.host, **self.state, time=time.strftime('%FT%TZ', time.gmtime()))

  def _all_done(self) -> bool:
    reports = self._wait(lambda reports: not _any(reports, 'running'))
    states = [reports.get(host, {}).get('state') for host in range(self.hosts)]
    return self.folder.result() is not None or states == ['done'] * self.hosts

  def _wait(self, condition: Callable[[dict], bool]) -> dict[int, dict[str, Any]]:
    """Waits until all hosts have reported and `condition` holds, or not for ever."""
    end = time.monotonic() + OTHERS_S
    while True:
      reports = self.folder.reports()
      ended = len(reports) == self.hosts and condition(reports)
      over = self.folder.result() is not None
      if ended or over or self.going_down or time.monotonic() > end or self.hosts == 1:
        return reports
      time.sleep(1.0)

  def _over(self, state: str, exit_code: int, message: str = '') -> int:
    """The job is over. Host 0 says so; any host says so of a failure that is for good."""
    with _tolerant():
      self.log.upload()
    if self.host == 0 or state == 'failed':
      self.folder.finish(state, exit_code, message)
    return OVER

  def _go_down(self, number, frame) -> None:
    if self.going_down:
      return  # a second signal would end the command at once
    self.going_down = True
    if self.process and self.process.poll() is None:
      self.process.terminate()


class _Log:
  """A file on this machine, copied to the bucket in parts: objects there cannot be added to."""

  def __init__(self, folder: JobFolder, local: pathlib.Path, name: str):
    self.folder, self.local, self.name = folder, local, name
    self.part = 0
    self.start = self.uploaded = 0  # bytes: where the part starts, and how far the bucket has it

  def write(self, text: str) -> None:
    """Adds a line of our own."""
    with self.local.open('ab') as file:
      file.write(text.encode())

  def upload(self) -> None:
    """Copies what is new."""
    size = self.local.stat().st_size if self.local.exists() else 0
    while self.uploaded < size:
      with self.local.open('rb') as file:
        file.seek(self.start)
        content = file.read(PART_BYTES)
      self.folder.write_log(f'{self.name}-{self.part:05d}', content)
      self.uploaded = self.start + len(content)
      if len(content) == PART_BYTES:
        self.part, self.start = self.part + 1, self.uploaded


def _any(reports: dict[int, dict[str, Any]], state: str) -> bool:
  return any(report.get('state') == state for report in reports.values())


@contextlib.contextmanager
def _tolerant():
  """A bucket that does not answer once is no reason to end a job."""
  try:
    yield
  except Exception as error:
    print(f'dss launch: {type(error).__name__}: {error}', file=sys.stderr, flush=True)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
