"""Batch files asked by Apache Beam on its local runner, in an environment of its own."""

# ruff: noqa: F811  a fixture

import collections
import os
import pathlib
import subprocess

import pytest
from annotations import completion, job, lines, question  # noqa: F401

from dss_jax.teacher import store

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PYTHON = pathlib.Path(
  os.environ.get('DSS_BEAM_PYTHON') or REPOSITORY / 'build' / 'beam' / 'bin' / 'python'
)
KEY = 'sk-do-not-tell'
FAULTS = {1: '429', 2: '500', 3: 'drop', 5: 'refusal', 6: '403'}

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason='needs Apache Beam: make beam')


def run(job, batch, *more):
  """Runs the pipeline with this package beside Beam, without what it depends on."""
  path = job.folder / 'path' / 'dss_jax'
  if not path.exists():
    path.mkdir(parents=True)
    for file in (REPOSITORY / 'dss_jax').iterdir():
      (path / file.name).symlink_to(file)
  words = [
    PYTHON, '-m', 'dss_jax.teacher.beam', f'--input={batch}/requests-*.jsonl',
    f'--output={batch}/answers', f'--base_url={job.server.url}', *more,
  ]  # fmt: skip
  environment = {**os.environ, 'PYTHONPATH': str(path.parent), 'OPENAI_API_KEY': KEY}
  environment |= {'PYTHONSAFEPATH': '1'}
  return subprocess.run(words, env=environment, capture_output=True, text=True, cwd=job.folder)


def test_answers_of_beam_are_merged_under_one_budget(job):
  paid, batch = (f'--price_file={job.folder}/prices.json', '--max_usd=1'), job.folder / 'batch'
  job.annotate(*paid, '--split=test')
  before = job.server.requests
  job.annotate(*paid, f'--write_batch={batch}')
  job.server.key = KEY
  faults = {question('train', n): fault for n, fault in FAULTS.items()}
  seen = collections.Counter()

  def fault(number, body):
    asked = body['messages'][-1]['content'].removeprefix('Q: ')
    seen[asked] += 1
    name = faults.get(asked)
    return None if name in ('429', '500') and seen[asked] > 1 else name

  job.server.fault = fault
  done = run(job, batch)
  assert done.returncode == 0, done.stderr
  assert KEY not in done.stdout + done.stderr
  _, said = job.annotate(*paid, f'--read_batch={batch}')
  assert '7 answered, 3 failed' in said and 'refusal: I cannot help with that.' in said
  assert 'HTTP 403: Not allowed.' in said or 'asked for --model' in said
  texts = [one['completions'][0] for one in lines(job.out / 'train.jsonl')]
  assert texts == ['' if n in (3, 5, 6) else completion(n) for n in range(10)]
  assert set(job.server.asked.values()) - {0} == {1}
  kept = store.Store(job.out / 'answers.sqlite')
  ledger = kept.ledger()
  kept.close()
  assert ledger.reserved == 0 and ledger.sent == 14
  # Once more: all lines are there, so nothing is asked; then what failed, as another batch.
  asked, faults = job.server.requests, {}
  assert run(job, batch).returncode == 0 and job.server.requests == asked
  assert before + 10 + 2 == asked
  job.annotate(*paid, '--retry_failed', f'--write_batch={batch}')
  assert run(job, batch).returncode == 0 and job.server.requests == asked + 3
  assert '3 answered, 0 failed' in job.annotate(*paid, f'--read_batch={batch}')[1]


def test_what_was_not_sent_has_no_line_and_is_asked_by_the_next_run(job):
  batch = job.folder / 'batch'
  job.annotate(f'--write_batch={batch}')
  job.server.key = 'another'
  done = run(job, batch)
  assert done.returncode == 1 and '14 requests were not sent' in done.stderr
  assert 'Incorrect API key provided: ***' in done.stderr and KEY not in done.stderr
  assert job.server.requests <= 16
  said = job.annotate(f'--read_batch={batch}', status=2)[1]
  assert 'there are no answers in it' in said
  job.server.key, asked = KEY, job.server.requests
  # The first one alone: it says nothing of the others.
  job.server.fault = lambda number, body: '403' if number == asked else None
  assert run(job, batch).returncode == 0
  assert '13 answered, 1 failed' in job.annotate(f'--read_batch={batch}')[1]
