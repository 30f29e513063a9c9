"""Several processes as one run: how they meet, speak with one voice, stop together and end.

Owns what is not about arrays: `jax.distributed`, signals, and the way out when a process is lost.
Which rows of a batch a process makes is partitioning.py's; who writes a file is its writer's, who
asks `is_main`.

Processes meet by themselves on Cloud TPU, elsewhere through three variables of the environment, the
same for all but for the last one: DSS_COORDINATOR (host:port of process 0), DSS_NUM_PROCESSES and
DSS_PROCESS_ID (from 0). DSS_NUM_PROCESSES=1 keeps a process to itself, also on a TPU.
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

from dss_jax.settings import errors

NAMES = ('DSS_COORDINATOR', 'DSS_NUM_PROCESSES', 'DSS_PROCESS_ID')
HEARTBEAT = 'DSS_HEARTBEAT_S'
HEARTBEAT_S = 60
OTHERS = (
  'If another process ended before it, the output of that one says why. The same command continues '
  'from the last checkpoint.'
)
MEETING_MS = 1_800_000  # for the slowest to read its data
_calls, _meetings = itertools.count(), itertools.count()
_watcher: subprocess.Popen | None = None


def initialize(verb: str, stops_softly: bool) -> None:
  """Joins the other processes of the run, if there are any; before anything else uses JAX.

  Args:
    verb: of the command line, for messages.
    stops_softly: the verb looks at `StopSignal`; SIGTERM ends others at once.

  Raises:
    ValueError: the three variables contradict each other.
    OSError: the others are not there.
  """
  address = _settings()
  if address is None and not _is_tpu_host():
    return
  jax.config.update('jax_enable_preemption_service', stops_softly)
  try:
    jax.distributed.initialize(**(address or {}), heartbeat_timeout_seconds=_heartbeat())
  except Exception as error:
    where = f'at {address["coordinator_address"]}' if address else 'as hosts of a Cloud TPU'
    raise OSError(
      f'the processes of this run did not meet {where}: {error}. DSS_NUM_PROCESSES=1 runs this one '
      'alone.'
    ) from error
  _watch(verb)


def several() -> bool:
  """Whether there are other processes than this one."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def is_main() -> bool:
  """Whether this is the process that writes what is written once, and prints."""
  return jax.process_index() == 0


def say(text: str) -> None:
  """A line on standard error, of the main process alone."""
  if is_main():
    print(text, file=sys.stderr, flush=True)


def meet() -> None:
  """No process goes on before all have come here.

  Not by a collective: on CPU those give up on a process that comes 30 s after the others.
  """
  if several():
    from orbax.checkpoint import multihost  # slow to import

    multihost.get_barrier_sync_fn()(key=f'dss_{next(_meetings)}', timeout_ms=MEETING_MS)


def check_same(**values: Any) -> None:
  """Refuses a run whose processes were started with different settings or data; also `meet`s.

  Raises:
    ValueError: on all processes alike; names what differs.
  """
  if not several():
    return
  meet()
  sums = np.array([zlib.crc32(repr(value).encode()) for value in values.values()], np.uint32)
  gathered = multihost_utils.process_allgather(sums)
  differ = [name for name, column in zip(values, gathered.T, strict=True) if len(set(column)) > 1]
  if differ:
    raise ValueError(
      f'the processes of this run do not have the same {" and ".join(differ)}; start all with the '
      'same command, and with the same files where it names files.'
    )


def leave(verb: str, error: BaseException) -> NoReturn:
  """Ends one of several processes because of an error, at once.

  An orderly end would wait for the others, which may be waiting for this one: they are left to find
  out that it is gone.
  """
  who = f'dss {verb}: process {jax.process_index()} of {jax.process_count()}'
  code = 130 if isinstance(error, KeyboardInterrupt) else 2 if errors.is_users(error) else 1
  if code == 1 or os.environ.get('DSS_TRACEBACK'):
    traceback.print_exception(error)
  if code == 1:
    print(f'{who} ended: {type(error).__name__}. {OTHERS}', file=sys.stderr)
  elif code == 2:
    print(f'{who}: {error}', file=sys.stderr)
  sys.stdout.flush()
  sys.stderr.flush()
  _dismiss()
  os._exit(code)


class StopSignal:
  """SIGTERM or Ctrl-C as a question that all processes answer alike. A second Ctrl-C ends at once.

  With several processes a signal to one is a signal to all: JAX notices SIGTERM, tells the others,
  and all learn of it at the same call.
  """

  def __init__(self):
    self._asked = self._reached = False
    self._before: dict[int, Any] = {}
    numbers = (signal.SIGINT,) if several() else (signal.SIGTERM, signal.SIGINT)
    with contextlib.suppress(ValueError):  # not the main thread: whoever runs us handles signals
      for number in numbers:
        self._before[number] = signal.signal(number, self._ask)

  def asked(self) -> bool:
    """Whether to save and end now; to be called equally often by all processes."""
    if not several():
      return self._asked
    if not self._reached and multihost_utils.reached_preemption_sync_point(next(_calls)):
      self._reached = True
      say('SIGTERM to one of the processes: saving')
    return self._reached

  def _ask(self, number, frame) -> None:
    self._asked = True
    # Not print: the signal may have come in the middle of one, which then raises.
    os.write(2, f'{signal.Signals(number).name}: saving after this step\n'.encode())
    self.restore()
    if several():
      os.kill(os.getpid(), signal.SIGTERM)  # which is what JAX listens to

  def restore(self) -> None:
    """Puts the earlier handlers back."""
    for number, handler in self._before.items():
      signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _settings() -> dict[str, Any] | None:
  """The arguments of `jax.distributed.initialize` that the environment gives; None: it gives none.

  Raises:
    ValueError: some are missing, or are no such numbers.
  """
  given = {name: os.environ[name] for name in NAMES if os.environ.get(name)}
  if not given or given.get('DSS_NUM_PROCESSES') == '1':
    return None
  told = ', '.join(f'{name}={given.get(name, "")}' for name in NAMES)
  numbers = [given.get(name, '') for name in NAMES[1:]]
  port = given.get('DSS_COORDINATOR', '').rpartition(':')[2]
  if not (port.isdigit() and all(map(str.isdigit, numbers)) and int(numbers[1]) < int(numbers[0])):
    raise ValueError(
      'several processes need DSS_COORDINATOR=host:port, DSS_NUM_PROCESSES=n and DSS_PROCESS_ID '
      f'from 0 to n - 1, not {told}.'
    )
  return {
    'coordinator_address': given['DSS_COORDINATOR'],
    'num_processes': int(numbers[0]),
    'process_id': int(numbers[1]),
  }


def _is_tpu_host() -> bool:
  """Whether this is a host of a Cloud TPU that may have others, told without asking anybody.

  JAX puts 'tpu' before the other platforms where it finds chips and libtpu.
  """
  if os.environ.get('DSS_NUM_PROCESSES') == '1':
    return False
  if not _platforms().startswith('tpu'):
    return False
  hosts = os.environ.get('TPU_PROCESS_ADDRESSES') or os.environ.get('TPU_WORKER_HOSTNAMES')
  if hosts is not None:  # GKE, and machines that are one host by themselves
    return ',' in hosts
  return 'TPU_SKIP_MDS_QUERY' not in os.environ


def _platforms() -> str:
  return jax.config.jax_platforms or ''  # type: ignore[attr-defined]


def _heartbeat() -> int:
  """Seconds after which a process that does not answer is taken for dead, and all end."""
  value = os.environ.get(HEARTBEAT, str(HEARTBEAT_S))
  if not value.isdigit() or int(value) < 1:
    raise ValueError(f'{HEARTBEAT} is a number of seconds, not {value!r}.')
  return int(value)


def _watch(verb: str) -> None:
  """Starts a shell that speaks for this process if it ends without having come to `_dismiss`.

  JAX ends a process from within when another one is lost: after that no line of Python runs.
  """
  global _watcher
  if not several():
    return
  line = (
    f'dss {verb}: process {jax.process_index()} of {jax.process_count()} was killed, or lost '
    f'another process. {OTHERS}'
  )
  with contextlib.suppress(OSError):  # no shell: nothing is said
    _watcher = subprocess.Popen(
      ['sh', '-c', 'read -r end || printf "%s\\n" "$1" >&2', 'sh', line],
      stdin=subprocess.PIPE,
      start_new_session=True,  # a Ctrl-C is not for it
    )
  atexit.register(_end)


def _end() -> None:
  """The end of a process that has done its work: waits for the others, in which all may fail."""
  jax.distributed.shutdown()
  _dismiss()


def _dismiss() -> None:
  """Sends the shell away."""
  if _watcher is not None and _watcher.stdin is not None:
    with contextlib.suppress(OSError):
      _watcher.stdin.write(b'end\n')
      _watcher.stdin.flush()
