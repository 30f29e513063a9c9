"""Cloud TPU through the real client, against a server on loopback: nothing billed is left."""

import json
import os
import signal

import grpc
import pytest

pytest.importorskip('google.cloud.tpu_v2', reason="needs the extra 'launch'")

import tpu_jobs
from fake_tpu import READY
from google.cloud import tpu_v2

from dss_jax import launch
from dss_jax.launch import tpu_vm, watch
from dss_jax.launch.folder import JobFolder
from dss_jax.launch.job import Job

pytest_plugins = ('tpu_jobs',)  # the fixtures `make` and `submit`


def test_a_job_is_asked_for_waited_for_and_deleted(make, capsys):
  server, job = make(READY, ends=6)
  assert job.submit() == 0
  assert server.resources == {}
  assert server.calls.count('CreateQueuedResource') == 1
  told = capsys.readouterr().err
  states = ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE, node READY', 'done, exit code 0']
  places = [told.index(state) for state in states]
  assert places == sorted(places)


def test_the_request_is_what_the_api_knows(make):
  server, job = make(READY, ends=3, service_account='a@b.iam')
  job.submit()
  request = server.requests[0]
  node = request.queued_resource.tpu.node_spec[0].node
  assert request.queued_resource_id == 'cqa' and request.request_id
  assert (node.accelerator_type, node.runtime_version) == ('v5litepod-8', 'v2-alpha-tpuv5-lite')
  assert node.scheduling_config.spot and 'spot' in request.queued_resource
  assert node.service_account.email == 'a@b.iam'
  printed = tpu_v2.CreateQueuedResourceRequest(tpu_vm.request(job.job))
  printed.request_id = request.request_id
  assert printed == request


def test_not_spot_is_not_spot():
  plain = Job('cqa', ('train',), 'v4-8', 'gs://b', 'p', 'z')
  assert 'spot' not in tpu_vm.request(plain)['queued_resource']


@pytest.mark.parametrize(
  'lost',
  [
    'ACTIVE/PREEMPTED',
    'ACTIVE/STOPPED',
    'ACTIVE/REPAIRING',
    'ACTIVE/UNKNOWN',
    'ACTIVE/CREATING',
    'ACTIVE',
    'SUSPENDING',
    'SUSPENDED',
    'FAILED:no quota',
  ],
)
def test_what_is_not_ready_is_lost_and_made_anew(make, lost, capsys):
  server, job = make([*READY, lost], READY, ends=8)
  assert job.submit() == 0
  assert server.calls.count('CreateQueuedResource') == 2
  assert server.calls.count('DeleteQueuedResource') == 2
  assert server.resources == {}
  told = capsys.readouterr().err
  assert f'lost (queued resource {lost.partition(":")[0].partition("/")[0]}' in told
  assert ('no quota' in told) == ('no quota' in lost)


def test_a_resource_that_someone_deleted_is_made_anew(make):
  server, job = make(READY, READY, ends=8)
  looked = job.sleep

  def sleep(seconds):
    looked(seconds)
    if len(job.waits) == 3:
      server.resources.clear()

  job.sleep = sleep
  assert job.submit() == 0
  assert server.calls.count('CreateQueuedResource') == 2
  assert server.resources == {}


def test_tries_are_bounded_and_further_and_further_apart(make):
  server, job = make(['FAILED:no quota'])
  with pytest.raises(watch.Lost, match=r'cqa was lost 4 times \(--retries\).*FAILED: no quota'):
    job.submit()
  assert server.calls.count('CreateQueuedResource') == 4
  assert server.resources == {}
  pauses = [seconds for seconds in job.waits if seconds != watch.PERIOD_S]
  assert pauses == [30.0, 60.0]


def test_after_a_preemption_no_time_is_lost(make):
  _, job = make([*READY, 'ACTIVE/PREEMPTED'], READY, ends=10)
  assert job.submit() == 0
  assert set(job.waits) == {watch.PERIOD_S}


def test_hosts_that_fall_silent_are_lost(make, monkeypatch):
  server, job = make(READY, READY, ends=12)
  now = [0.0]
  monkeypatch.setattr(watch.time, 'monotonic', lambda: now[0])
  wait = job.sleep

  def sleep(seconds):
    wait(seconds)
    now[0] += watch.SILENCE_S / 3 + 1 if len(job.waits) > 4 else 0
    if len(job.waits) < 8:  # a host that reports is not silent
      job.folder.report(0, state='running', time=now[0])

  job.sleep = sleep
  assert job.submit() == 0
  assert server.calls.count('CreateQueuedResource') == 2


def test_the_exit_code_is_the_jobs_and_its_log_is_shown(make, capsys):
  server, job = make(READY)
  wait = job.sleep

  def sleep(seconds):
    wait(seconds)
    job.folder.write_log(
      't-host-0-00000', b'step 1\n' if len(job.waits) < 3 else b'step 1\nstep 2\n'
    )
    if len(job.waits) == 4:
      job.folder.write_log('t-host-0-00001', b'step 3\n')
      job.folder.finish('failed', 3, 'host 0')

  job.sleep = sleep
  assert job.submit() == 3
  assert server.resources == {}
  assert capsys.readouterr().out == 'step 1\nstep 2\nstep 3\n'


# ---------------------------------------------------------------- nothing billed is left


@pytest.mark.parametrize('at', [1, 3, 5])
@pytest.mark.parametrize('error', [KeyboardInterrupt(), MemoryError('x')])
def test_any_exception_while_it_is_watched_deletes(make, at, error):
  server, job = make(READY)

  def sleep(seconds):
    job.waits.append(seconds)
    if len(job.waits) == at:
      raise error

  job.sleep = sleep
  with pytest.raises(type(error)):
    job.submit()
  assert server.requests and server.resources == {}


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_this_process_deletes(make, number):
  server, job = make(READY)
  before = signal.getsignal(number)
  job.sleep = lambda seconds: os.kill(os.getpid(), number)
  with pytest.raises(KeyboardInterrupt):
    job.submit()
  assert server.requests and server.resources == {}
  assert signal.getsignal(number) == before


def test_an_answer_that_is_lost_deletes_what_was_made(make, monkeypatch):
  """The server makes the resource, the client never hears of it."""
  server, job = make(READY)
  create = job.cloud.create

  def create_and_fail(made):
    create(made)
    raise OSError('the network is down')

  monkeypatch.setattr(job.cloud, 'create', create_and_fail)
  with pytest.raises(OSError, match='network'):
    job.submit()
  assert server.requests and server.resources == {}


def test_a_request_that_is_refused_is_one_line(make):
  server, job = make(READY)
  server.faults['CreateQueuedResource'] = [grpc.StatusCode.PERMISSION_DENIED]
  with pytest.raises(OSError, match='Cloud TPU: no CreateQueuedResource for you'):
    job.submit()
  assert server.resources == {}


def test_a_request_that_is_refused_after_a_preemption_leaves_nothing(make):
  server, job = make([*READY, 'ACTIVE/PREEMPTED'])
  wait = job.sleep

  def sleep(seconds):
    wait(seconds)
    server.faults['CreateQueuedResource'] = [grpc.StatusCode.RESOURCE_EXHAUSTED] * 9

  job.sleep = sleep
  watched = []
  with pytest.raises(watch.Lost):
    watched.append(job.submit())
  assert server.resources == {} and not watched


def test_passing_faults_of_the_network_do_not_end_a_job(make):
  server, job = make(READY, ends=9)
  server.faults['GetQueuedResource'] = [grpc.StatusCode.UNAVAILABLE]
  server.faults['GetNode'] = [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAUTHENTICATED]
  assert job.submit() == 0
  assert server.calls.count('CreateQueuedResource') == 1
  assert server.resources == {}


def test_faults_that_do_not_pass_delete(make):
  server, job = make(READY)
  server.faults['GetQueuedResource'] = [grpc.StatusCode.UNAUTHENTICATED] * (watch.FAULTS + 1)
  with pytest.raises(OSError, match='no GetQueuedResource for you'):
    job.submit()
  assert server.requests and server.resources == {}


def test_what_cannot_be_deleted_is_said_aloud(make, capsys):
  server, job = make(READY)
  tpu_jobs.interrupted_and_left(server, job)
  told = capsys.readouterr().err
  assert 'COULD NOT DELETE cqa' in told
  assert 'gcloud compute tpus queued-resources delete cqa --project=p --zone=z --force' in told


def test_a_resource_of_that_name_that_is_not_ours_is_left_alone(make):
  server, job = make(READY)
  server.resources['cqa'] = ['ACTIVE/READY']
  with pytest.raises(tpu_vm.AlreadyExists, match='dss launch watch'):
    job.check_free()
  with pytest.raises(tpu_vm.AlreadyExists, match='dss launch watch'):
    job.submit()
  assert 'cqa' in server.resources and 'DeleteQueuedResource' not in server.calls


def test_detached_leaves_it_running_and_attached_ctrl_c_too(make):
  server, job = make(READY)
  assert job.submit(detach=True) == 0
  assert list(server.resources) == ['cqa']

  def sleep(seconds):
    raise KeyboardInterrupt

  job.sleep = sleep
  with pytest.raises(KeyboardInterrupt):
    job.attach()
  assert list(server.resources) == ['cqa']


def test_what_a_second_watcher_made_is_left_alone(make, monkeypatch):
  server, job = make(['ACTIVE/PREEMPTED'], READY)
  job.cloud.create(job.job)
  delete = job.cloud.delete

  def delete_and_make(name):
    delete(name)
    server.resources[name] = ['ACTIVE/READY']  # the other watcher was quicker

  monkeypatch.setattr(job.cloud, 'delete', delete_and_make)
  with pytest.raises(tpu_vm.AlreadyExists, match='dss launch watch'):
    job.attach()
  assert list(server.resources) == ['cqa']


def test_who_leaves_it_running_is_told_how_to_delete_it(make, capsys):
  _, job = make(READY)
  job.submit(detach=True)

  def sleep(seconds):
    os.kill(os.getpid(), signal.SIGTERM)

  job.sleep = sleep
  with pytest.raises(KeyboardInterrupt):
    job.attach()
  told = capsys.readouterr().err.splitlines()
  assert 'cqa is left running; `dss launch watch' in told[1]
  assert 'cqa continues and is billed' in told[-1]
  for line in (told[1], told[-1]):
    assert f'`dss launch delete {job.job.folder}` deletes it' in line


def test_control_characters_of_a_log_are_shown(make, capsys):
  _, job = make(READY, ends=2)
  job.folder.write_log('a', b'step 1\n\x1b[2J\x1b]0;title\x07 \xe2\x80\xae\n')
  assert job.submit() == 0
  said = capsys.readouterr()
  assert said.out == 'step 1\n\\x1b[2J\\x1b]0;title\\x07 \\u202e\n'
  launch.main(['logs', str(job.folder.path)])
  assert capsys.readouterr().out == said.out
  job.folder.report(0, state='\x1b[2J')
  job.cloud.create(job.job)
  launch.main(['status', str(job.folder.path)])
  assert 'host 0: \\x1b[2J' in capsys.readouterr().out


# ---------------------------------------------------------------- the command line


def test_actions_on_a_submitted_job(submit, tmp_path, capsys):
  server, arguments = submit
  folder = f'{tmp_path}/b/one'
  command = ['--', 'train', '--model_dir=$(x) `y`\n"']
  assert launch.main([*arguments, '--detach', *command]) == 0
  job = JobFolder(folder)
  assert job.job().command == ('train', '--model_dir=$(x) `y`\n"')
  assert job.environment() == {'SECRET': 'hunter2'}
  assert os.stat(f'{folder}/env.json').st_mode & 0o077 == 0

  with pytest.raises(ValueError, match='does not run'):
    launch.main(['stop', folder])
  for _ in READY:
    assert launch.main(['status', folder]) == 0
  launch.main(['stop', folder])
  assert job.stop_asked()
  job.report(0, state='running', exit_code=None, time='2026-01-01T00:00:00Z')
  job.write_log('a', b'step 1\n')
  launch.main(['status', folder])
  launch.main(['logs', folder])
  assert launch.main(['delete', folder]) == 0
  assert server.resources == {} and job.environment() == {}
  assert launch.main(['watch', folder]) == 130  # and makes nothing anew
  launch.main(['status', folder])
  said = capsys.readouterr()
  for expected in (
    'ACTIVE, node READY',
    'host 0: running',
    'step 1',
    'over: deleted, exit code 130',
  ):
    assert expected in said.out
  assert server.calls.count('CreateQueuedResource') == 1
  assert 'hunter2' not in said.out + said.err + str(server.requests)
  assert 'hunter2' not in (tmp_path / 'b/one/job.json').read_text()


def test_a_second_submission_does_not_touch_the_first(submit, tmp_path):
  server, arguments = submit
  launch.main([*arguments, '--detach', '--', 'train', '--a=1'])
  with pytest.raises(ValueError, match='has a queued resource one already'):
    launch.main([*arguments, '--', 'train', '--a=2'])
  assert JobFolder(f'{tmp_path}/b/one').job().command[1] == '--a=1'
  assert list(server.resources) == ['one']


def test_a_second_submission_in_another_zone_does_not_touch_the_first(submit, tmp_path):
  _, arguments = submit
  launch.main([*arguments, '--detach', '--', 'train', '--a=1'])
  with pytest.raises(ValueError, match='z has a queued resource one already'):
    watch.Watch(
      Job('one', ('train',), 'v5e-8', f'{tmp_path}/b', 'p', 'other'),
      JobFolder(f'{tmp_path}/b/one'),
      Elsewhere('p', 'other'),
    ).check_free()


class Elsewhere(tpu_vm.CloudTpu):
  """A zone 'other' in which there is nothing; the fake has one zone."""

  def look(self, name):
    return tpu_vm.Seen(tpu_vm.NOT_FOUND) if self.parent.endswith('other') else super().look(name)


def test_without_submit_it_is_printed_and_nothing_is_called(submit, capsys, tmp_path):
  server, arguments = submit
  assert launch.main([*arguments[:-1], '--', 'train', '--model_dir=x']) == 0
  said = capsys.readouterr().out
  assert server.calls == [] and not (tmp_path / 'b').exists()
  assert 'hunter2' not in said and 'values of SECRET' in said
  start = said.index('CreateQueuedResource: ') + len('CreateQueuedResource: ')
  request, _ = json.JSONDecoder().raw_decode(said[start:])
  job = Job('one', ('train', '--model_dir=x'), 'v5e-8', f'{tmp_path}/b', 'p', 'z')
  node = request['queued_resource']['tpu']['node_spec'][0]['node']
  node['metadata']['startup-script'] = tpu_vm.startup_script(job)
  assert request == tpu_vm.request(job)
  assert tpu_vm.startup_script(job) in said
