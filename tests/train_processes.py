"""Real processes of `dss` on a part of the embedded data: one alone, or several that are one run.

Owns starting, watching and ending them. They run with few optimizations, share compiled programs
with all other tests, and begin where the imports have ended (forks.py).
"""

import contextlib
import importlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import forks
import jax
import numpy as np
import programs
import pytest

from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.runs import run_config
from dss_jax.runs.run_folder import RunFolder

DSS = ('-m', 'dss_jax')
MODULE = 'small_embedded_data'
SMALL_DATA = """
from dss_jax.datasets import embedded_arithmetic
embedded_arithmetic.SIZES.update(train=600, validation=40, test=40)
"""
TIMES = ('examples_per_second', 'tokens_per_second', 'padding')
PATIENCE_S = 240.0  # with processes that do nothing any more


def train_arguments(model_dir, **settings) -> list[str]:
  """The arguments of `dss train` for a tiny student with dropout, with changed macros."""
  defaults = {
    'mixture_or_task_module': MODULE,
    'model_dir': str(model_dir),
    'batch_size': 8,
    'task_feature_lengths': "{'inputs': 96, 'targets': 64}",
    'learning_rate': 0.01,
    'dropout_rate': 0.1,
    'evaluator_num_examples': 8,
    'max_decode_length': 24,
    'log_period': 1,
    'gin.t5.T5Config.emb_dim': 16,
    'gin.t5.T5Config.mlp_dim': 32,
    'gin.t5.T5Config.num_encoder_layers': 1,
    'gin.t5.T5Config.num_decoder_layers': 1,
  }
  files = ['models/t5_1_1/tiny.gin', 'datasets/embedded_arithmetic.gin']
  given = [f'--{name}={value}' for name, value in {**defaults, **settings}.items()]
  return [f'--gin_file={name}' for name in files] + given


class Processes:
  """`dss` with these arguments in `count` processes of `devices` fake devices each.

  Args:
    folder: gets their logs.
    shared: a folder of `share`.
    arguments: of dss, the verb first; or of `program`.
    count: of processes; one finds no others.
    devices: of each.
    environment: more variables.
    of_last: more arguments of the last process alone.
    verbs: further arguments of dss, which the same process runs after these.
    program: a new Python runs this, which may be dss, instead of a fork that runs dss.
    own: how many of the last are a new Python that runs dss, and so iterate sets in another order
      than the forks, which have one seed of hashes.
  """

  def __init__(
    self,
    folder,
    shared,
    arguments,
    count=1,
    devices=1,
    environment=None,
    of_last: Sequence[str] = (),
    verbs: Sequence[Sequence[str]] = (),
    program: Sequence[str] = (),
    own: int = 0,
  ):
    self.folder = pathlib.Path(folder)
    self.folder.mkdir(exist_ok=True)
    self._logs = [self.folder / f'log-{index}.txt' for index in range(count)]
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      port = probe.getsockname()[1]
    self.processes = []
    for index, path in enumerate(self._logs):
      meeting = {
        'DSS_COORDINATOR': f'127.0.0.1:{port}',
        'DSS_NUM_PROCESSES': str(count),
        'DSS_PROCESS_ID': str(index),
      }
      settings = {
        'PYTHONPATH': os.pathsep.join([str(shared), *_given_path()]),
        'JAX_PLATFORMS': 'cpu',
        **programs.VARIABLES,
        'XLA_FLAGS': f'{programs.XLA_FLAGS} --xla_force_host_platform_device_count={devices}',
        **(meeting if count > 1 else {}),
        **(environment or {}),
      }
      variables = {**os.environ, **settings}
      line = [*arguments, *(of_last if index == count - 1 else [])]
      runs = DSS if index >= count - own else program
      with path.open('w') as log:
        self.processes.append(
          subprocess.Popen(
            [sys.executable, *runs, *line], stdout=log, stderr=log,
            env={**variables, 'PYTHONHASHSEED': 'random'},
          )
          if runs
          else forks.Fork([line, *verbs], path, variables)
        )  # fmt: skip

  @property
  def log(self) -> str:
    """What process 0 said."""
    return self.log_of(0)

  def log_of(self, index: int) -> str:
    """What a process said."""
    return self._logs[index].read_text()

  @property
  def all_logs(self) -> str:
    """What all said, for the message of a failed test."""
    return '\n'.join(f'--- process {i}\n{path.read_text()}' for i, path in enumerate(self._logs))

  def finish(self) -> list[int]:
    """Waits for all; returns their exit codes."""
    try:
      return [process.wait(timeout=PATIENCE_S) for process in self.processes]
    except subprocess.TimeoutExpired as error:
      raise AssertionError(f'it goes on and on:\n{self.all_logs}') from error
    finally:
      self.kill()

  def kill(self) -> None:
    """Ends all that still run."""
    for process in self.processes:
      process.kill()
      process.wait()

  def when(self, condition, period_s: float = 0.001) -> 'Processes':
    """Waits until `condition()` is true, looking again and again."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
      ended = any(process.poll() is not None for process in self.processes)
      if ended or time.monotonic() > end:
        self.kill()
        raise AssertionError(f'{"ended by itself" if ended else "nothing"}:\n{self.all_logs}')
      time.sleep(period_s)
    return self

  def steps(self) -> int:
    """How many steps were logged."""
    return self.log.count('\nstep ')

  def saving(self) -> bool:
    """Whether a checkpoint is being written now, under its temporary name."""
    return any(RunFolder(self.folder).checkpoints_folder.glob('*.orbax-checkpoint-tmp'))

  def send(self, number: signal.Signals, to: int = 0) -> list[int]:
    """Sends a signal to one of them; returns the exit codes of all."""
    self.processes[to].send_signal(number)
    return self.finish()


def _given_path() -> list[str]:
  given = os.environ.get('PYTHONPATH')
  return [given] if given else []


def share(folder: pathlib.Path) -> pathlib.Path:
  """Makes a folder with the module that makes the data small."""
  (folder / f'{MODULE}.py').write_text(SMALL_DATA)
  return folder


@contextlib.contextmanager
def importable(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Lets this process too import the module of `share`; puts the data's size back."""
  from dss_jax.datasets import embedded_arithmetic

  sizes = dict(embedded_arithmetic.SIZES)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(folder))
    sys.modules.pop(MODULE, None)
    importlib.import_module(MODULE)
    embedded_arithmetic.problems.cache_clear()  # which an earlier test may have filled
    yield folder
  embedded_arithmetic.SIZES.update(sizes)
  embedded_arithmetic.problems.cache_clear()
  sys.modules.pop(MODULE, None)


def params_of(folder):
  """The latest parameters of a run as numpy, and the numbers of its latest and best step."""
  run = run_config.set_up_tasks(RunFolder(folder).load_settings())
  shapes, _ = t5.abstract(run.model)
  place = partitioning.replicated(partitioning.make_mesh(partitioning.MeshConfig()))
  like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes)
  with RunFolder(folder).read_checkpoints() as checkpoints:
    params = jax.device_get(checkpoints.restore_params('latest', like))
    kept = checkpoints.latest(), checkpoints.best()
  return params, kept


def rows_of(folder) -> list[dict]:
  """metrics.jsonl without what depends on the clock."""
  rows = RunFolder(folder).metric_rows()
  return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def assert_same_run(folder, expected):
  """Sums over devices are taken in another order: equal to rounding, which training carries on."""
  (params, kept), (wanted, wanted_kept) = params_of(folder), params_of(expected)
  assert kept == wanted_kept
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
  for row, wanted_row in zip(rows_of(folder), rows_of(expected), strict=True):
    assert row.pop('kind') == wanted_row.pop('kind')
    assert row == pytest.approx(wanted_row, rel=1e-5)
