"""Processes that train the cells of a sweep side by side, each on its share of the cores.

Owns their start, their end and their logs. What each does is sweeping.py's.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from etils import epath

from dss_jax.parallel import distributed

VARIABLE = 'DSS_SWEEP_WORKER'  # in the environment of a worker: which one it is, and of how many


def is_worker() -> bool:
  """Whether this process is one of them."""
  return VARIABLE in os.environ


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
      environment = {**os.environ, VARIABLE: f'{number}/{workers}'}
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
  number, count = map(int, os.environ[VARIABLE].split('/'))
  cores = sorted(os.sched_getaffinity(0))
  if count <= len(cores):
    os.sched_setaffinity(0, cores[number::count])
