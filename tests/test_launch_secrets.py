"""Values of variables: for the owner alone, never printed, and gone at every end of a job."""

import os
import signal

import grpc
import pytest

pytest.importorskip('google.cloud.tpu_v2', reason="needs the extra 'launch'")

import tpu_jobs
from fake_tpu import READY

from dss_jax import launch
from dss_jax.launch import tpu_vm
from dss_jax.launch.folder import JobFolder

pytest_plugins = ('tpu_jobs',)  # the fixtures `make` and `submit`


def with_secret(job, **more):
  job.folder.submit(job.job, [], [], {'SECRET': 'hunter2'})
  assert job.folder.environment()


def test_values_are_removed_when_the_resource_cannot_be_deleted(make):
  server, job = make(READY)
  with_secret(job)
  tpu_jobs.interrupted_and_left(server, job)
  assert 'cqa' in server.resources and not (job.folder.path / 'env.json').exists()


@pytest.mark.parametrize('end', ['finished', 'refused', 'taken'])
def test_values_are_removed_at_every_end(make, end):
  server, job = make(READY, ends=1)
  with_secret(job)
  if end == 'refused':
    server.faults['CreateQueuedResource'] = [grpc.StatusCode.PERMISSION_DENIED]
  if end == 'taken':
    server.resources['cqa'] = ['ACTIVE/READY']
  if end == 'finished':
    server.faults['DeleteQueuedResource'] = [grpc.StatusCode.PERMISSION_DENIED] * 2
  with pytest.raises((OSError, tpu_vm.AlreadyExists)):
    job.submit()
  assert not (job.folder.path / 'env.json').exists()


def test_values_that_cannot_be_removed_are_said_aloud(make, monkeypatch, capsys):
  server, job = make(READY, ends=1)

  def fail():
    raise OSError('the bucket is down')

  monkeypatch.setattr(job.folder, 'forget_environment', fail)
  monkeypatch.setattr(job.folder, 'result', lambda: {'state': 'x', 'exit_code': 0, 'message': ''})
  assert job.submit() == 0 and server.resources == {}
  assert f'COULD NOT REMOVE {job.folder.path}/env.json' in capsys.readouterr().err


def test_a_submission_without_variables_gets_none_of_the_last(make, tmp_path):
  _, job = make(READY)
  with_secret(job)
  job.folder.submit(job.job, [], [], {})
  assert job.folder.environment() == {}


def test_values_are_in_a_new_file_of_the_owner_alone(make, tmp_path):
  """Whatever stood there: a file that all may read, or a link to one elsewhere."""
  _, job = make(READY)
  file, elsewhere = tmp_path / 'cqa/env.json', tmp_path / 'elsewhere'
  file.write_text('')
  file.chmod(0o666)
  reader = file.open()
  with_secret(job)
  assert file.stat().st_mode & 0o777 == 0o600 and reader.read() == ''
  elsewhere.write_text('mine')
  file.unlink()
  file.symlink_to(elsewhere)
  with_secret(job)
  assert not file.is_symlink() and elsewhere.read_text() == 'mine'
  with pytest.raises(FileExistsError):  # made by someone else since it was removed
    job.folder._write_secret('env.json', {})


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_upload_leaves_nothing_and_says_so(
  submit, monkeypatch, tmp_path, capsys, number
):
  server, arguments = submit
  written = JobFolder._write_secret

  def interrupted(folder, name, values):
    written(folder, name, values)
    os.kill(os.getpid(), number)

  monkeypatch.setattr(JobFolder, '_write_secret', interrupted)
  before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores it
  try:
    with pytest.raises(KeyboardInterrupt):
      launch.main([*arguments, '--', 'train'])
  finally:
    signal.signal(signal.SIGINT, before)
  assert server.requests == [] and not (tmp_path / 'b/one/env.json').exists()
  assert 'nothing was requested; the next submission replaces' in capsys.readouterr().err


def test_a_value_given_in_place_of_a_name_is_not_repeated(submit, capsys):
  _, arguments = submit
  for text in ('HF_TOKEN=hf_hunter2', 'sk-hunter2'):
    with pytest.raises(ValueError, match='--env takes the name of a variable') as refused:
      launch.main([*arguments, f'--env={text}', '--', 'train'])
    assert 'hunter2' not in str(refused.value)
