"""The process of `dss serve`: what it refuses to start with, and how SIGTERM ends it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types

import httpx2
import programs
import pytest
import run_folders
import served
import teacher_server

from dss_jax import methods
from dss_jax.commands import serve
from dss_jax.serving import server
from dss_jax.settings.errors import ConfigError

INPUT = run_folders.INPUTS[0]
WAIT_S = 120
ASKED = {'input': INPUT, 'rationale': True, 'stream': True}


@pytest.fixture
def slow_teacher():
  """A teacher that holds answers back until `go` is set."""
  with teacher_server.serve({INPUT: 'Rain is water. The answer is yes.'}) as teacher:
    teacher.fault = lambda number, body: 'slow:1.5'
    yield teacher


def asking(url: str, texts: list[str]) -> threading.Thread:
  """A thread that reads a stream of a server to its end."""

  def read():
    try:
      texts.append(httpx2.post(f'{url}/predict', json=ASKED, timeout=WAIT_S).text)
    except httpx2.HTTPError as error:
      texts.append(type(error).__name__)

  thread = threading.Thread(target=read)
  thread.start()
  return thread


@contextlib.contextmanager
def started(log, *flags: str, first: str = ''):
  """A process of `dss serve`, which runs the code `first` before; yields it and its address."""
  code = f'import sys, time; {first}\nfrom dss_jax.commands import serve; serve.main(sys.argv[1:])'
  program = ['-c', code] if first else ['-m', 'dss_jax', 'serve']
  with log.open('w') as errors:
    process = subprocess.Popen(
      [sys.executable, *program, served.run_of('dss'), '--port=0', '--batch_size=2', *flags],
      env={**os.environ, **programs.VARIABLES}, stderr=errors, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
  try:
    yield process, re.search(r'at (http://127\.0\.0\.1:\d+) and', process.stdout.readline())[1]
  finally:
    process.kill()
    process.wait()
    process.stdout.close()


def behind(teacher) -> list[str]:
  return ['--defer_below=1', '--teacher_model=big', f'--teacher={teacher.url}']


def test_sigterm_finishes_what_was_accepted_and_refuses_what_is_new(slow_teacher, tmp_path):
  with started(tmp_path / 'log', *behind(slow_teacher)) as (process, url):
    assert process.stdout.readline() == 'ready\n'
    assert httpx2.get(f'{url}/ready').status_code == 200
    texts: list[str] = []
    thread = asking(url, texts)
    served.until(lambda: slow_teacher.requests == 1)
    process.send_signal(signal.SIGTERM)
    served.until(lambda: httpx2.get(f'{url}/ready').status_code == 503)
    refused = httpx2.post(f'{url}/predict', json=ASKED)
    assert refused.status_code == 503 and refused.headers['retry-after'] == '1'
    thread.join()
    assert 'event: end' in texts[0] and 'Rain is water.' in texts[0]
    assert process.wait(WAIT_S) == 0
  (said,) = (tmp_path / 'log').read_text().splitlines()  # and nothing more unless asked for
  assert said.startswith('run_folders_dss: the data set is not known here') and '--module' in said


def test_sigterm_ends_within_its_time_with_a_stream_open(slow_teacher, tmp_path):
  slow_teacher.fault = lambda number, body: 'hang'
  first = 'from dss_jax.serving import engine; engine.Engine.compile = lambda *given: None'
  flags = ['--drain_seconds=2', *behind(slow_teacher)]
  texts: list[str] = []
  with started(tmp_path / 'log', *flags, first=first) as (process, url):
    assert process.stdout.readline() == 'ready\n'
    thread = asking(url, texts)
    served.until(lambda: slow_teacher.requests == 1)
    started_at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0
    assert 0.9 < time.monotonic() - started_at < 5
    thread.join()
  assert 'event: end' not in texts[0]


def test_sigterm_ends_within_its_time_while_it_compiles_and_needs_no_openai(tmp_path):
  first = (
    "sys.modules['openai'] = None; from dss_jax.serving import engine; "
    'engine.Engine.compile = lambda *given: time.sleep(600)'
  )
  with started(tmp_path / 'log', '--drain_seconds=2', first=first) as (process, url):
    served.until(lambda: httpx2.get(f'{url}/health').status_code == 200)
    assert httpx2.get(f'{url}/ready').status_code == 503
    started_at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0
    assert time.monotonic() - started_at < 5


# ---------------------------------------------------------------- what it does not start with


def test_other_machines_are_let_in_only_with_a_key(monkeypatch):
  monkeypatch.delenv(server.KEY_VARIABLE, raising=False)
  for host in ('127.0.0.1', '127.9.9.9', '::1', 'localhost'):
    assert server.key_for(host) == ''
  for host in ('0.0.0.0', '::', '192.168.1.2', 'student.example'):
    with pytest.raises(ConfigError, match='set DSS_API_KEY in the environment'):
      server.key_for(host)
  for key in ('short', 'é' * 20, 'two\nlines of a long key'):
    monkeypatch.setenv(server.KEY_VARIABLE, key)
    with pytest.raises(ConfigError, match='at least 16 ASCII letters') as caught:
      server.key_for('0.0.0.0')
    assert key not in str(caught.value)
  monkeypatch.setenv(server.KEY_VARIABLE, ' a key of many letters ')
  assert server.key_for('0.0.0.0') == server.key_for('::1') == 'a key of many letters'


def test_a_port_that_is_taken_is_said():
  with server.listen('127.0.0.1', 0) as one:
    port = one.getsockname()[1]
    with pytest.raises(ConfigError, match=f'PORT {port}: .*choose another PORT'):
      server.listen('127.0.0.1', port)


def test_labels_and_data_are_those_of_dss_predict(tmp_path, monkeypatch, capsys):
  (tmp_path / 'mine_served.py').write_text(
    'import run_folders\nimport seqio\nimport tensorflow as tf\n'
    'from dss_jax.tasks.registration import register_dataset\n'
    'read = lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(run_folders.ROWS)\n'
    "source = seqio.FunctionDataSource(read, ['test'])\n"
    "register_dataset('mine_served', source, choices=run_folders.CHOICES)\n"
  )
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('TFDS_DATA_DIR', 'elsewhere')
  own = methods.Choices(('a', 'b'))
  run = types.SimpleNamespace(
    data=types.SimpleNamespace(mixture_or_task_name='mine_served_dss'), choices=own,
    data_dir=str(tmp_path),
  )  # fmt: skip
  loaded = types.SimpleNamespace(
    run=run, config=types.SimpleNamespace(module=None), method=methods.get('pinto')
  )
  assert serve._dataset(loaded) is None, 'the module is not imported'
  said = capsys.readouterr().err
  assert said.startswith('mine_served_dss: the data set is not known here') and '--module' in said
  assert os.environ['TFDS_DATA_DIR'] == str(tmp_path)
  assert serve._choices(loaded, None) == own
  loaded.config.module = 'mine_served'
  info = serve._dataset(loaded)
  assert info.name == 'mine_served' and not capsys.readouterr().err
  assert serve._choices(loaded, info) == own, 'the method chooses among those of its run'
  loaded.method, run.choices = methods.get('dss'), None
  assert serve._choices(loaded, info) == run_folders.CHOICES


def test_a_reader_of_ready_that_is_gone_is_no_failure(monkeypatch):
  def broken(*texts, flush):
    raise BrokenPipeError

  monkeypatch.setattr(server, 'print', broken, raising=False)
  engine = types.SimpleNamespace(compile=lambda is_stopped: None)
  process = server._Process(types.SimpleNamespace(engine=engine), server.Limits(1, 1, 2, False))
  process._compile(None)
  assert process._failure is None and process.why_not() == ''


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--port=70000'], 'PORT is from 0 to 65535, not 70000'),
    (['--batch_size=1'], 'BATCH_SIZE is from 2 to 4096, not 1'),
    (['--drain_seconds=0.5'], 'DRAIN_SECONDS is from 2'),
    (['--defer_below=0.5'], 'DEFER_BELOW and TEACHER go together'),
    (['--teacher=http://h/v1'], 'DEFER_BELOW and TEACHER go together'),
    (
      ['--defer_below=2', '--teacher=http://h/v1', '--teacher_model=m'],
      'DEFER_BELOW is above 0 and at most 1',
    ),
    (['--defer_below=0.5', '--teacher=http://h/v1'], 'TEACHER needs TEACHER_MODEL'),
    (['--host=0.0.0.0'], 'set DSS_API_KEY'),
    ([], 'holds no run'),
  ],
)
def test_settings_that_do_not_fit_are_refused_at_once(tmp_path, monkeypatch, arguments, message):
  monkeypatch.delenv(server.KEY_VARIABLE, raising=False)
  with pytest.raises(ValueError, match=message):
    serve.main([str(tmp_path), *arguments])
