"""Processes that train the cells of a sweep side by side, each on its share of the cores.

Owns their start, their end and their logs. What each does is sweeping.py's.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence

from etils import epath

from dss_jax.parallel import distributed

# In the environment of a worker: which one it is, of how many, and which start of the sweep's.
VARIABLE = 'DSS_SWEEP_WORKER'


def is_worker() -> bool:
  """Whether this process is one of them."""
  return VARIABLE in os.environ


def start() -> str:
  """A name of this start of a sweep, the same in all its workers."""
  return os.environ[VARIABLE].split('/')[2] if is_worker() else _START


_START = uuid.uuid4().hex


def work_together(argv: Sequence[str], workers: int, folder: epath.Path) -> bool:
  """Runs the workers of a sweep; returns whether a signal stopped them.

  Args:
    argv: arguments of `dss sweep`.
    workers: how many.
    folder: of the sweep, which gets their logs.
  """
  folder.mkdir(parents=True, exist_ok=True)
  command = [sys.executable, '-m', 'dss_jax', 'sweep', *argv]
  processes = []
  for number in range(workers):
    with open(folder / f'worker_{number}.log', 'ab') as log:
      environment = {**os.environ, VARIABLE: f'{number}/{workers}/{_START}'}
      processes.append(subprocess.Popen(command, env=environment, stderr=log))
  stop, is_told = distributed.StopSignal(), False
  try:
    while any(process.poll() is None for process in processes):
      if stop.requested() and not is_told:
        is_told = True
        for process in processes:
          process.terminate()
      time.sleep(0.2)
  finally:
    stop.restore()
    for process in processes:
      process.terminate()  # where this process ends by an error; has no effect on one that ended
  for number, process in enumerate(processes):
    if process.returncode:
      print(f'worker {number} ended early; see {folder}/worker_{number}.log', file=sys.stderr)
  return stop.requested()


def limit_cores() -> None:
  """Keeps a worker on its share of the cores; called before JAX starts its threads."""
  if not is_worker() or not hasattr(os, 'sched_setaffinity'):
    return
  number, count = map(int, os.environ[VARIABLE].split('/')[:2])
  available = sorted(os.sched_getaffinity(0))
  if count <= len(available):
    os.sched_setaffinity(0, available[number::count])
