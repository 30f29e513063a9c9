"""Jobs on the fake Cloud TPU, as fixtures: a server and a watch, and a command line."""

import fake_tpu
import grpc
import pytest

from dss_jax.launch import package, tpu_vm, watch
from dss_jax.launch.folder import JobFolder
from dss_jax.launch.job import Job


@pytest.fixture
def make(tmp_path, monkeypatch):
  """Makes a server with these plans and a watch of a job; `ends` looks later the job is over."""
  servers = []

  def start(*plans, ends=None, machines=None, **values):
    server = fake_tpu.FakeTpu(plans, machines).__enter__()
    servers.append(server)
    monkeypatch.setenv(tpu_vm.ENDPOINT, server.endpoint)
    job = Job(
      'cqa', ('train',), 'v5e-8', str(tmp_path), 'p', 'z', spot=True, **{'retries': 3, **values}
    )
    folder = JobFolder(job.folder)
    folder.submit(job, [], [], {})
    waits = []

    def sleep(seconds):
      waits.append(seconds)
      if ends is not None and len(waits) == ends:
        folder.finish('done', 0)
      assert len(waits) < 200, 'it never ends'

    made = watch.Watch(job, folder, tpu_vm.CloudTpu('p', 'z'), sleep)
    made.waits = waits
    return server, made

  yield start
  for server in servers:
    server.__exit__()


def interrupted_and_left(server, job) -> None:
  """Submits a job that is then interrupted, and whose resource cannot be deleted."""
  server.faults['DeleteQueuedResource'] = [grpc.StatusCode.PERMISSION_DENIED]

  def sleep(seconds):
    raise KeyboardInterrupt

  job.sleep = sleep
  with pytest.raises(KeyboardInterrupt):
    job.submit()


@pytest.fixture
def submit(make, tmp_path, monkeypatch):
  """`dss launch tpu-vm --submit` with a wheel that is not built; returns server and arguments."""
  monkeypatch.setattr(package, 'build', lambda folder: [])
  monkeypatch.setattr(watch, 'PERIOD_S', 0.01)
  monkeypatch.setenv('SECRET', 'hunter2')
  monkeypatch.chdir(tmp_path)
  server, _ = make(fake_tpu.READY)
  where = [f'--bucket={tmp_path}/b', '--name=one', '--project=p', '--zone=z', '--topology=v5e-8']
  return server, ['tpu-vm', *where, '--env=SECRET', '--submit']
