"""`dss annotate` against a server on this machine: what it asks, keeps, writes and prints."""

# ruff: noqa: F811  a fixture

import collections
import json
import subprocess
import sys
import types

import annotations
import pytest
from annotations import completion, job, lines, question  # noqa: F401  a fixture

from dss_jax.commands import prepare
from dss_jax.datasets import completions, release
from dss_jax.settings.errors import ConfigError
from dss_jax.teacher import prompts, store


def test_every_row_is_asked_about_and_its_completion_is_written(job):
  out, said = job.annotate()
  train = lines(job.out / 'train.jsonl')
  assert [one['input'] for one in train] == [question('train', n) for n in range(10)]
  assert [one['completions'] for one in train] == [[completion(n)] for n in range(10)]
  assert train[0]['finish_reasons'] == ['stop'] and len(lines(job.out / 'test.jsonl')) == 4
  report = json.loads(out)
  assert report['requests'] == 14 and report['statuses'] == {'ok': 14}
  assert report['agreement'] == 1 and report['usd'] is None
  assert '14 answered, 0 failed.' in said


def test_the_exemplars_come_first_and_are_the_same_for_all(job):
  job.annotate()
  prompt = prompts.load('svamp')
  asked = [body['messages'] for body in job.server.bodies]
  assert all(one[:-1] == asked[0][:-1] for one in asked) and len(asked[0]) > 10
  body = job.server.bodies[0]
  assert body['max_tokens'] == prompt.max_tokens and body['stop'] == list(prompt.stop)
  assert body['temperature'] == 0 and body['model'] == annotations.MODEL


def test_completions_mode_sends_one_text(job):
  job.annotate('--mode=completions', '--split=test')
  assert job.server.bodies[0]['prompt'].endswith('How many has she?\nA:')
  assert lines(job.out / 'test.jsonl')[3]['completions'] == [completion(3)]


def test_the_same_command_asks_nothing_again_and_writes_the_same(job):
  job.annotate('--limit=2')
  job.annotate()
  before = [path.read_bytes() for path in sorted(job.out.glob('*.json*'))]
  job.annotate()
  assert job.server.requests == 14
  assert [path.read_bytes() for path in sorted(job.out.glob('*.json*'))] == before


def test_teacher_json_says_who_was_asked_and_what_it_cost(job):
  job.server.cached_tokens = 5
  job.annotate(f'--price_file={job.folder}/prices.json')
  about = json.loads((job.out / 'teacher.json').read_text())
  assert about['teacher'] == annotations.MODEL and about['requests'] == 14
  assert about['prompt'] == {'name': 'svamp', 'version': prompts.load('svamp').version}
  tokens = about['tokens']
  assert tokens['cached'] == 14 * 5
  assert about['usd'] == pytest.approx((tokens['input'] + 2 * tokens['output']) / 1e6)
  assert about['parameters']['temperature'] == 0 and about['date'].endswith('Z')


def test_another_teacher_is_never_named_for_reused_answers(job):
  job.annotate('--model=first')
  job.annotate('--model=second', '--reuse=same-prompt')
  assert json.loads((job.out / 'teacher.json').read_text())['teacher'] == 'first'
  assert job.server.requests == 14


def test_a_folder_never_has_files_of_two_teachers(job):
  job.annotate('--model=first', '--split=test')
  before = (job.out / 'teacher.json').read_bytes()
  said = job.annotate('--model=second', '--split=train', status=2)[1]
  assert 'test.jsonl of first by the prompt svamp' in said and 'another --output' in said
  assert job.server.requests == 4  # it was said before anything was asked
  assert (job.out / 'teacher.json').read_bytes() == before and not (
    job.out / 'train.jsonl'
  ).exists()
  (job.out / 'teacher.json').unlink()  # nobody knows who wrote test.jsonl
  assert 'nobody known' in job.annotate('--model=second', '--split=train', status=2)[1]
  job.annotate('--model=second')
  assert json.loads((job.out / 'teacher.json').read_text())['teacher'] == 'second'


def test_teacher_json_speaks_of_all_files_whichever_run_has_written_them(job):
  paid = f'--price_file={job.folder}/prices.json'
  job.annotate(paid, '--split=test', '--temperature=0.5')
  first = json.loads((job.out / 'teacher.json').read_text())
  job.annotate(paid, '--split=train')
  about = json.loads((job.out / 'teacher.json').read_text())
  assert (first['requests'], about['requests']) == (4, 13)  # one is held out
  assert about['usd'] > first['usd'] > 0 and about['tokens']['input'] > first['tokens']['input']
  assert about['parameters']['test.jsonl']['temperature'] == 0.5
  assert about['parameters']['train.jsonl']['temperature'] == 0
  (job.out / 'test.jsonl').write_text('')
  with pytest.raises(ConfigError, match='is not the file that'):
    completions.read_provenance(job.out)


def test_a_split_that_is_held_out_is_asked_about_alone(job):
  (held_out,) = release.held_out_rows(10)
  job.annotate('--split=validation')
  assert job.server.requests == 1 and job.server.asked[question('train', held_out)] == 1
  assert [one['input'] for one in lines(job.out / 'train.jsonl')] == [question('train', held_out)]
  job.annotate('--split=train')
  assert job.server.requests == 10 and set(job.server.asked.values()) == {1}
  assert len(lines(job.out / 'train.jsonl')) == 10


def test_completions_are_read_as_dss_prepare_will_read_them(job):
  job.server.answers[question('test', 1)] = '**The answer is (1 + 2).**'
  own = json.loads(job.annotate('--split=test')[0])['statuses']
  released = json.loads(job.annotate('--split=test', '--parser=released')[0])['statuses']
  assert own == {'no_rationale': 1, 'ok': 3} and released == {'ok': 4}  # the asterisks


def test_k_samples_are_asked_for_and_kept_apart(job):
  _, said = job.annotate('--samples=3', status=2)
  assert '--temperature' in said
  job.annotate('--samples=3', '--temperature=0.7', '--split=test')
  assert job.server.requests == 12
  assert lines(job.out / 'test.jsonl')[1]['completions'] == [completion(1)] * 3


def test_a_preview_asks_a_few_and_projects_the_cost_of_all(job):
  job.server.cached_tokens = 100
  out, said = job.annotate('--preview=4', f'--price_file={job.folder}/prices.json')
  assert job.server.requests == 4 and not (job.out / 'train.jsonl').exists()
  assert 'Solve the word problem' in out and '(0 + 2)' in out and 'ok (right)' in out
  assert 'agreement with gold: 100.0 % of 4' in out and 'the whole run: 14 questions' in out
  assert 'for each kept rationale' in out and 'from the prompt cache' in out
  assert 'Nothing more is asked' in out and 'the preview cost $' in said
  job.annotate()
  assert job.server.requests == 14


def test_a_preview_of_more_than_there_is_asks_all(job):
  job.annotate('--preview=50')
  assert job.server.requests == 14


def test_a_preview_projects_what_failures_cost_too(job):
  job.server.fault = lambda _, body: 'refusal'
  out, _ = job.annotate('--preview=4', f'--price_file={job.folder}/prices.json')
  kept = store.Store(job.out / 'answers.sqlite')
  assert f'about ${kept.ledger().spent / 1e9 * 14 / 4:.2f}' in out and kept.ledger().spent > 0
  kept.close()


def test_a_failed_row_is_written_as_empty_and_asked_again_on_request(job):
  bad = question('test', 1)
  job.server.fault = lambda _, body: (
    'refusal' if body['messages'][-1]['content'].endswith(bad) else None
  )
  out, said = job.annotate('--split=test')
  assert lines(job.out / 'test.jsonl')[1]['completions'] == ['']
  assert json.loads(out)['statuses'] == {'empty': 1, 'ok': 3}
  assert '1 failed' in said and 'refusal: I cannot help with that.' in said
  job.server.fault = lambda *_: None
  assert '1 failed before (--retry_failed)' in job.annotate('--split=test')[1]
  job.annotate('--split=test', '--retry_failed')
  assert lines(job.out / 'test.jsonl')[1]['completions'] == [completion(1)]


# ---------------------------------------------------------------- money


def test_the_limit_in_dollars_stops_a_run_that_can_be_continued(job):
  paid = f'--price_file={job.folder}/prices.json'
  _, said = job.annotate(paid, '--max_usd=0.01', status=2)
  assert 'stopped by --max_usd' in said and 0 < job.server.requests < 14
  asked = job.server.requests
  assert (
    sum(len(lines(path)) for path in job.out.glob('*.jsonl')) == asked and 'for dss prepare' in said
  )
  assert job.annotate(paid, '--max_usd=0.01', status=2) and job.server.requests == asked
  out, _ = job.annotate(paid, '--max_usd=1')
  assert job.server.requests == 14 and json.loads(out)['usd'] < 0.02


def test_a_limit_in_dollars_needs_a_price(job):
  assert 'needs the price' in job.annotate('--max_usd=1', status=2)[1]
  other = job.annotate(
    '--model=x', '--max_usd=1', f'--price_file={job.folder}/prices.json', status=2
  )
  assert "has no 'x'" in other[1] and job.server.requests == 0


def test_a_limit_in_dollars_counts_what_was_asked_without_a_price(job):
  paid = f'--price_file={job.folder}/prices.json'
  job.annotate('--split=test')
  job.annotate(paid, '--max_usd=1', '--split=test')
  about = json.loads((job.out / 'teacher.json').read_text())
  kept = store.Store(job.out / 'answers.sqlite')
  assert kept.ledger().spent / 1e9 == pytest.approx(about['usd']) and about['usd'] > 0
  kept.close()
  job.annotate('--model=other', '--split=test')
  said = job.annotate(paid, '--max_usd=1', '--split=test', status=2)[1]
  assert '--max_usd cannot hold' in said and 'requests to other that were sent without' in said
  job.annotate(paid, '--split=test')  # without the limit


def test_a_limit_in_dollars_is_refused_where_tokens_were_not_counted(job):
  job.server.has_usage = False
  job.annotate('--split=test')
  paid = f'--price_file={job.folder}/prices.json'
  assert '--max_usd cannot hold' in job.annotate(paid, '--max_usd=1', status=2)[1]


def test_a_data_set_cost_what_its_own_requests_cost(job):
  paid = f'--price_file={job.folder}/prices.json'
  job.annotate(paid, '--split=train')
  out, _ = job.annotate(
    paid, '--split=test', f'--output={job.folder}/b', f'--store={job.out}/answers.sqlite'
  )
  tokens = json.loads(out)['tokens']
  assert json.loads(out)['usd'] == pytest.approx((tokens['input'] + 2 * tokens['output']) / 1e6)


def test_the_limit_of_requests_counts_all_runs(job):
  job.annotate('--max_requests=4', '--split=test')
  assert 'stopped by' in job.annotate('--max_requests=9', status=2)[1]
  assert job.server.requests == 9


# ---------------------------------------------------------------- servers and models


@pytest.mark.parametrize('field', ['reasoning', 'reasoning_content', 'think'])
def test_a_rationale_comes_from_the_answer_or_from_the_reasoning(job, field):
  job.server.reasoning = field
  job.annotate('--split=test')
  assert lines(job.out / 'test.jsonl')[2]['completions'] == [completion(2)]
  job.annotate('--split=test', '--rationale_from=reasoning')
  thought = 'Let me think about this. Ann has 2 test apples and gets 2. How many has she?'
  assert lines(job.out / 'test.jsonl')[2]['completions'] == [f'{thought} The answer is (2 + 2).']
  assert job.server.requests == 4


def test_a_long_chain_is_made_short_by_a_second_request_that_is_kept(job):
  job.server.reasoning = 'reasoning'
  missing = job.server.answers

  class Answers(dict):
    def __missing__(self, asked):
      assert asked.startswith('Shorten the reasoning to at most 10 words.')
      assert 'Let me think about this.' in asked and 'Answer: The answer is (' in asked
      return 'Two more come.'

  job.server.answers = Answers(missing)
  argv = ('--split=test', '--rationale_from=reasoning', '--condense=10')
  job.annotate(*argv)
  assert lines(job.out / 'test.jsonl')[1]['completions'] == [
    'Two more come. The answer is (1 + 2).'
  ]
  assert job.server.requests == 8 and 'stop' not in job.server.bodies[-1]
  job.annotate(*argv)
  assert job.server.requests == 8


@pytest.mark.parametrize('short', ["I'm sorry, I cannot help with that.", 'word ' * 40])
def test_a_rationale_that_was_not_made_shorter_stays_and_is_counted(job, short):
  job.server.reasoning = 'reasoning'
  known = job.server.answers
  job.server.answers = collections.defaultdict(lambda: short, known)
  _, said = job.annotate('--split=test', '--rationale_from=reasoning', '--condense=10')
  assert job.server.requests == 8 and '4 rationales are as long as they came' in said
  assert 'Let me think about this.' in lines(job.out / 'test.jsonl')[1]['completions'][0]


def test_structured_answers_are_asked_for_only_if_wanted(job):
  structured = {'rationale': 'She gets 2 more.', 'answer': '(1 + 2)'}
  job.server.answers[question('test', 1)] = json.dumps(structured)
  job.annotate('--split=test')
  assert 'response_format' not in job.server.bodies[0]
  job.annotate('--split=test', '--schema')
  assert job.server.bodies[-1]['response_format']['type'] == 'json_schema'
  wanted = ['She gets 2 more. The answer is (1 + 2).']
  assert lines(job.out / 'test.jsonl')[1]['completions'] == wanted
  assert lines(job.out / 'test.jsonl')[2]['completions'] == [completion(2)]  # it did not comply


def test_what_a_server_refuses_is_said_once_and_remembered(job):
  job.server.refuses = {'max_tokens', 'temperature'}
  _, said = job.annotate('--split=test')
  assert said.count('refuses max_tokens: max_completion_tokens is sent instead.') == 1
  assert said.count('refuses temperature: it is left out.') == 1
  job.annotate()
  assert job.server.statuses['400'] == 2
  about = json.loads((job.out / 'teacher.json').read_text())['parameters']
  assert about['refused'] == {'max_tokens': 'max_completion_tokens', 'temperature': None}


def test_more_parameters_are_sent_and_keep_their_own_answers(job):
  job.annotate('--split=test', '--parameters={"reasoning_effort": "low"}')
  assert job.server.bodies[-1]['reasoning_effort'] == 'low'


@pytest.mark.parametrize('name', ['stop', 'max_completion_tokens', 'best_of', 'n'])
def test_parameters_that_would_pass_the_reservation_are_refused(job, name):
  with pytest.raises(SystemExit):
    job.annotate(f'--parameters={{"{name}": 4}}')


@pytest.mark.parametrize(
  'more, message',
  [
    (['--base_url=localhost:8000'], 'expected --base_url=http://HOST'),
    (['--base_url=http://me:secret@localhost/v1'], 'without a name, password'),
    (['--dataset=svmp'], "no prompt 'svmp' ships with the package; there are svamp"),
    (['--raw_dir=/nowhere'], 'expected a folder'),
    (['--split=dev'], 'svamp has train, validation, test'),
    (['--api_key_env=NOT_SET'], 'this variable is not set'),
    (['--api_key_env=sk-this-is-secret'], 'this variable is not set'),
    (['--filter=nice'], 'nice'),
    (['--prompt=cqa'], 'exemplar 1'),
    (['--dataset=embedded_llm', '--parser=released'], 'no parser for embedded_llm'),
    (['--raw_dir=', f'--input={__file__}', '--filter=clean'], '--filter is of dss prepare'),
    (['--schema', '--mode=completions'], '--schema is for --mode=chat'),
    (['--output=', '--data_dir=gs://b/c'], '--output=DIR'),
  ],
)
def test_wrong_options_are_one_sentence(job, more, message):
  said = job.annotate(*more, status=2)[1]
  assert message in said and said.count('\n') == 1 and 'secret' not in said
  assert job.server.requests == 0


def test_without_the_extra_it_says_what_to_install():
  program = (
    "import sys; sys.modules['openai'] = None\n"
    "from dss_jax import cli; sys.exit(cli.main(['annotate', '--dataset=svamp']))"
  )
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
  assert done.returncode == 2 and "pip install 'dss_jax[teacher]'" in done.stderr
  assert done.stderr.count('\n') == 1


# ---------------------------------------------------------------- what it prepares


def test_the_prepared_data_set_is_built_from_the_answers(job, monkeypatch, capsys):
  run = lambda words, env: types.SimpleNamespace(returncode=prepare.main(words[4:]))  # noqa: E731
  monkeypatch.setattr(subprocess, 'run', run)  # in this process: TensorFlow is imported already
  out, _ = job.annotate(f'--data_dir={job.folder}/data')
  report = json.loads(out.splitlines()[-1])
  assert report['teacher'] == annotations.MODEL
  assert report['splits']['train']['examples'] == 9
  assert report['splits']['test']['teacher_accuracy'] == 1


def test_a_data_set_of_ones_own_needs_only_inputs_and_a_prompt(job):
  prompt = job.folder / 'mine.toml'
  prompt.write_text(
    'question = "Q: {input}"\ncue = "\\nA:"\ncompletion = "{rationale} So: {answer}"\n'
    'instruction = "Answer yes or no."\nmax_tokens = 20\n'
    '[answer]\nmarker = "So:"\nchoices = ["yes", "no"]\n'
  )
  rows = job.folder / 'mine.jsonl'
  rows.write_text('{"input": "Is it so?"}\n{"input": "Is it not?", "label": "no"}\n')
  job.server.answers |= {'Is it so?': 'It is. So: yes', 'Is it not?': 'Never. So: no'}
  job.annotate('--dataset=mine', f'--prompt={prompt}', f'--input={rows}', '--raw_dir=')
  assert lines(job.out / 'rows' / 'train.jsonl') == [
    {'input': 'Is it so?', 'label': '', 'rationale': 'It is.', 'teacher_label': 'yes'},
    {'input': 'Is it not?', 'label': 'no', 'rationale': 'Never.', 'teacher_label': 'no'},
  ]
