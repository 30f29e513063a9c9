"""A key is in no file, log, message or error, whatever the server does with it."""

# ruff: noqa: F811  a fixture

import os
import subprocess
import sys
import types

import annotations
import pytest
from annotations import job  # noqa: F401

from dss_jax.teacher import answers

KEY = 'sk-5f0e2c-do-not-tell'


def everything_in(folder):
  return b''.join(path.read_bytes() for path in folder.rglob('*') if path.is_file())


def test_a_key_goes_to_the_server_and_nowhere_else(job, monkeypatch):
  job.server.key = KEY
  monkeypatch.setenv('MY_KEY', KEY)
  faults = ['500', 'broken_json', 'refusal', 'too_long', None, None]
  job.server.fault = lambda number, body: faults[number] if 0 < number < 6 else None
  batch = job.folder / 'batch'
  job.annotate('--api_key_env=MY_KEY', '--preview=2')
  texts = [*job.annotate('--api_key_env=MY_KEY')]
  job.annotate('--api_key_env=MY_KEY', '--model=other', f'--write_batch={batch}')
  assert len(job.server.asked) > 10  # it was taken
  assert KEY.encode() not in everything_in(job.folder) and KEY not in ''.join(texts)


def test_a_server_that_repeats_the_key_is_quoted_without_it(job, monkeypatch):
  job.server.key = 'another'
  monkeypatch.setenv('OPENAI_API_KEY', KEY)
  said = job.annotate(status=2)[1]
  assert 'Incorrect API key provided: ***.' in said and 'OPENAI_API_KEY' in said
  assert KEY not in said and KEY.encode() not in everything_in(job.folder)


def test_a_long_message_is_not_cut_within_the_key():
  for before in range(answers.MAX_MESSAGE - len(KEY) - 10, answers.MAX_MESSAGE + 5):
    said = answers.error_message({'error': 'x' * before + KEY}, '', KEY)
    assert KEY[:5] not in said and len(said) <= answers.MAX_MESSAGE + 3


def test_the_process_that_prepares_gets_no_key(job, monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', KEY)
  monkeypatch.setenv('MY_KEY', KEY)
  seen = []

  def run(words, env):
    seen.append(env)
    return types.SimpleNamespace(returncode=0)

  monkeypatch.setattr(subprocess, 'run', run)
  job.annotate('--api_key_env=MY_KEY', f'--data_dir={job.folder}/data')
  assert 'PATH' in seen[0] and KEY not in seen[0].values()


@pytest.mark.parametrize('log', ['debug', 'info'])
def test_debug_logs_and_tracebacks_have_no_key(job, log):
  job.server.key = KEY if log == 'debug' else 'another'
  words = [
    sys.executable, '-m', 'dss_jax', 'annotate', '--dataset=svamp', '--split=test',
    f'--raw_dir={job.folder / "raw"}', f'--output={job.out}', f'--model={annotations.MODEL}',
    f'--base_url={job.server.url}',
  ]  # fmt: skip
  environment = {**os.environ, 'OPENAI_LOG': log, 'OPENAI_API_KEY': KEY, 'DSS_TRACEBACK': '1'}
  done = subprocess.run(words, env=environment, capture_output=True)
  assert (done.returncode == 0) == (log == 'debug')
  assert b'HTTP Request' in done.stderr or b'Traceback' in done.stderr
  assert KEY.encode() not in done.stdout + done.stderr + everything_in(job.folder)
