"""Several processes as one run: they connect, log through one process, stop together and exit.

Owns what is not about arrays: `jax.distributed`, signals, and the exit when a process is lost.
partitioning.py decides which rows of a batch a process makes. Code that writes files asks
`is_main`.

The processes of a Cloud TPU find each other. Elsewhere three environment variables connect them:
DSS_COORDINATOR (host:port of process 0) and DSS_NUM_PROCESSES, the same in all processes, and
DSS_PROCESS_ID (from 0). With DSS_NUM_PROCESSES=1 a process runs alone, also on a TPU.

Whoever can connect to process 0 can end the run: it listens at the address that DSS_COORDINATOR
names, and at no other. JAX_COORDINATOR_BIND_ADDRESS names another one, as behind a forwarded port.
"""

import atexit
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import traceback
import zlib
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from dss_jax.settings import errors, outputs
from dss_jax.settings.printable import printable

VARIABLES = ('DSS_COORDINATOR', 'DSS_NUM_PROCESSES', 'DSS_PROCESS_ID')
BIND = 'JAX_COORDINATOR_BIND_ADDRESS'  # JAX's own
HEARTBEAT = 'DSS_HEARTBEAT_S'
HEARTBEAT_S = 60
LOST_PROCESS_HINT = (
  'If another process ended before it, that process printed the reason. The same command continues '
  'from the last checkpoint.'
)
BARRIER_TIMEOUT_MS = 1_800_000  # how long the slowest process may take to read its data
_calls, _barriers = itertools.count(), itertools.count()
_watcher: subprocess.Popen | None = None


def initialize(verb: str, stops_softly: bool) -> None:
  """Connects to the other processes of the run, if there are any. No JAX call may come before.

  Args:
    verb: of the command line, for messages.
    stops_softly: the verb checks `StopSignal`; SIGTERM ends other verbs at once.

  Raises:
    ValueError: the three variables contradict each other.
    OSError: the other processes cannot be reached.
  """
  address = _settings_of_environment()
  if address is None and not _is_tpu_host():
    return
  jax.config.update('jax_enable_preemption_service', stops_softly)
  try:
    jax.distributed.initialize(**(address or {}), heartbeat_timeout_seconds=_heartbeat())
  except Exception as error:
    where = f'at {address["coordinator_address"]}' if address else 'as hosts of a Cloud TPU'
    raise OSError(
      f'the processes of this run did not connect {where}: {error}. Set DSS_NUM_PROCESSES=1 to run '
      f'this process alone. Process 0 listens at that address; {BIND} names another one.'
    ) from error
  _start_watcher(verb)


def is_multiprocess() -> bool:
  """Whether the run has more processes than this one."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def is_main() -> bool:
  """Whether this process is the one that prints and writes the run's files."""
  return jax.process_index() == 0


def log(text: str) -> None:
  """Prints a line to standard error, in the main process only; it may name what others wrote."""
  if is_main():
    print(printable(text), file=sys.stderr, flush=True)


def barrier() -> None:
  """Waits until all processes have called this.

  A collective would not do: on CPU it fails when a process arrives 30 s after the others.
  """
  if is_multiprocess():
    from orbax.checkpoint import multihost  # slow to import

    multihost.get_barrier_sync_fn()(key=f'dss_{next(_barriers)}', timeout_ms=BARRIER_TIMEOUT_MS)


def check_same(**values: Any) -> None:
  """Refuses a run whose processes differ in settings or data; also a `barrier`.

  Raises:
    ValueError: in every process; the message names what differs.
  """
  if not is_multiprocess():
    return
  barrier()
  sums = np.array([zlib.crc32(repr(value).encode()) for value in values.values()], np.uint32)
  gathered = multihost_utils.process_allgather(sums)
  differ = [name for name, column in zip(values, gathered.T, strict=True) if len(set(column)) > 1]
  if differ:
    raise ValueError(
      f'the processes of this run do not have the same {" and ".join(differ)}; start all with the '
      'same command, and with the same files where it names files.'
    )


def exit_process(verb: str, error: BaseException) -> NoReturn:
  """Reports an error and ends this process at once, where the run has several.

  An orderly exit would wait for the other processes, which may be waiting for this one. They notice
  its missing heartbeat.
  """
  who = f'dss {verb}: process {jax.process_index()} of {jax.process_count()}'
  users = errors.is_users(error)
  code = 130 if isinstance(error, KeyboardInterrupt) else errors.exit_code(error) if users else 1
  if isinstance(error, SystemExit) and isinstance(error.code, int):
    code = error.code
  if code == 1 or os.environ.get('DSS_TRACEBACK'):
    traceback.print_exception(error)
  if code == 1:
    print(f'{who} ended: {type(error).__name__}. {LOST_PROCESS_HINT}', file=sys.stderr)
  elif users:
    print(f'{who}: {printable(str(error))}', file=sys.stderr)
  sys.stdout.flush()
  sys.stderr.flush()
  _stop_watcher()
  os._exit(code)


class StopSignal:
  """Whether SIGTERM, a closed terminal or Ctrl-C came, the same in all processes.

  The step and its save are finished, also when more SIGTERMs come. A second Ctrl-C ends the process
  at once; what was saved before stays.

  A signal to one of several processes stops all: JAX sees the SIGTERM and tells the other
  processes, and `requested` becomes true at the same call in each.
  """

  def __init__(self):
    self._requested = self._reached = self._interrupted = False
    self._before: dict[int, Any] = {}
    numbers = [signal.SIGINT] if is_multiprocess() else [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as `nohup` makes it
      numbers.append(signal.SIGHUP)
    with contextlib.suppress(ValueError):  # not the main thread: the caller handles signals
      for number in numbers:
        self._before[number] = signal.signal(number, self._on_signal)

  def requested(self) -> bool:
    """Whether to save and end now. All processes must call this equally often."""
    if not is_multiprocess():
      return self._requested
    if not self._reached and multihost_utils.reached_preemption_sync_point(next(_calls)):
      self._reached = True
      log('SIGTERM to one of the processes: saving')
    return self._reached

  def _on_signal(self, number, frame) -> None:
    if number == signal.SIGINT:
      if self._interrupted:
        raise KeyboardInterrupt
      self._interrupted = True
    if self._requested:
      return
    self._requested = True
    hint = '; Ctrl-C again ends it without that' if number == signal.SIGINT else ''
    outputs.drop_closed(1, 2)  # of a closed terminal: no line that is printed may end the save
    # Not print: it raises if the signal interrupted another print.
    os.write(2, f'{signal.Signals(number).name}: saving after this step{hint}\n'.encode())
    if is_multiprocess():
      os.kill(os.getpid(), signal.SIGTERM)  # JAX listens to SIGTERM only

  def restore(self) -> None:
    """Puts the earlier handlers back."""
    for number, handler in self._before.items():
      signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _settings_of_environment() -> dict[str, Any] | None:
  """Arguments for `jax.distributed.initialize` from the environment; None if it has none.

  Raises:
    ValueError: a variable is missing or malformed.
  """
  given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
  if not given or given.get('DSS_NUM_PROCESSES') == '1':
    return None
  settings = ', '.join(f'{name}={given.get(name, "")}' for name in VARIABLES)
  numbers = [given.get(name, '') for name in VARIABLES[1:]]
  port = given.get('DSS_COORDINATOR', '').rpartition(':')[2]
  if not (port.isdigit() and all(map(str.isdigit, numbers)) and int(numbers[1]) < int(numbers[0])):
    raise ValueError(
      'several processes need DSS_COORDINATOR=host:port, DSS_NUM_PROCESSES=n and DSS_PROCESS_ID '
      f'from 0 to n - 1, not {settings}.'
    )
  settings_of_jax: dict[str, Any] = {
    'coordinator_address': given['DSS_COORDINATOR'],
    'num_processes': int(numbers[0]),
    'process_id': int(numbers[1]),
  }
  if settings_of_jax['process_id'] == 0 and not os.environ.get(BIND):
    settings_of_jax['coordinator_bind_address'] = given['DSS_COORDINATOR']  # else all addresses
  return settings_of_jax


def _is_tpu_host() -> bool:
  """Whether this host may be one of several of a Cloud TPU. Sends nothing over the network.

  JAX lists 'tpu' first among its platforms where it finds chips and libtpu.
  """
  if os.environ.get('DSS_NUM_PROCESSES') == '1':
    return False
  if not _platforms().startswith('tpu'):
    return False
  hosts = os.environ.get('TPU_PROCESS_ADDRESSES') or os.environ.get('TPU_WORKER_HOSTNAMES')
  if hosts is not None:  # GKE, and single-host machines
    return ',' in hosts
  return 'TPU_SKIP_MDS_QUERY' not in os.environ


def _platforms() -> str:
  return jax.config.jax_platforms or ''  # type: ignore[attr-defined]


def _heartbeat() -> int:
  """Seconds of silence after which a process counts as dead and all others end."""
  value = os.environ.get(HEARTBEAT, str(HEARTBEAT_S))
  if not value.isdigit() or int(value) < 1:
    raise ValueError(f'{HEARTBEAT} must be a whole number of seconds from 1, not {value!r}.')
  return int(value)


def _start_watcher(verb: str) -> None:
  """Starts a shell that prints an error if this process ends without calling `_stop_watcher`.

  When another process is lost, JAX ends this one from C++: no more Python runs here.
  """
  global _watcher
  if not is_multiprocess():
    return
  line = (
    f'dss {verb}: process {jax.process_index()} of {jax.process_count()} was killed, or lost '
    f'another process. {LOST_PROCESS_HINT}'
  )
  with contextlib.suppress(OSError):  # without a shell nothing is printed
    _watcher = subprocess.Popen(
      ['sh', '-c', 'read -r end || printf "%s\\n" "$1" >&2', 'sh', line],
      stdin=subprocess.PIPE,
      start_new_session=True,  # so that Ctrl-C does not reach it
    )
  atexit.register(_shut_down)


def _shut_down() -> None:
  """Ends a finished process; waits for the others, any of which may still fail."""
  jax.distributed.shutdown()
  _stop_watcher()


def _stop_watcher() -> None:
  """Ends the shell without an error message."""
  if _watcher is not None and _watcher.stdin is not None:
    with contextlib.suppress(OSError):
      _watcher.stdin.write(b'end\n')
      _watcher.stdin.flush()
