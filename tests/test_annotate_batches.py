"""Batch files: written within limits, answered elsewhere, read back once, under one budget."""

# ruff: noqa: F811  a fixture

import json
import pathlib
import shutil

import pytest
from annotations import completion, job, lines, question  # noqa: F401

from dss_jax.teacher import batches, owners, store

KEYS = ('custom_id', 'method', 'url', 'body')


def parts(folder):
  return sorted(folder.glob('requests-*.jsonl'))


def answer(line, text=None, **more):
  """What a batch API writes for a request."""
  asked = line['body']['messages'][-1]['content'].removeprefix('Q: ')
  number = next(n for n in range(10) if f'has {n} ' in asked)
  choice = {'message': {'content': text or completion(number)}, 'finish_reason': 'stop'}
  usage = {'prompt_tokens': 100, 'completion_tokens': 10}
  body = {'choices': [choice], 'usage': usage}
  response = {'status_code': 200, 'request_id': 'r', 'body': body}
  return {'id': 'b', 'custom_id': line['custom_id'], 'response': response, 'error': None, **more}


def write_lines(path, values):
  path.write_text(''.join(f'{json.dumps(one)}\n' for one in values))


def requests_of(folder):
  return [line for part in parts(folder) for line in lines(part)]


@pytest.fixture
def batch(job):
  folder = job.folder / 'batch'
  job.annotate(f'--write_batch={folder}')
  return folder


def test_all_requests_are_written_in_the_form_of_the_batch_api(job, batch):
  written = requests_of(batch)
  assert len(written) == 14 and all(tuple(line) == KEYS for line in written)
  assert {line['url'] for line in written} == {'/v1/chat/completions'}
  assert all(len(line['custom_id']) <= 64 for line in written)
  assert job.server.requests == 0
  job.annotate('--output=' + str(job.folder / 'online'))
  bodies = [json.dumps(body, sort_keys=True) for body in job.server.bodies]
  assert sorted(bodies) == sorted(json.dumps(line['body'], sort_keys=True) for line in written)


def test_parts_hold_no_more_than_the_api_takes(job, monkeypatch):
  monkeypatch.setattr(batches, 'MOST_REQUESTS', 6)
  first = job.folder / 'first'
  job.annotate(f'--write_batch={first}')
  assert [len(lines(part)) for part in parts(first)] == [6, 6, 2]
  job.annotate(f'--give_up_batch={first}')
  small = job.folder / 'small'
  job.annotate(f'--write_batch={small}', '--part=5')
  assert [len(lines(part)) for part in parts(small)] == [5, 5, 4]
  job.annotate(f'--give_up_batch={small}')
  shutil.rmtree(first)
  size = 15_000
  monkeypatch.setattr(batches, 'MOST_BYTES', size)
  job.annotate(f'--write_batch={first}')
  assert len(parts(first)) > 3 and all(part.stat().st_size <= size for part in parts(first))
  assert len(requests_of(first)) == 14


def test_answers_are_read_in_any_order_and_only_once(job, batch):
  answers = [answer(line) for line in requests_of(batch)]
  write_lines(batch / 'output.jsonl', answers[::-1])
  out, said = job.annotate(f'--read_batch={batch}')
  assert '14 answered, 0 failed' in said and json.loads(out)['statuses'] == {'ok': 14}
  assert lines(job.out / 'train.jsonl')[7]['completions'] == [completion(7)]
  assert '14 were read before' in job.annotate(f'--read_batch={batch}')[1]
  job.annotate()
  assert job.server.requests == 0


def test_what_is_in_a_batch_is_not_asked_until_it_is_given_up(job, batch):
  said = job.annotate(status=2)[1]
  assert f'14 are in batch files (of {batch}: --read_batch' in said and job.server.requests == 0
  job.annotate(f'--write_batch={job.folder / "again"}')
  assert not parts(job.folder / 'again')
  shutil.move(batch, job.folder / 'elsewhere')  # to be sent from there
  job.annotate(status=2)
  assert job.server.requests == 0
  said = job.annotate(f'--give_up_batch={job.folder}/x', status=2)[1]
  assert f'expected a folder whose answers are awaited, {batch}.' in said
  assert '14 requests' in job.annotate(f'--give_up_batch={batch}')[1]
  job.annotate()
  assert job.server.requests == 14


def test_parts_that_were_taken_away_are_not_written_again(job, batch):
  taken = job.folder / 'taken'
  taken.mkdir()
  for part in parts(batch):
    part.rename(taken / part.name)
  job.annotate(f'--write_batch={batch}')
  assert not parts(batch)
  write_lines(batch / 'output.jsonl', [answer(line) for line in requests_of(taken)])
  assert '14 answered' in job.annotate(f'--read_batch={batch}')[1]


def test_the_failure_of_a_batch_is_not_that_of_a_later_one(job, batch):
  error = {'code': 'batch_expired', 'message': 'This request expired.'}
  first = requests_of(batch)
  write_lines(batch / 'error.jsonl', [answer(line, response=None, error=error) for line in first])
  job.annotate(f'--read_batch={batch}', status=2)
  job.annotate('--retry_failed', f'--write_batch={batch}')
  write_lines(  # as if the file had grown meanwhile
    batch / 'error.jsonl',
    [answer(line, response=None, error={**error, 'id': n}) for n, line in enumerate(first)],
  )
  said = job.annotate(f'--read_batch={batch}', status=2)[1]
  assert '0 answered, 0 failed, 14 were read before' in said and '14 requests of' in said
  second = requests_of(batch)[14:]
  assert not {one['custom_id'] for one in first} & {one['custom_id'] for one in second}
  write_lines(batch / 'output.jsonl', [answer(line) for line in second])
  assert '14 answered, 0 failed' in job.annotate(f'--read_batch={batch}')[1]


def test_one_process_writes_to_a_folder_at_a_time(job, batch):
  with owners.writing(batch):
    said = job.annotate('--model=x', f'--write_batch={batch}', status=2)[1]
  assert 'another process is writing there' in said


def test_a_completed_batch_with_only_an_error_file_is_read_as_failures(job, batch):
  error = {'message': 'Invalid model.', 'code': 'invalid'}
  failed = [
    answer(line, response={'status_code': 400, 'body': {'error': error}})
    for line in requests_of(batch)
  ]
  write_lines(batch / 'errors.jsonl', failed)
  said = job.annotate(f'--read_batch={batch}', status=2)[1]
  assert '0 answered, 14 failed' in said and '14 x HTTP 400: Invalid model.' in said
  assert 'no request has an answer' in said
  assert '14 failed before' in job.annotate(status=2)[1] and job.server.requests == 0
  job.annotate('--retry_failed')
  assert job.server.requests == 14


def test_requests_that_expired_can_be_asked_again(job, batch):
  written = requests_of(batch)
  expired = {'code': 'batch_expired', 'message': 'This request expired.'}
  write_lines(batch / 'output.jsonl', [answer(line) for line in written[:10]])
  write_lines(
    batch / 'error.jsonl', [answer(line, response=None, error=expired) for line in written[10:13]]
  )
  said = job.annotate(f'--read_batch={batch}')[1]
  assert '10 answered, 3 failed' in said and '3 x This request expired.' in said
  assert '1 requests of' in said and 'have no answer yet' in said
  job.annotate('--retry_failed')
  assert job.server.requests == 3


def test_a_batch_is_under_the_budget_of_the_store(job):
  paid, folder = f'--price_file={job.folder}/prices.json', job.folder / 'batch'
  said = job.annotate(paid, '--max_usd=0.02', f'--write_batch={folder}', status=2)[1]
  assert 'leaves no room' in said
  written = requests_of(folder)
  kept = store.Store(job.out / 'answers.sqlite')
  ledger = kept.ledger()
  assert 0 < len(written) == ledger.open < 14 and 0 < ledger.reserved <= 2 * 10**7
  write_lines(folder / 'output.jsonl', [answer(line) for line in written])
  job.annotate(paid, f'--read_batch={folder}')
  assert kept.ledger()[:4] == (len(written) * 120_000, 0, len(written), 0)
  kept.close()


def test_answers_to_a_batch_of_another_machine_are_merged_by_their_key(job, batch, tmp_path):
  write_lines(batch / 'output.jsonl', [answer(line) for line in requests_of(batch)])
  job.annotate('--split=test', f'--read_batch={batch}', f'--output={tmp_path / "other"}')
  assert lines(tmp_path / 'other' / 'test.jsonl')[2]['completions'] == [completion(2)]
  said = job.annotate('--model=x', f'--read_batch={batch}', f'--output={tmp_path / "x"}', status=2)
  assert '14 answers are to other requests' in said[1]


def test_writing_goes_on_after_a_crash_between_claiming_and_writing(job, monkeypatch):
  folder = job.folder / 'batch'
  rename = pathlib.Path.rename
  monkeypatch.setattr(pathlib.Path, 'rename', lambda *_: (_ for _ in ()).throw(OSError('full')))
  job.annotate(f'--write_batch={folder}', status=74)
  monkeypatch.setattr(pathlib.Path, 'rename', rename)
  job.annotate(f'--write_batch={folder}')
  assert len(requests_of(folder)) == 14 and len(parts(folder)) == 1
  kept = store.Store(job.out / 'answers.sqlite')
  assert kept.ledger() == (0, 0, 0, 14, 0)
  kept.close()


@pytest.mark.parametrize(
  'content, message',
  [
    (None, 'there is no such folder'),
    ('', 'expected output and error files'),
    ('{"custom_id": "mine", "response": null}\n', "custom_id; got 'mine'"),
    ('not JSON\n', 'output.jsonl, line 1 is not JSON'),
  ],
)
def test_a_wrong_folder_is_one_sentence(job, content, message):
  folder = job.folder / 'batch'
  if content is not None:
    folder.mkdir()
    (folder / 'output.jsonl').write_text(content)
  said = job.annotate(f'--read_batch={folder}', status=2)[1]
  assert message in said and said.count('\n') == 1
