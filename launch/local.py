"""A job on this machine, in one process, or in several that stand for the hosts of a slice.

Several processes find each other through three variables: DSS_COORDINATOR (host:port),
DSS_NUM_PROCESSES and DSS_PROCESS_ID. Owns these processes' start, output and end. The same command
continues a run that ended early.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from dss_jax.settings import outputs

GRACE_S = 60.0  # for saving, once another process has ended with an error


def plan(
  command: Sequence[str], processes: int, devices: int | None, coordinator: str = '127.0.0.1:0'
) -> list[tuple[dict[str, str], list[str]]]:
  """The variables and the command line of each process.

  Args:
    command: arguments of dss.
    processes: how many.
    devices: fake CPU devices of each; None: the machine's own devices.
    coordinator: where process 0 waits for the others.

  Raises:
    ValueError: a number that is not positive.
  """
  for name, value in (('processes', processes), ('devices', 1 if devices is None else devices)):
    if value < 1:
      raise ValueError(f'--{name} is a positive number, not {value}.')
  fake: dict[str, str] = {}
  if devices is not None:
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'
    fake = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags.strip()}
  plans = []
  for index in range(processes):
    cluster = {
      'DSS_COORDINATOR': coordinator,
      'DSS_NUM_PROCESSES': str(processes),
      'DSS_PROCESS_ID': str(index),
    }
    line = [sys.executable, '-m', 'dss_jax', *command]
    plans.append(({**fake, **(cluster if processes > 1 else {})}, line))
  return plans


def describe(command: Sequence[str], processes: int, devices: int | None) -> str:
  """The commands of `run`, as lines for a shell."""
  plans = plan(command, processes, devices, '127.0.0.1:PORT')
  return '\n'.join(
    shlex.join(['env', *(f'{name}={value}' for name, value in variables.items()), *line])
    for variables, line in plans
  )


def run(command: Sequence[str], processes: int, devices: int | None) -> int:
  """Runs the job; returns its exit code, the first that is not 0 if there are several processes.

  SIGTERM and Ctrl-C go to all processes, and a closed terminal is a SIGTERM to them. When a process
  ends with an error, the others get SIGTERM, and are killed if they do not end.
  """
  plans = plan(command, processes, devices, f'127.0.0.1:{_free_port()}')
  if processes == 1:
    variables, line = plans[0]
    sys.stdout.flush()
    os.execve(line[0], line, {**os.environ, **variables})
  children: list[subprocess.Popen] = []

  def pass_on(number, frame):
    outputs.drop_closed(1, 2)
    for child in children:
      child.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, pass_on)
  if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as `nohup` makes it
    signal.signal(signal.SIGHUP, pass_on)
  readers = []
  try:
    for index, (variables, line) in enumerate(plans):
      child = subprocess.Popen(
        line,
        env={**os.environ, **variables, 'PYTHONUNBUFFERED': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # else Ctrl-C would reach them twice, which ends them at once
      )
      children.append(child)
      readers.append(threading.Thread(target=_prefix, args=(child, index)))
      readers[-1].start()
    return _until_ended(children)
  finally:
    for child in children:
      child.kill()
    for reader in readers:
      reader.join()


def _until_ended(children: Sequence[subprocess.Popen]) -> int:
  first, deadline = 0, None
  while True:
    codes = [child.poll() for child in children]
    failed = [code for code in codes if code]
    if failed and not first:
      first, deadline = failed[0], time.monotonic() + GRACE_S
      for child in children:
        child.terminate()
    if None not in codes:
      return 128 - first if first < 0 else first  # a signal's number, as shells report it
    if deadline and time.monotonic() > deadline:
      for child in children:
        child.kill()
    time.sleep(0.05)


def _prefix(child: subprocess.Popen, index: int) -> None:
  """Copies a process's lines to standard output, with its number before each."""
  assert child.stdout is not None
  for line in child.stdout:
    with contextlib.suppress(OSError):  # a closed terminal; unread, the process would wait forever
      sys.stdout.write(f'[{index}] {line.decode(errors="replace")}')
      sys.stdout.flush()


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]
