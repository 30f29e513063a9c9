"""The start-up script itself, on hosts that are processes here with nothing in their folder.

The longest test of the launcher: a real wheel is built, submitted, installed on one fresh host
after another, and a run that was preempted twice ends as an undisturbed one does.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip('google.cloud.tpu_v2', reason="needs the extra 'launch'")

import fake_tpu
import programs

from dss_jax import launch
from dss_jax.launch import package, tpu_vm, watch
from dss_jax.launch.folder import JobFolder
from dss_jax.launch.job import Job

STEPS = 60
SMALL_DATA = """
import os, pathlib
from dss_jax.datasets import embedded_arithmetic
embedded_arithmetic.SIZES.update(train=600, validation=40, test=40)
pathlib.Path(os.environ['SEEN']).write_text(os.environ['SECRET'])
"""
TIMES = ('examples_per_second', 'tokens_per_second', 'padding')


def _command(model_dir) -> list[str]:
  settings = {
    'mixture_or_task_module': 'small_embedded_data',
    'model_dir': str(model_dir),
    'train_steps': STEPS,
    'batch_size': 8,
    'task_feature_lengths': "{'inputs': 96, 'targets': 64}",
    'learning_rate': 0.01,
    'dropout_rate': 0.1,
    'eval_period': 20,
    'evaluator_num_examples': 8,
    'max_decode_length': 24,
    'save_period': 4,
    'log_period': 1,
  }
  network = {'emb_dim': 16, 'mlp_dim': 32, 'num_encoder_layers': 1, 'num_decoder_layers': 1}
  (pathlib.Path('small.gin')).write_text(
    "include 'models/t5_1_1/tiny.gin'\ninclude 'datasets/embedded_arithmetic.gin'\n"
    + '\n'.join(f't5.T5Config.{name} = {value}' for name, value in network.items())
  )
  flags = [f'--{name}={value}' for name, value in settings.items()]
  return ['train', '--gin_file=small.gin', *flags]


def _rows(model_dir) -> list[dict]:
  lines = (pathlib.Path(model_dir) / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [{k: v for k, v in row.items() if k not in TIMES and 'time' not in k} for row in rows]


@pytest.fixture
def machines(tmp_path):
  """Hosts in a folder of their own, ended with the test."""
  made = []

  def make(**values):
    made.append(fake_tpu.Machines(tmp_path / 'machines', **values))
    return made[-1]

  yield make
  for one in made:
    one.close()


def _preempter(server, machines, done):
  """Kills the first host after six steps, tells the second to go down after two."""

  def steps(number):
    logs = (machines.folder / f'host-{number}/dss').glob('2*.log')
    return sum(path.read_text().count('\nstep ') for path in logs)

  def run():
    for host, count, number in ((1, 6, signal.SIGKILL), (2, 2, signal.SIGTERM)):
      while steps(host) < count:
        time.sleep(0.01)
      server.preempt('one', number=number)
      done.append(number)

  threading.Thread(target=run, daemon=True).start()


def test_a_preempted_and_relaunched_job_ends_as_an_undisturbed_one(
  tmp_path, machines, monkeypatch, capfd
):
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  pathlib.Path('small_embedded_data.py').write_text(SMALL_DATA)
  monkeypatch.setattr(watch, 'PERIOD_S', 0.2)
  passed = {
    'SECRET': 'hunter2',
    'SEEN': str(tmp_path / 'seen'),
    'JAX_PLATFORMS': 'cpu',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'XLA_FLAGS': f'{programs.XLA_FLAGS} --xla_force_host_platform_device_count=2',
    'TF_ENABLE_ONEDNN_OPTS': '0',
    **programs.VARIABLES,
  }
  whole, disturbed = tmp_path / 'whole', tmp_path / 'disturbed'
  line = [sys.executable, '-m', 'dss_jax', *_command(whole)]
  subprocess.run(line, check=True, env={**os.environ, **passed}, timeout=300)
  (tmp_path / 'seen').unlink()
  for name, value in passed.items():
    monkeypatch.setenv(name, value)

  done = []
  hosts = machines()
  with fake_tpu.FakeTpu([fake_tpu.READY], hosts) as server:
    monkeypatch.setenv(tpu_vm.ENDPOINT, server.endpoint)
    _preempter(server, hosts, done)
    where = [f'--bucket={tmp_path}/bucket', '--name=one', '--project=p', '--zone=z', '--spot']
    variables = [f'--env={name}' for name in passed]
    code = launch.main(
      ['tpu-vm', *where, '--topology=v5e-8', *variables, '--submit', '--', *_command(disturbed)]
    )
    said = capfd.readouterr()
    assert code == 0, said.out + said.err
    assert server.resources == {}
    assert len(server.requests) == 3 and done == [signal.SIGKILL, signal.SIGTERM]
    assert 'hunter2' not in said.out + said.err + str(server.requests)

  assert 'continuing' in said.out and f'step {STEPS}: finished' in said.out
  assert 'stopped; the same command continues it' in said.out
  assert _rows(disturbed) == _rows(whole)
  assert [row['step'] for row in _rows(whole) if row['kind'] == 'validation'] == [20, 40, 60]
  assert (tmp_path / 'seen').read_text() == 'hunter2'
  assert not (tmp_path / 'bucket/one/env.json').exists()
  assert JobFolder(tmp_path / 'bucket/one').result()['state'] == 'done'


# ---------------------------------------------------------------- the end, without a watcher


@pytest.mark.parametrize(
  ('hosts', 'code', 'deletions'), [(1, 0, 1), (3, 0, 1), (3, 75, 0), (1, 1, 1), (1, 137, 1)]
)
def test_one_host_deletes_the_resource_when_the_job_is_over(
  tmp_path, machines, hosts, code, deletions
):
  """Hosts on which all is installed, as after starting anew; `host.py` ends with a code."""
  made = machines(hosts=hosts)
  job = Job('one', ('train',), 'v5e-8', str(tmp_path / 'folder'), 'p', 'z')
  JobFolder(job.folder).submit(job, [], [], {})
  for number in range(hosts):
    work = tmp_path / f'machines/host-{number + 1}/dss'
    (work / 'venv/bin').mkdir(parents=True)
    (work / 'installed').touch()
    (work / 'venv/bin/python').write_text(f'#!/bin/sh\necho "$@" > arguments\nexit {code}\n')
    (work / 'venv/bin/python').chmod(0o755)
  node = fake_tpu.tpu_v2.Node(metadata={'startup-script': tpu_vm.startup_script(job)})
  with fake_tpu.FakeTpu([['ACTIVE/READY']]) as server:
    server.resources['one'] = ['ACTIVE/READY']
    processes = made.start(node, server.endpoint)
    assert [process.wait(timeout=60) for process in processes] == [code] * hosts
    assert ('one' in server.resources) == (deletions == 0)
  calls = tmp_path / 'machines/gcloud.log'
  assert (calls.read_text().count('delete one') if calls.exists() else 0) == deletions
  assert bool(JobFolder(job.folder).result()) == (code not in (0, 75))
  given = [(path / 'dss/arguments').read_text() for path in sorted(made.folder.glob('host-*'))]
  start = f'-m dss_jax.launch.host {job.folder}'
  assert [line.startswith(f'{start} {n} ') for n, line in enumerate(given)] == [True] * hosts


# ---------------------------------------------------------------- set-up that fails


@pytest.mark.parametrize('bucket', ['folder', 'gs://b'])
@pytest.mark.parametrize('detach', [False, True])
def test_a_set_up_that_fails_ends_the_job_and_deletes_the_resource(
  tmp_path, machines, monkeypatch, bucket, detach
):
  """No wheel in the bucket. With gs://, it is gcloud that copies. Nobody watches if detached."""
  hosts = machines()
  real = tmp_path / 'folder' if bucket == 'folder' else tmp_path / 'machines/gs/b'
  job = Job('one', ('train',), 'v5e-8', str(real), 'p', 'z')
  folder = JobFolder(job.folder)
  folder.submit(job, [], [], {'SECRET': 'x'})
  with fake_tpu.FakeTpu([['ACTIVE/READY']], hosts) as server:
    monkeypatch.setenv(tpu_vm.ENDPOINT, server.endpoint)
    named = bucket if bucket.startswith('gs://') else str(real)
    script = tpu_vm.startup_script(job).replace(str(real), named)
    monkeypatch.setattr(tpu_vm, 'startup_script', lambda job: script)
    job_watch = watch.Watch(job, folder, tpu_vm.CloudTpu('p', 'z'), lambda seconds: time.sleep(0.1))
    if detach:
      assert job_watch.submit(detach) == 0
      job_watch.cloud.look('one')  # its host starts
      server.hosts['one'][0].wait(timeout=60)
    else:
      assert job_watch.submit() == 1
    assert server.resources == {}
  result = folder.result()
  assert result['state'] == 'failed' and 'host 0: set-up ended with' in result['message']
  assert 'package' in ''.join(folder.logs())
  assert 'delete one' in (tmp_path / 'machines/gcloud.log').read_text()
  assert folder.environment() == {}


def test_a_host_that_goes_down_during_set_up_deletes_nothing(tmp_path, machines, monkeypatch):
  hosts = machines(environment={'DSS_PAUSES': '60'})
  job = Job('one', ('train',), 'v5e-8', str(tmp_path / 'folder'), 'p', 'z')
  JobFolder(job.folder).submit(job, [], [], {})
  node = fake_tpu.tpu_v2.Node(metadata={'startup-script': tpu_vm.startup_script(job)})
  process = hosts.start(node, 'nowhere')[0]
  log = tmp_path / 'machines/host-1/dss/setup.log'
  end = time.monotonic() + 60
  while not (log.exists() and 'cp: ' in log.read_text()):
    assert time.monotonic() < end
    time.sleep(0.05)
  os.killpg(process.pid, signal.SIGTERM)
  assert process.wait(timeout=30) == 75
  assert not (tmp_path / 'machines/gcloud.log').exists()
  assert JobFolder(job.folder).result() is None


def test_the_wheel_has_what_hosts_need(tmp_path):
  files = package.build(tmp_path)
  assert [path.suffix for path in files] == ['.whl', '.txt']
  names = subprocess.check_output([sys.executable, '-m', 'zipfile', '-l', str(files[0])], text=True)
  page = [f'experiments/report/page.{ending}' for ending in ('html.j2', 'css', 'js')]
  launch = ('launch/host.py', 'launch/startup.sh', 'launch/local.sh', 'launch/t5x_source.py')
  gin = ('gin/runs/train.gin', 'gin/t5x/train.gin', 'gin/t5x/models/xxl.gin')
  for name in (*launch, *gin, *page):
    assert f'dss_jax/{name}' in names
  repository = pathlib.Path(package.dss_jax.__file__).parent.parent
  assert files[1].read_bytes() == (repository / 'requirements.txt').read_bytes()
