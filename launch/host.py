"""What runs on every host of a remote job: `python -m dss_jax.launch.host FOLDER HOST WORK`.

Runs the job's command, copies its output to the bucket, reports, and writes the job's result. Calls
no cloud API: it gets the job's folder. Exit codes: 0 when the job is over, whatever its own exit
code; 75 when this host is terminated and the job continues elsewhere.

A command that ends with 0 has not always finished: `dss train` saves and ends with 0 on all hosts
when one is terminated. The job is done when all hosts have ended with 0 and none was terminated.
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
from dss_jax.settings import errors

OVER, GOING_DOWN = 0, 75
PAUSES_S = (1.0, 5.0, 15.0, 60.0)  # between attempts of a call to the bucket
UPLOAD_S = 10.0
REPORT_S = 30.0
GRACE_S = 60.0  # how long a command may take to end once the job is over
OTHERS_S = 600.0  # how long a host waits for the others to end
PART_BYTES = 256 * 2**10  # a part of the log is rewritten until it has this size


def main(argv: Sequence[str]) -> int:
  """Runs one host's part of a job; returns OVER or GOING_DOWN."""
  folder, host, work = argv
  return _patiently(lambda: Host(JobFolder(folder), int(host), pathlib.Path(work))).run()


class Host:
  """One host of a job.

  Args:
    folder: the job's.
    host: its number; host 0 writes the job's result.
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
    self.ended_at = self._reported_at = self._polled_at = 0.0

  def run(self) -> int:
    """Runs the command until the job is over or this host goes down."""
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._go_down)
    self.work.mkdir(parents=True, exist_ok=True)
    for attempt in range(self.job.restarts + 1):
      if _patiently(self.folder.result) is not None:
        return OVER
      last = attempt == self.job.restarts
      code = self._run_command()
      if self.going_down:
        self._report('stopped', code)
        return GOING_DOWN
      if self.stop_asked:
        self._report('stopped', code)
        self._wait(lambda reports: not _any(reports, 'running'))
        return self._over('stopped', code)
      self._report('done' if code == 0 else 'failed', code)
      if code == 0 and self._all_done():
        return self._over('done', 0)
      if self.going_down:
        return GOING_DOWN
      if last or code == errors.USERS:
        return self._over('failed', code or 1, f'host {self.host}')
      self.log.write(f'dss launch: ended with {code}; once more\n')
    raise AssertionError('the last attempt ends above')

  def _run_command(self) -> int:
    _patiently(lambda: self.folder.lay_out_files(self.work))
    environment = {
      **os.environ,
      'JAX_COMPILATION_CACHE_DIR': str(self.folder.compiled),
      **_patiently(self.folder.environment),
      'PYTHONUNBUFFERED': '1',
    }
    command = [sys.executable, '-m', 'dss_jax', *self.job.command]
    self._report('running', None)
    with self.log.local.open('ab') as output:
      self.process = subprocess.Popen(
        command, cwd=self.work, env=environment, stdout=output, stderr=subprocess.STDOUT
      )
      if self.going_down:  # SIGTERM came while the process was started
        self.process.terminate()
      while self.process.poll() is None:
        time.sleep(0.2)
        self._poll()
    code = self.process.returncode
    return 128 - code if code < 0 else code  # a signal's number, as shells report it

  def _poll(self) -> None:
    """Uploads the log, reports, and checks for a stop request; tolerates errors."""
    now = time.monotonic()
    if now - self._polled_at < UPLOAD_S:
      return
    self._polled_at = now
    with _tolerant():
      self.log.upload()
      if now - self._reported_at > REPORT_S:
        self._report(**self.state)
      assert self.process is not None
      if self.folder.result() is not None:  # another host ended the job; this command may hang
        self.ended_at = self.ended_at or now
        self.process.terminate() if now - self.ended_at < GRACE_S else self.process.kill()
      elif not self.stop_asked and self.folder.stop_asked():
        self.stop_asked = True
        self.log.write('dss launch: asked to stop; saving\n')
        self.process.terminate()

  def _report(self, state: str, exit_code: int | None) -> None:
    self.state = {'state': state, 'exit_code': exit_code}
    self._reported_at = time.monotonic()
    with _tolerant():
      if state != 'running':
        self.log.upload()
      self.folder.report(self.host, **self.state, time=time.strftime('%FT%TZ', time.gmtime()))

  def _all_done(self) -> bool:
    reports = self._wait(lambda reports: not _any(reports, 'running'))
    states = [reports.get(host, {}).get('state') for host in range(self.hosts)]
    return _patiently(self.folder.result) is not None or states == ['done'] * self.hosts

  def _wait(self, condition: Callable[[dict], bool]) -> dict[int, dict[str, Any]]:
    """Waits until all hosts have reported and `condition` holds, at most OTHERS_S."""
    end = time.monotonic() + OTHERS_S
    while True:
      reports = _patiently(self.folder.reports)
      ended = len(reports) == self.hosts and condition(reports)
      over = _patiently(self.folder.result) is not None
      if ended or over or self.going_down or time.monotonic() > end or self.hosts == 1:
        return reports
      time.sleep(1.0)

  def _over(self, state: str, exit_code: int, message: str = '') -> int:
    """Ends the job. Host 0 writes the result; any host does so for a final failure."""
    with _tolerant():
      self.log.upload()
    if self.host == 0 or state == 'failed':
      _patiently(lambda: self.folder.finish(state, exit_code, message))
    return OVER

  def _go_down(self, signal_number, frame) -> None:
    if self.going_down:
      return  # passed on, a second signal would end the command at once
    self.going_down = True
    if self.process and self.process.poll() is None:
      self.process.terminate()


class _Log:
  """A local file, copied to the bucket in parts, since objects there cannot be appended to."""

  def __init__(self, folder: JobFolder, local: pathlib.Path, name: str):
    self.folder, self.local, self.name = folder, local, name
    self.part = 0
    self.start = self.uploaded = 0  # bytes: start of the part, end of what is uploaded

  def write(self, text: str) -> None:
    """Adds a line of our own."""
    with self.local.open('ab') as file:
      file.write(text.encode())

  def upload(self) -> None:
    """Uploads what is new."""
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


def _patiently(call: Callable[[], Any]) -> Any:
  """The result of a call to the bucket, attempted again where its error may pass."""
  for pause in PAUSES_S:
    try:
      return call()
    except Exception as error:
      if not errors.is_users(error) or errors.exit_code(error) != errors.MAY_PASS:
        raise
      print(f'dss launch: {error}; again in {pause:.0f} s', file=sys.stderr, flush=True)
      time.sleep(pause)
  return call()


@contextlib.contextmanager
def _tolerant():
  """Prints an error and goes on: a failed call to a bucket must not end a job."""
  try:
    yield
  except Exception as error:
    print(f'dss launch: {type(error).__name__}: {error}', file=sys.stderr, flush=True)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
