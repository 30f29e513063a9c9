"""Processes of `dss` without the seconds of its imports: forks of one that has made them.

Owns that one, a process for each process of pytest that asks for it, and how it is asked. What a
fork runs, and with which variables, is train_processes.py's. Start-up with its imports is tested by
processes of the ordinary kind (test_start_up.py, test_cli.py, test_launch_startup.py).
"""

import atexit
import contextlib
import functools
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

KEPT = ('HOME', 'LANG', 'LD_LIBRARY_PATH', 'PATH', 'PYTHONPATH', 'PYTHONSAFEPATH', 'TMPDIR')


class Fork:
  """As far as tests use it, a `subprocess.Popen` of `dss`.

  Args:
    verbs: the arguments of `dss`; several are run in turn, down to the first that fails.
    log: gets what it prints.
    environment: all its variables. Those of JAX count, although it is imported before.
  """

  def __init__(self, verbs: Sequence[Sequence[str]], log: pathlib.Path, environment: dict):
    self.log = log
    asked = {'verbs': verbs, 'log': str(log), 'environment': environment, 'folder': os.getcwd()}
    self._connection = socket.socket(socket.AF_UNIX)
    self._connection.connect(_server())
    self._connection.sendall(json.dumps(asked).encode() + b'\n')
    # Without a buffer: what is read beyond a line would not be waited for.
    self._lines = self._connection.makefile('rb', buffering=0)
    self.returncode: int | None = None
    self.pid = self._number('its process id')

  def poll(self) -> int | None:
    """Its exit code, negative for a signal; None while it runs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self.wait(timeout=0)
    return self.returncode

  def wait(self, timeout: float | None = None) -> int:
    """Its exit code, when it has one."""
    if self.returncode is None:
      if not select.select([self._connection], [], [], timeout)[0]:
        raise subprocess.TimeoutExpired('dss', timeout or 0.0)
      self.returncode = os.waitstatus_to_exitcode(self._number('its exit code'))
      self._lines.close()
      self._connection.close()
    return self.returncode

  def _number(self, what: str) -> int:
    line = self._lines.readline()
    if not line:
      raise ChildProcessError(
        f'a fork that runs dss ended before it said {what}: its log is {self.log}'
      )
    return int(line)

  def send_signal(self, number: int) -> None:
    """Sends it a signal, unless it has ended."""
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self) -> None:
    """Ends it."""
    self.send_signal(signal.SIGKILL)


@functools.cache
def _server() -> str:
  """The address of the process that is forked, which ends with this one."""
  folder = tempfile.TemporaryDirectory(prefix='forks-')
  address = f'{folder.name}/socket'
  process = subprocess.Popen(
    [sys.executable, __file__, address], stdin=subprocess.PIPE, env=_environment()
  )

  def end():
    process.stdin.close()
    process.wait()
    folder.cleanup()

  atexit.register(end)
  while not os.path.exists(address):
    assert process.poll() is None, 'the process that is forked has ended'
    time.sleep(0.02)
  return address


def _environment() -> dict[str, str]:
  """What that process imports with: nothing that the first test that asks has set for itself."""
  return {name: os.environ[name] for name in KEPT if name in os.environ} | {'JAX_PLATFORMS': 'cpu'}


# ---------------------------------------------------------------- in the process that is forked


def _serve(address: str) -> dict | None:
  """Forks for each that asks, until standard input ends; returns what a fork is asked."""
  with socket.socket(socket.AF_UNIX) as listening:
    listening.bind(f'{address}.new')
    listening.listen()
    os.rename(f'{address}.new', address)
    if os.fork() == 0:  # whom nobody waits for; this one, of which all are forks, has one thread
      sys.stdin.read()
      os.kill(os.getppid(), signal.SIGTERM)
      os._exit(0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
      connection, _ = listening.accept()
      with connection:
        assert len(os.listdir('/proc/self/task')) == 1, 'a lock of another thread would stay locked'
        if os.fork() == 0:
          listening.close()
          return _forked(connection)


def _forked(connection: socket.socket) -> dict | None:
  """In a fork, forks again, for the exit code of that; returns what it is asked."""
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  with connection.makefile('rb') as file:
    asked = json.loads(file.readline())
  if pid := os.fork():
    connection.sendall(f'{pid}\n'.encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # the test may have ended
      connection.sendall(f'{status}\n'.encode())
    os._exit(0)
  connection.close()
  return asked


def _run(asked: dict) -> int:
  """Runs `dss` as the process that is asked for would."""
  output = os.open(asked['log'], os.O_WRONLY | os.O_APPEND)
  nothing = os.open(os.devnull, os.O_RDONLY)
  for source, target in ((nothing, 0), (output, 1), (output, 2)):
    os.dup2(source, target)
  os.chdir(asked['folder'])
  os.environ.clear()
  os.environ.update(asked['environment'])
  sys.path[:0] = os.environ['PYTHONPATH'].split(os.pathsep)
  import jax

  for name, text in asked['environment'].items():
    if name.lower() in jax.config.values:
      kind = type(jax.config.values[name.lower()])
      value = text.lower() in ('1', 'true') if kind is bool else text
      jax.config.update(name.lower(), kind(value) if kind in (int, float) else value)
  return next(filter(None, map(cli.main, asked['verbs'])), 0)


if __name__ == '__main__':
  from dss_jax import cli

  cli._imported('train', with_tensorflow=True)
  sys.exit(_run(_serve(sys.argv[1])))
