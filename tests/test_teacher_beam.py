"""Batch files asked by Apache Beam on its local runner, in an environment of its own."""

# ruff: noqa: F811  a fixture

import os
import pathlib
import subprocess

import pytest
from annotations import completion, job, lines  # noqa: F401

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PYTHON = pathlib.Path(
  os.environ.get('DSS_BEAM_PYTHON') or REPOSITORY / 'build' / 'beam' / 'bin' / 'python'
)
KEY = 'sk-do-not-tell'

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
  paid, batch = f'--price_file={job.folder}/prices.json', job.folder / 'batch'
  job.annotate(paid, '--max_usd=1', '--split=test')
  asked = job.server.requests
  job.annotate(paid, '--max_usd=1', f'--write_batch={batch}')
  job.server.key = KEY
  faults = {asked + 1: '429', asked + 2: '500', asked + 3: 'drop', asked + 5: 'refusal'}
  job.server.fault = lambda number, body: faults.get(number)
  done = run(job, batch)
  assert done.returncode == 0, done.stderr
  assert KEY not in done.stdout + done.stderr
  _, said = job.annotate(paid, '--max_usd=1', f'--read_batch={batch}')
  assert '9 answered, 1 failed' in said and 'refusal: I cannot help with that.' in said
  texts = [one['completions'][0] for one in lines(job.out / 'train.jsonl')]
  assert sorted(texts)[1:] == sorted({completion(n) for n in range(10)} & set(texts))
  assert set(job.server.asked.values()) == {1}


def test_a_wrong_key_is_an_error_of_each_line_and_asks_once(job):
  job.annotate(f'--write_batch={job.folder}/batch')
  job.server.key = 'another'
  assert run(job, job.folder / 'batch').returncode == 0
  assert job.server.requests <= 16
  said = job.annotate(f'--read_batch={job.folder}/batch', status=2)[1]
  assert '14 failed' in said and 'Incorrect API key provided: ***' in said and KEY not in said
