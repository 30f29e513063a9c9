"""A job's hosts, as processes: what they run, write and say, alone and together."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dss_jax.launch import host
from dss_jax.launch.folder import JobFolder
from dss_jax.launch.job import Job

PATIENCE_S = 60.0


@pytest.fixture
def job(tmp_path, monkeypatch):
  """Submits a job whose `dss` is this script, and starts its hosts; returns both as functions."""
  started = []

  def submit(script, topology='v5e-8', arguments=(), values=None, **more):
    (tmp_path / 'here/dss_jax').mkdir(parents=True)
    (tmp_path / 'here/dss_jax/__init__.py').touch()
    (tmp_path / 'here/dss_jax/__main__.py').write_text(script)  # found first, as a user's module
    monkeypatch.chdir(tmp_path / 'here')
    environment = tuple(values or {})
    made = Job(
      'one', ('train', *arguments), topology, str(tmp_path), environment=environment, **more
    )
    folder = JobFolder(made.folder)
    folder.submit(made, [], ['dss_jax/__init__.py', 'dss_jax/__main__.py'], values or {})
    return folder

  def start(folder, number=0):
    """Fast ones: looks at the bucket all the time."""
    code = 'import sys; from dss_jax.launch import host as h'
    code += '; h.UPLOAD_S = h.GRACE_S = h.REPORT_S = 0.1; sys.exit(h.main(sys.argv[1:]))'
    line = [sys.executable, '-c', code]
    work = tmp_path / f'host-{number}-{len(started)}/job'
    work.parent.mkdir()
    line += [str(folder.path), str(number), str(work)]
    process = subprocess.Popen(line, start_new_session=True)
    started.append(process)
    return process

  yield submit, start
  for process in started:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until(condition):
  end = time.monotonic() + PATIENCE_S
  while not condition():
    assert time.monotonic() < end, 'nothing happened'
    time.sleep(0.02)


def logs(folder):
  return ''.join(folder.logs())


def test_a_command_runs_with_its_files_variables_and_exact_arguments(job):
  submit, start = job
  odd = '--gin.A="it\'s $HOME `id`\n\\ é 中 "'
  script = 'import os, sys; print([sys.argv[1:], os.environ["SECRET"]]); '
  script += 'print(os.environ["JAX_COMPILATION_CACHE_DIR"], flush=True)'
  folder = submit(script, arguments=(odd, ''), values={'SECRET': 'hunter2'})
  assert start(folder).wait(PATIENCE_S) == host.OVER
  expected = repr([['train', odd, ''], 'hunter2'])
  assert logs(folder) == f'{expected}\n{folder.path / "compiled"}\n'  # outlives the host
  assert folder.result() == {'state': 'done', 'exit_code': 0, 'message': ''}
  assert folder.reports()[0]['state'] == 'done'
  assert not (folder.path / 'env.json').exists()


def test_the_log_is_seen_while_the_command_runs_and_in_parts(job, monkeypatch):
  submit, start = job
  folder = submit(
    'import sys, time\n'
    f'sys.stdout.write("x" * {host.PART_BYTES - 1} + "\\nfirst\\n"); sys.stdout.flush()\n'
    'time.sleep(600)'
  )
  process = start(folder)
  until(lambda: 'first' in logs(folder))
  seen = {}
  folder.logs(seen)
  parts = sorted(seen.values())
  assert parts == [6, host.PART_BYTES]
  assert folder.reports()[0]['state'] == 'running'
  first = folder.reports()[0]['time']
  until(lambda: folder.reports()[0]['time'] != first)
  assert process.poll() is None


def test_a_failure_is_tried_again_in_place(job):
  submit, start = job
  folder = submit(
    'import os, sys\n'
    'lives = len(os.listdir("."))\n'
    'open(f"life{lives}", "w").close()\n'
    'sys.exit(0 if lives == 3 else 1)\n'
  )
  assert start(folder).wait(PATIENCE_S) == host.OVER
  assert folder.result()['exit_code'] == 0
  assert logs(folder).count('ended with 1; once more') == 2


@pytest.mark.parametrize(('code', 'lives'), [(2, 1), (3, 3), (74, 3), (137, 3)])
def test_a_failure_that_stays_is_the_jobs(job, code, lives):
  submit, start = job
  ending = f'sys.exit({code})' if code < 128 else f'os.kill(os.getpid(), {code - 128})'
  folder = submit(f'import os, sys\nprint("life"); sys.stdout.flush()\n{ending}')
  assert start(folder).wait(PATIENCE_S) == host.OVER
  result = folder.result()
  assert (result['state'], result['exit_code'], result['message']) == ('failed', code, 'host 0')
  assert logs(folder).count('life') == lives


@pytest.mark.parametrize(
  ('error', 'again'),
  [
    (ConnectionResetError('reset'), True),
    (ValueError('UNAVAILABLE: the bucket'), True),
    (PermissionError('not yours'), False),
  ],
)
def test_a_call_to_the_bucket_that_fails_once_does_not_end_the_job(monkeypatch, error, again):
  waits = []
  monkeypatch.setattr(host.time, 'sleep', waits.append)
  answers = [error, {'state': 'done'}]

  def call():
    answer = answers.pop(0)
    if isinstance(answer, Exception):
      raise answer
    return answer

  if again:
    assert host._patiently(call) == {'state': 'done'} and waits == [1.0]
  else:
    with pytest.raises(type(error)):
      host._patiently(call)


SAVES = """
import pathlib, signal, sys, time
def stop(number, frame):
  print('saved'); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print('training'); sys.stdout.flush()
time.sleep(600)
"""


def test_a_host_that_goes_down_lets_the_command_save_and_does_not_end_the_job(job):
  submit, start = job
  folder = submit(SAVES)
  process = start(folder)
  until(lambda: 'training' in logs(folder))
  process.send_signal(signal.SIGTERM)
  assert process.wait(PATIENCE_S) == host.GOING_DOWN
  assert folder.result() is None
  assert folder.reports()[0]['state'] == 'stopped'
  assert 'saved' in logs(folder)


def test_a_job_that_is_asked_to_stop_saves_and_is_over(job):
  submit, start = job
  folder = submit(SAVES)
  process = start(folder)
  until(lambda: 'training' in logs(folder))
  folder.ask_to_stop()
  assert process.wait(PATIENCE_S) == host.OVER
  assert folder.result()['state'] == 'stopped' and folder.result()['exit_code'] == 0
  assert 'saved' in logs(folder)


def test_a_job_that_is_over_is_not_run_again(job):
  submit, start = job
  folder = submit('print("again")')
  folder.finish('done', 0)
  assert start(folder).wait(PATIENCE_S) == host.OVER
  assert logs(folder) == ''


# ---------------------------------------------------------------- several hosts

WAITS_FOR_A_FILE = """
import os, pathlib, sys, time
print('running'); sys.stdout.flush()
while not pathlib.Path(os.environ['GO']).exists():
  time.sleep(0.05)
"""


def test_the_job_is_done_when_every_host_is(job, tmp_path):
  submit, start = job
  folder = submit(WAITS_FOR_A_FILE, 'v5e-16', values={'GO': str(tmp_path / 'go')})
  assert folder.job().machine.hosts == 4
  processes = [start(folder, number) for number in range(4)]
  until(lambda: len(folder.reports()) == 4)
  assert folder.result() is None
  (tmp_path / 'go').touch()
  assert [process.wait(PATIENCE_S) for process in processes] == [host.OVER] * 4
  assert folder.result()['state'] == 'done'


def test_a_host_that_was_told_to_go_down_keeps_the_others_from_being_done(job):
  """All end with 0, having saved together; the job is to go on once the host is back."""
  submit, start = job
  script = SAVES.replace("print('saved')", "print('saved'); open('saved', 'w')")
  script = f'import os, sys\nif os.path.exists("saved"): sys.exit(0)\n{script}'
  folder = submit(script, 'v4-64', restarts=1)  # eight hosts, of which two are played
  told = start(folder, 1)
  other = start(folder, 0)
  for number in range(2, 8):
    folder.report(number, state='done', exit_code=0)
  until(lambda: logs(folder).count('training') == 2)
  told.send_signal(signal.SIGTERM)
  assert told.wait(PATIENCE_S) == host.GOING_DOWN
  assert folder.reports()[1]['state'] == 'stopped'
  os.kill(_child(other.pid), signal.SIGTERM)  # what JAX's preemption service brings about
  until(lambda: 'ended with 0; once more' in logs(folder))
  assert folder.result() is None or folder.result()['state'] != 'done'


def test_one_hosts_last_failure_ends_the_job_for_all(job):
  submit, start = job
  script = 'import os, sys, time\nif os.environ["BAD"] in os.getcwd(): sys.exit(2)\ntime.sleep(3)'
  folder = submit(script, 'v5e-16', values={'BAD': 'host-3-'})
  processes = [start(folder, number) for number in range(4)]
  assert [process.wait(PATIENCE_S) for process in processes] == [host.OVER] * 4
  result = folder.result()
  assert (result['state'], result['exit_code'], result['message']) == ('failed', 2, 'host 3')


def test_a_host_does_not_wait_for_ever_for_one_that_has_failed(job):
  """Its command hangs in a collective, and does not hear."""
  submit, start = job
  deaf = 'import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
  folder = submit(deaf + SAVES.replace('signal.signal', 'lambda *_: 0  # signal.signal'), 'v5e-16')
  process = start(folder)
  until(lambda: 'training' in logs(folder))
  folder.finish('failed', 1, 'host 3')
  assert process.wait(PATIENCE_S) == host.OVER
  assert folder.result()['message'] == 'host 3'


def _child(pid: int) -> int:
  return int(subprocess.check_output(['pgrep', '-P', str(pid)]).split()[0])


def test_reports_are_whole_at_any_moment(job):
  """They are read by others while they are written."""
  submit, _ = job
  folder = submit('')
  folder.report(0, state='running', text='x' * 10000)
  for path in (folder.path / 'hosts').iterdir():
    json.loads(path.read_text())
  assert [path.name for path in (folder.path / 'hosts').iterdir()] == ['0.json']
