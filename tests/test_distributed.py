"""Several processes are one run: the same numbers, one stop for all, no waiting for the dead.

Real processes on this machine, which meet over loopback.
"""

import json
import pathlib
import shutil
import signal
import socket
import time

import jax
import pytest
from train_processes import (
  MODULE,
  Processes,
  assert_same_run,
  importable,
  params_of,
  rows_of,
  share,
  train_arguments,
)

from dss_jax.commands import evaluate, train
from dss_jax.parallel import distributed
from dss_jax.runs.run_folder import RunFolder

STEPS = 10
HEARTBEAT_S = 8
HEARTBEAT = {'DSS_HEARTBEAT_S': str(HEARTBEAT_S)}
TWO = {'count': 2, 'devices': 4}


def _arguments(folder, **settings) -> list[str]:
  """A validation and a checkpoint after the last step, and after no other."""
  settings = {'train_steps': STEPS, 'eval_period': 100, 'mesh_fsdp': 8} | settings
  return ['train', *train_arguments(folder, **settings)]


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  """A folder with the module that makes the data small, and compiled programs."""
  with importable(share(tmp_path_factory.mktemp('shared'))) as folder:
    yield folder


@pytest.fixture(scope='module')
def one(tmp_path_factory, shared):
  """The folder of a run of one process with eight devices: this one."""
  folder = tmp_path_factory.mktemp('one')
  assert jax.device_count() == 8
  assert train.main(_arguments(folder)[1:]) == 0
  return folder


@pytest.fixture(scope='module')
def stopped(tmp_path_factory, shared):
  """The folder of a run of two processes with four devices each, one of which got a SIGTERM."""
  folder = tmp_path_factory.mktemp('two')
  job = Processes(folder, shared, _arguments(folder), **TWO, own=1)
  job.when(RunFolder(folder).gin_file.exists)  # the two have met; then they compile
  assert job.send(signal.SIGTERM, to=1) == [0, 0], job.all_logs
  return folder, job


@pytest.fixture(scope='module')
def two(tmp_path_factory, shared, stopped):
  """The folder of `stopped` continued to its end by two processes, and their logs."""
  folder = tmp_path_factory.mktemp('two') / 'run'
  shutil.copytree(stopped[0], folder)
  job = Processes(folder, shared, _arguments(folder), **TWO)
  assert job.finish() == [0, 0], job.all_logs
  return folder, job


def test_a_signal_to_one_process_saves_the_same_step_on_all(stopped):
  folder, job = stopped
  _, (step, best) = params_of(folder)
  assert 0 < step < STEPS and best is None
  assert f'step {step}: stopped; the same command continues it' in job.log
  assert [row['step'] for row in rows_of(folder)] == list(range(1, step + 1))
  written = {path.name for path in (folder / 'checkpoints' / str(step) / 'params').iterdir()}
  assert {'ocdbt.process_0', 'ocdbt.process_1'} <= written  # each wrote its own


def test_two_processes_train_and_validate_and_continue_as_one_does(two, one):
  assert_same_run(two[0], one)


def test_one_device_continues_what_two_processes_saved(stopped, one, shared, tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(stopped[0], folder)
  job = Processes(folder, shared, _arguments(folder, mesh_fsdp=1))
  assert job.finish() == [0], job.log
  assert f'continuing {folder} from step' in job.log
  assert_same_run(folder, one)


def test_one_process_writes_and_speaks(two):
  folder, job = two
  ours = [line for line in job.log_of(1).splitlines() if not line.startswith('[Gloo]')]
  assert not [line for line in ours if 'step' in line], job.log_of(1)
  assert f'step {STEPS}: finished' in job.log
  # Events of the first life and of the second.
  assert len([path for path in folder.iterdir() if path.name.startswith('events.')]) == 2
  assert not [path for path in folder.iterdir() if path.name.endswith('.tmp')]


def test_an_evaluation_by_two_processes_is_that_by_one(two, shared, tmp_path, capsys):
  """Sampled, so that random keys follow their rows too; the last batch is not full."""
  arguments = [
    f'--model_dir={two[0]}', '--decoding=temperature', '--batch_size=16', '--num_examples=37',
    f'--mixture_or_task_module={MODULE}',
  ]  # fmt: skip
  by_one, by_two = tmp_path / 'one.jsonl', tmp_path / 'two.jsonl'
  assert evaluate.main([*arguments, f'--output={by_one}']) == 0
  wanted = json.loads(capsys.readouterr().out.splitlines()[-1])
  line = ['evaluate', *arguments, f'--output={by_two}', '--mesh_fsdp=4']
  job = Processes(tmp_path / 'two', shared, line, **TWO, own=1)
  assert job.finish() == [0, 0], job.all_logs
  assert json.loads(job.log.splitlines()[-1]) == wanted
  records, wanted_records = (
    [json.loads(line) for line in path.read_text().splitlines()] for path in (by_two, by_one)
  )
  assert wanted['examples'] == len(records) == 37
  assert len({record['prediction'] for record in records}) > 30
  for record, wanted_record in zip(records, wanted_records, strict=True):
    assert record['score'] == pytest.approx(wanted_record.pop('score'), abs=1e-4)
    assert record.items() >= wanted_record.items()


# The dead and the different

MEETS = """
import sys, time
from dss_jax.parallel import distributed
from dss_jax.runs.run_folder import RunFolder
distributed.initialize('train', stops_softly=True)
try:
  distributed.check_same(settings=sys.argv[1:])
except ValueError as error:
  distributed.exit_process('train', error)
print('met', flush=True)
time.sleep(600)
"""


def _assert_ends_after_kill(job, killed):
  """The other process ends soon, with an error that a shell says once it is gone."""
  other, began = 1 - killed, time.monotonic()
  codes = job.send(signal.SIGKILL, to=killed)
  assert time.monotonic() - began < 6 * HEARTBEAT_S
  assert codes[killed] == -signal.SIGKILL and codes[other] not in (0, 2), job.all_logs
  while 'continues from the last checkpoint.' not in job.log_of(other):
    assert time.monotonic() - began < 12 * HEARTBEAT_S, job.all_logs
    time.sleep(0.05)
  last = job.log_of(other).splitlines()[-1]
  assert last.startswith(f'dss train: process {other} of 2 '), job.all_logs


def test_a_training_process_whose_other_is_killed_ends_with_an_error(shared, tmp_path):
  arguments = _arguments(tmp_path, train_steps=100_000, eval_period=0, learning_rate=1e-3)
  job = Processes(tmp_path, shared, arguments, **TWO, environment=HEARTBEAT)
  job.when(lambda: job.steps() >= 1)
  _assert_ends_after_kill(job, killed=1)


@pytest.mark.parametrize('killed', [0, 1])
def test_a_killed_process_is_noticed_where_nothing_is_computed(shared, tmp_path, killed):
  """Process 0 is the one that all are connected to; the loss of another is noticed by silence."""
  job = Processes(tmp_path, shared, [], **TWO, environment=HEARTBEAT, program=('-c', MEETS))
  job.when(lambda: all('met' in job.log_of(index) for index in range(2)))
  _assert_ends_after_kill(job, killed)


def test_process_0_listens_at_the_coordinators_address_alone(shared, tmp_path):
  job = Processes(tmp_path, shared, [], **TWO, program=('-c', MEETS))
  try:
    job.when(lambda: all('met' in job.log_of(index) for index in range(2)))
    variables = pathlib.Path(f'/proc/{job.processes[0].pid}/environ').read_text().split('\0')
    address = next(text for text in variables if text.startswith('DSS_COORDINATOR='))
    port = int(address.rpartition(':')[2])
    own = socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)[0][4][0]
    for stranger in {'127.0.0.2', own} - {'127.0.0.1'}:
      with pytest.raises(ConnectionRefusedError):
        socket.create_connection((stranger, port), timeout=5)
    socket.create_connection(('127.0.0.1', port), timeout=5).close()
  finally:
    job.kill()


def test_processes_with_other_settings_than_each_other_are_refused(shared, tmp_path):
  job = Processes(tmp_path, shared, ['a'], **TWO, of_last=['b'], program=('-c', MEETS))
  codes = job.finish()
  assert codes[0] == 2 and codes[1] != 0, job.all_logs
  assert 'of this run do not have the same settings; start all with' in job.log


# Settings


@pytest.mark.parametrize(
  'given',
  [
    {'DSS_COORDINATOR': 'a:1'},
    {'DSS_NUM_PROCESSES': '2', 'DSS_PROCESS_ID': '0'},
    {'DSS_COORDINATOR': 'a:1', 'DSS_NUM_PROCESSES': '2'},
    {'DSS_COORDINATOR': 'a', 'DSS_NUM_PROCESSES': '2', 'DSS_PROCESS_ID': '0'},
    {'DSS_COORDINATOR': 'a:1', 'DSS_NUM_PROCESSES': '2', 'DSS_PROCESS_ID': '2'},
    {'DSS_COORDINATOR': 'a:1', 'DSS_NUM_PROCESSES': 'two', 'DSS_PROCESS_ID': '0'},
  ],
  ids=str,
)
def test_settings_that_contradict_each_other_are_refused(monkeypatch, given):
  for name, value in given.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(ValueError, match=r'DSS_COORDINATOR=host:port.* from 0 to n - 1, not DSS_'):
    distributed.initialize('train', stops_softly=True)


@pytest.fixture
def joined(monkeypatch):
  """Stands in for `jax.distributed.initialize`; returns the arguments of its calls."""
  calls: list[dict] = []
  monkeypatch.setattr(jax.distributed, 'initialize', lambda **arguments: calls.append(arguments))
  monkeypatch.delenv('TPU_SKIP_MDS_QUERY', raising=False)  # JAX sets it where there is no TPU
  before = jax.config.jax_enable_preemption_service
  yield calls
  jax.config.update('jax_enable_preemption_service', before)


def _on_tpu(monkeypatch, **environment):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setattr(distributed, '_platforms', lambda: 'tpu,cpu')


@pytest.mark.parametrize(
  'environment, expected',
  [
    ({}, True),  # Compute Engine, whose metadata tell
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, True),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, False),
    ({'TPU_SKIP_MDS_QUERY': '1'}, False),
    ({'DSS_NUM_PROCESSES': '1'}, False),
  ],
  ids=str,
)
def test_hosts_of_a_tpu_meet_by_themselves(joined, monkeypatch, environment, expected):
  _on_tpu(monkeypatch, **environment)
  distributed.initialize('train', stops_softly=True)
  assert joined == ([{'heartbeat_timeout_seconds': 60}] if expected else [])


def test_a_machine_without_a_tpu_is_alone(joined):
  distributed.initialize('train', stops_softly=True)
  assert joined == [] and not distributed.is_multiprocess() and distributed.is_main()


def test_the_environment_goes_before_the_tpu(joined, monkeypatch):
  given = {'DSS_COORDINATOR': 'a:1', 'DSS_NUM_PROCESSES': '3', 'DSS_PROCESS_ID': '2'}
  _on_tpu(monkeypatch, **given)
  distributed.initialize('evaluate', stops_softly=False)
  assert joined == [
    {
      'coordinator_address': 'a:1',
      'num_processes': 3,
      'process_id': 2,
      'heartbeat_timeout_seconds': 60,
    }
  ]
  assert not jax.config.jax_enable_preemption_service  # SIGTERM ends an evaluation


@pytest.mark.parametrize('other', [None, '0.0.0.0:1'])
def test_another_address_to_listen_at_is_jaxs_setting(joined, monkeypatch, other):
  given = {'DSS_COORDINATOR': 'a:1', 'DSS_NUM_PROCESSES': '3', 'DSS_PROCESS_ID': '0'}
  if other:
    given['JAX_COORDINATOR_BIND_ADDRESS'] = other
  for name, value in given.items():
    monkeypatch.setenv(name, value)
  distributed.initialize('train', stops_softly=True)
  assert joined[0].get('coordinator_bind_address') == (None if other else 'a:1')


def test_processes_that_do_not_meet_are_told(monkeypatch):
  def fail(**arguments):
    raise RuntimeError('DEADLINE_EXCEEDED')

  monkeypatch.setattr(jax.distributed, 'initialize', fail)
  _on_tpu(monkeypatch)
  monkeypatch.delenv('TPU_SKIP_MDS_QUERY', raising=False)
  with pytest.raises(OSError, match=r'did not connect as hosts of a Cloud TPU: DEADLINE_EXCEEDED'):
    distributed.initialize('train', stops_softly=False)
