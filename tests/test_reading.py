"""Reading completions as chat models write them: cut off, run on, empty, refused, hostile."""

import json
import random
import subprocess
import sys
import time

import pytest

from dss_jax import datasets
from dss_jax.datasets import completions, release
from dss_jax.teacher import prompts, reading

CQA_ROW = {'question': 'Where?', 'choices': ['math problem', 'b', 'c', 'd', 'e'], 'answer': 'b'}


def read(name, completion, finish_reason=None, row=CQA_ROW):
  dataset = datasets.get(name)
  return reading.read(completion, lambda text: dataset.parse(text, row), finish_reason)


@pytest.mark.parametrize('name', ['anli1', 'asdiv', 'cqa', 'esnli', 'svamp'])
def test_what_a_prompt_asks_for_is_read_with_status_ok(name):
  prompt = prompts.load(name)
  for one in prompt.exemplars:
    found = read(name, prompt.written(one), 'stop', one.row)
    assert (found.rationale, found.status) == (one.rationale, 'ok')


@pytest.mark.parametrize(
  ('name', 'completion', 'label'),
  [
    ('svamp', 'So. The answer is **(5 * 3)**.', '(5 * 3)'),
    ('svamp', 'So. **The answer is (5 * 3).**', '(5 * 3)'),
    ('svamp', 'So. **The answer is:** (5 * 3)', '(5 * 3)'),
    ('svamp', 'So. The answer is 5 * 3 = 15.', '(5 * 3)'),
    ('svamp', 'So. The answer is (5 * 3) + 1 = 16.', '((5 * 3) + 1)'),
    ('svamp', 'So. The answer is $\\boxed{(5 * 3)}$.', '(5 * 3)'),
    ('svamp', 'So. The answer is (5 \u00d7 3) \u2212 1.', '((5 * 3) - 1)'),
    ('svamp', 'So. The answer is 5 ** 3.', ''),
    ('svamp', 'So. The answer is 5**3**2.', ''),
    ('esnli', 'So it is.\nAnswer: **Neutral**', 'neutral'),
    ('esnli', 'So it is.\n**Answer:** neutral', 'neutral'),
    ('anli1', 'So it is. So the answer is: "contradiction".', 'contradiction'),
    ('cqa', 'Sums. So the answer is **(a) math problem**.', 'math problem'),
    ('cqa', 'Sums. So the answer is **(a)**.', 'math problem'),
  ],
)
def test_what_chat_models_put_around_an_answer_is_no_part_of_it(name, completion, label):
  assert read(name, completion).label == label


def test_a_thought_before_the_text_is_no_rationale():
  thought = '<think>Maybe. The answer is (1 + 1).</think>\n\nTwo more. The answer is (2 + 2).'
  assert read('svamp', thought) == ('Two more.', '(2 + 2)', 'ok')
  assert read('svamp', thought.removeprefix('<think>')).label == '(2 + 2)'
  assert read('svamp', '<think>Maybe. The answer is (1 + 1).', 'length') == ('', '', 'cut_off')


@pytest.mark.parametrize(
  ('completion', 'finish_reason', 'status'),
  [
    (None, None, 'empty'),
    (' \n', 'stop', 'empty'),
    ('', 'length', 'cut_off'),  # all tokens went into a thought
    ('', 'content_filter', 'refusal'),
    ("I'm sorry, but I can't help with that.", 'stop', 'refusal'),
    ('Ed lost more than 19 marbles.', 'stop', 'no_answer'),
    ('Ed lost more than', None, 'cut_off'),
    ('Ed lost more.\n\nQ: How many', None, 'no_answer'),  # its own part is complete
    ('Ed lost more than', 'length', 'cut_off'),
    ('Ed lost 3. The answer is ((2 + 1', None, 'cut_off'),
    ('The answer is (2 + 1).', 'stop', 'no_rationale'),
    ('I cannot see more than two. The answer is (2 + 0).', 'stop', 'ok'),
    ('Ели два яблока и ещё одно. The answer is (2 + 1).', 'stop', 'ok'),
    ('二つと一つ。', None, 'no_answer'),
  ],
)
def test_the_status_says_what_is_missing_and_why(completion, finish_reason, status):
  assert read('svamp', completion, finish_reason).status == status
  assert status in reading.STATUSES


@pytest.mark.parametrize(
  ('name', 'completion', 'label'),
  [
    ('svamp', 'So. The answer is 5 * 1', ''),  # of 5 * 12
    ('svamp', 'So. The answer is 5 * 1.', ''),  # of 5 * 1.5
    ('svamp', 'So. The answer is (5 * 12)', '(5 * 12)'),
    ('cqa', 'Sums. So the answer is (a) math pro', 'math problem'),
    ('cqa', 'Sums. So the answer is (a) math problem.', 'math problem'),
  ],
)
def test_a_label_that_may_go_on_is_not_taken_from_a_text_that_was_cut_off(name, completion, label):
  found = read(name, completion, 'length')
  assert (found.label, found.status) == (label, 'ok' if label else 'cut_off')
  assert read(name, completion, 'stop').label != ''


def test_what_cannot_be_stored_is_replaced():
  found = read('svamp', 'A\0b\ud800</s>c. The answer is (1 + 1).')
  assert found.rationale == 'A\ufffdb\ufffd c.'
  found.rationale.encode()
  assert len(reading.cleaned('x' * (completions.MAX_COMPLETION + 5))) == completions.MAX_COMPLETION


def test_the_papers_reading_adds_nothing_to_the_papers_parser():
  dataset = release.with_parser(datasets.get('svamp'), 'released')
  completion = 'So. The answer is **(12 - 2) - 7**.'
  found = reading.read_as_is(completion, lambda text: dataset.parse(text, {}), 'length')
  assert found == ('So.', '(12 - 2)', 'ok')


def test_hostile_completions_are_read_in_linear_time():
  parts = ['**', '(', '\0', '<think>', '</think>', 'the answer is ', 'So the answer is', '*',
           'Answer:', '\nQ:', '\u202e', '\ud83d', '</s>', "I can't", ' ', '5', '\n']  # fmt: skip
  rng = random.Random(1)
  started = time.process_time()
  for name in ('svamp', 'esnli', 'anli1', 'cqa'):
    for _ in range(300):
      found = read(name, ''.join(rng.choices(parts, k=30)), rng.choice([None, 'stop', 'length']))
      assert found.status in reading.STATUSES
      json.dumps(found).encode()
    for part in parts:
      read(name, part * (100_000 // len(part)), 'length')
  assert time.process_time() - started < 20


@pytest.mark.parametrize('name', ['svamp', 'cqa', 'anli1', 'esnli'])
def test_the_released_completions_read_as_by_the_parser_alone(name, raw_dir):
  dataset = datasets.get(name)
  for split in dataset.splits:
    files = release.split_files(dataset, raw_dir, split)
    if files is None or (name == 'esnli' and split != 'test'):
      continue
    texts = [text for path in files.completions for text in json.loads(path.read_text())]
    for (_, row), text in zip(dataset.read(files.rows), texts, strict=True):
      parsed = dataset.parse(text, row)
      assert reading.read(text, lambda x, row=row: dataset.parse(x, row))[:2] == (
        parsed.rationale,
        parsed.label,
      )


def test_prompts_and_reading_start_without_a_framework():
  program = (
    'import sys\nfrom dss_jax.teacher import prompts, quality, reading\n'
    'prompts.load("cqa")\n'
    'print({"jax", "tensorflow", "seqio", "torch"} & set(sys.modules))'
  )
  output = subprocess.run([sys.executable, '-c', program], capture_output=True, check=True)
  assert output.stdout.strip() == b'set()'
