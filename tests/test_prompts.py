"""Prompt files: what ships is right, balanced and our own; a user's file is read or refused."""

import collections
import itertools
import random
import re

import pytest

from dss_jax import datasets
from dss_jax.datasets import embedded, embedded_arithmetic, equations
from dss_jax.teacher import prompts

PAPERS = ('anli1', 'asdiv', 'cqa', 'esnli', 'svamp')
EMBEDDED = {'embedded_llm': embedded, 'embedded_arithmetic_llm': embedded_arithmetic}
SHIPPED = (*PAPERS, *EMBEDDED)
OWN = """
instruction = "Is the review good or bad? Give a reason, then 'So the answer is' and the word."
question = "Review: {input}"
cue = "\\nReason:"
completion = "{rationale} So the answer is {answer}."
stop = ["\\nReview:"]
max_tokens = 60

[[exemplars]]
rationale = "Cold soup is a fault."
answer = "bad"
row = { input = "The soup was cold.", label = "bad" }

[[exemplars]]
rationale = "To come again is praise."
answer = "good"
row = { input = "We will come again.", label = "good" }

[answer]
marker = "So the answer is"
choices = ["good", "bad"]
"""


@pytest.fixture
def own(tmp_path):
  """Writes a prompt file with one text in it replaced, and loads it."""

  def load(before='', after=''):
    assert before in OWN
    path = tmp_path / 'own.toml'
    path.write_text(OWN.replace(before, after, 1), encoding='utf-8')
    return prompts.load(str(path))

  return load


# ---------------------------------------------------------------- what ships


@pytest.mark.parametrize('name', SHIPPED)
def test_each_data_set_reads_every_exemplar_of_its_prompt_as_the_gold_label(name):
  prompt = prompts.load(name)
  assert 9 <= len(prompt.exemplars) <= 12
  prompt.check(datasets.get(name))
  assert len({prompt.question(one.row) for one in prompt.exemplars}) == len(prompt.exemplars)


@pytest.mark.parametrize('name', SHIPPED)
def test_exemplars_are_balanced_over_labels_and_their_neighbours_differ(name):
  """Labels of words or letters, or for equations the operations, are equally frequent."""
  kinds = []
  for one in prompts.load(name).exemplars:
    operations = re.findall('[-+*/]', one.answer)
    letter = re.match(r'\(([a-e])\) ', one.answer)
    kinds.append(letter[1] if letter else ''.join(operations) if operations else one.answer)
  counts = collections.Counter('some' if re.match(r'[-+*/]{2}', kind) else kind for kind in kinds)
  assert len(set(counts.values())) == 1, counts
  assert len(counts) == (5 if name == 'cqa' or datasets.get(name).metric == 'equation' else 3)
  assert all(first != second for first, second in itertools.pairwise(kinds))


@pytest.mark.parametrize('name', ['svamp', 'asdiv'])
def test_every_calculation_within_a_rationale_holds(name):
  seen = 0
  for one in prompts.load(name).exemplars:
    for left, right in re.findall(r'([\d(][\d() +*/-]*) = (\d+)', one.rationale):
      assert equations.same_value(left, right), one.rationale
      last = right
      seen += 1
    assert equations.same_value(one.answer, last)
  assert seen >= 10


def test_the_letter_of_a_choice_is_that_of_its_text():
  for one in prompts.load('cqa').exemplars:
    assert (
      one.answer == f'({"abcde"[one.row["choices"].index(one.row["answer"])]}) {one.row["answer"]}'
    )


@pytest.mark.parametrize('name', PAPERS)
def test_no_question_of_an_exemplar_stands_in_a_raw_file_of_any_split(name, raw_dir):
  """Up to case and punctuation; of an NLI question its premise."""
  folder = raw_dir / name
  if not folder.is_dir():
    pytest.skip(f'needs the raw files of {name}')
  ours = {_plain(text) for one in prompts.load(name).exemplars for text in _texts(one.row)}
  read = datasets.get(name).read
  files = [path for path in folder.iterdir() if path.is_file() and path.name != 'SVAMP.json']
  assert files
  theirs = {_plain(text) for path in files for _, row in read(path) for text in _texts(row)}
  assert len(theirs) > 500
  assert not ours & theirs


@pytest.mark.parametrize('name', EMBEDDED)
def test_no_exemplar_is_a_validation_or_test_input_of_an_embedded_data_set(name):
  module = EMBEDDED[name]
  theirs = {row['input'] for split in ('validation', 'test') for row in module.problems(split)}
  assert not theirs & {one.row['input'] for one in prompts.load(name).exemplars}


def test_exemplars_of_the_embedded_world_follow_from_the_kinds_of_their_words():
  """Their labels are worked out here, from the tables of words alone."""
  for one in prompts.load('embedded_llm').exemplars:
    person, word, claimed, claim = re.fullmatch(
      r'A (\w+) is (.+)\.</s>A (\w+) is (.+)\.', one.row['input']
    ).groups()
    kind = next(kind for kind, words in embedded.PEOPLE.items() if person in words)
    stated = next(
      (aspect, of)
      for aspect, kinds in embedded.ASPECTS.items()
      for of, words in kinds.items()
      if word in words
    )
    aspect = next(aspect for aspect, kinds in embedded.ASPECTS.items() if claim in kinds)
    if claimed != kind or (aspect == stated[0] and claim != stated[1]):
      expected = 'contradiction'
    else:
      expected = 'entailment' if aspect == stated[0] else 'neutral'
    assert one.answer == one.row['label'] == expected


def test_results_of_steps_within_embedded_rationales_hold():
  for one in prompts.load('embedded_arithmetic_llm').exemplars:
    assert equations.evaluate(one.answer) == int(re.findall(r'\d+', one.rationale)[-1])
    assert one.answer == one.row['label']


def _texts(row):
  return [row[field] for field in ('premise', 'question', 'input', 'Body') if field in row]


def _plain(text):
  return ' '.join(re.findall(r'\w+', text.lower()))


def test_a_raw_row_reads_as_the_exemplars_do():
  row = {'question': 'Where?</s>', 'choices': ['b c ', 'd', 'e', 'f', 'g'], 'answer': 'd'}
  prompt = prompts.load('cqa')
  question = prompt.question(row)
  assert question == 'Q: Where?\nAnswer Choices:\n(a) b c\n(b) d\n(c) e\n(d) f\n(e) g'
  assert prompt.text(question).endswith(f'\n\n{question}\nA:')
  messages = prompt.chat(question)
  assert messages[-1] == {'role': 'user', 'content': question}
  assert [one['role'] for one in messages[:3]] == ['system', 'user', 'assistant']
  assert messages[1]['content'].startswith('Q: ')
  assert messages[:-1] == prompt.chat('another')[:-1]  # what a prompt cache keeps
  with pytest.raises(ValueError, match=r"1 to 26 texts in field 'choices', got \['b', 3\]"):
    prompt.question({**row, 'choices': ['b', 3]})


def test_what_stands_in_a_row_is_not_taken_for_a_field():
  prompt = prompts.load('esnli')
  row = {'premise': '{hypothesis} {0.__class__}', 'hypothesis': '{premise}', 'label': 0}
  assert prompt.question(row) == 'Premise: {hypothesis} {0.__class__}\nHypothesis: {premise}'


def test_a_completion_that_continues_the_text_is_one_of_the_exemplars_form():
  for name in SHIPPED:
    prompt = prompts.load(name)
    first = prompt.exemplars[0]
    question = prompt.question(first.row)
    assert f'{question}{prompt.cue} {prompt.written(first)}\n\n' in prompt.text('Anything')


# ---------------------------------------------------------------- a user's own


def test_a_file_of_a_users_own_has_a_data_set_with_a_parser(own):
  prompt = own()
  assert (prompt.name, prompt.max_tokens, prompt.stop) == ('own', 60, ('\nReview:',))
  dataset = prompt.dataset('reviews')
  assert (dataset.name, dataset.metric, dataset.choices.labels) == (
    'reviews',
    'text',
    ('good', 'bad'),
  )
  assert dataset.fields({'input': 'Fine.', 'label': 'good'}) == ('Fine.', 'good')
  assert dataset.fields({'input': 'a</s>b'}) == ('a</s>b', '')
  assert prompt.question({'input': 'a</s>b'}) == 'Review: a\nb'


def test_the_version_is_of_what_a_teacher_reads(own):
  version = own().version
  assert re.fullmatch('[0-9a-f]{12}', version)
  assert own('max_tokens = 60', 'max_tokens = 61  # more').version == version
  assert own('["good", "bad"]', '["bad", "good"]').version == version
  assert own('Cold soup is a fault.', 'Cold soup is bad.').version != version
  assert own('Give a reason', 'Say why').version != version


MALFORMED = [
  ('max_tokens = 60', '', "field 'max_tokens': expected the most tokens .* got nothing"),
  ('max_tokens = 60', 'max_tokens = true', "field 'max_tokens': .* got true"),
  ('max_tokens = 60', 'max_token = 60', "unknown field 'max_token'; there are max_tokens"),
  ('question = "Review: {input}"', 'question = 3', "field 'question': expected a text, got 3"),
  ('Review: {input}"', 'Review:"', "field 'question': expected fields of a raw row"),
  ('{rationale} So', 'So', "field 'completion': expected {rationale} and {answer}"),
  ('is {answer}.', 'is {answer} {answer}.', "field 'completion': expected {rationale} and"),
  ('stop = ["\\nReview:"]', 'stop = "x"', "field 'stop': expected a list of texts, got 'x'"),
  ('stop = [', 'stop = ["1", "2", "3", "4", ', "field 'stop': expected 4 texts at most, got 5"),
  ('answer = "bad"\nrow', 'row', "exemplar 1: field 'answer': expected a text, got nothing"),
  ('rationale = "To', 'why = "To', "exemplar 2: unknown field 'why'"),
  ('input = "The', 'text = "The', "exemplar 1, row: expected a text in field 'input', but the row"),
  ('row = { input = "The soup was cold.", label = "bad" }', 'row = 1', "1: field 'row': expected"),
  ('answer = "bad"', 'answer = "good"', "exemplar 1: own reads the label 'good' .* expected 'bad'"),
  ('answer = "bad"', 'answer = "awful"', "exemplar 1: own reads the label ''"),
  ('a fault."', 'a fault.\\nReview: x"', "exemplar 1: own reads the rationale ''"),
  ('choices = ["good", "bad"]', '', r'\[answer\]: expected one of choices, listed'),
  ('choices = ["good", "bad"]', 'metric = "words"', "'metric': expected text or equation"),
  ('choices = ["good", "bad"]', 'choices = ["good"]', 'expected at least two labels'),
  ('"good", "bad"]', '"bad", "Bad"]', "'choices': two are the same up to case"),
  ('marker = "So the answer is"', 'marker = ""', "field 'marker': expected the text before"),
  ('[answer]', '[answers]', "unknown field 'answers'; there are answer"),
  ('[[exemplars]]', '[exemplars', 'not valid TOML'),
  ('Cold soup', 'Cold \\u0000 soup', 'which is no character'),
]  # fmt: skip


@pytest.mark.parametrize(('before', 'after', 'message'), MALFORMED)
def test_a_malformed_file_is_refused_with_its_name_and_field(own, tmp_path, before, after, message):
  with pytest.raises(ValueError, match=message) as error:
    own(before, after)
  assert str(error.value).startswith(str(tmp_path / 'own.toml'))


def test_files_that_are_no_prompts_are_refused_in_a_sentence(tmp_path):
  with pytest.raises(ValueError, match=r"no prompt 'svamps' ships .* there are svamp"):
    prompts.load('svamps')
  with pytest.raises(ValueError, match=r'none\.toml is missing; expected a file with a prompt'):
    prompts.load(str(tmp_path / 'none.toml'))
  for content in (b'\xff\xfe', b'a = ' + b'[' * 20000, b'x = 1'):
    (tmp_path / 'bad.toml').write_bytes(content)
    with pytest.raises(ValueError, match=r'bad\.toml'):
      prompts.load(str(tmp_path / 'bad.toml'))


def test_any_file_is_a_prompt_or_refused_in_a_sentence(tmp_path):
  rng = random.Random(0)
  parts = ['[[', ']', '"', '{', '}', '=', '\n', '\\u0000', '\0', 'answer', '1979-05-27', 'inf', '3']
  for number in range(400):
    text = OWN
    for _ in range(rng.randint(1, 4)):
      start = rng.randrange(len(text))
      text = text[:start] + rng.choice(parts) + text[start + rng.choice([0, 1, 20]) :]
    path = tmp_path / f'{number}.toml'
    path.write_text(text)
    try:
      prompt = prompts.load(str(path))
      assert prompt.chat(prompt.question({'input': 'x'}))[-1]['content']
    except ValueError as error:
      assert str(error) and len(str(error)) < 2000


def test_a_data_set_without_an_answer_section_has_no_parser_of_the_prompt(own):
  prompt = own(OWN[OWN.index('[answer]') :])
  with pytest.raises(ValueError, match=r'own\.toml: expected a section \[answer\]'):
    prompt.dataset('reviews')


# ---------------------------------------------------------------- the answers it reads


def label_of(prompt, answer, row=None):
  return prompt.dataset('x').parse(f'Why. So the answer is {answer}', row or {'input': ''}).label


@pytest.mark.parametrize(
  ('answer', 'label'),
  [
    ('good.', 'good'),
    ('Bad', 'bad'),
    ('"good", clearly.', 'good'),
    ('goodness.', ''),
    ('good or bad.', ''),
    ('unknown.', ''),
    ('bad.\nReview: So the answer is good', 'bad'),
  ],
)
def test_one_of_the_choices_is_read(own, answer, label):
  assert label_of(own(), answer) == label


def test_choices_of_scripts_without_spaces_and_the_longest_choice_are_read(own):
  prompt = own('choices = ["good", "bad"]', 'choices = ["good", "bad", "very good", "肯定的"]')
  assert label_of(prompt, '肯定的です。') == '肯定的'
  assert label_of(prompt, 'very good.') == 'very good'


def test_listed_choices_equations_and_free_text_are_read(own):
  exemplars = OWN[OWN.index('[[exemplars]]') : OWN.index('[answer]')]
  listed = own(f'{exemplars}[answer]\nmarker = "So the answer is"\nchoices = ["good", "bad"]',
               '[answer]\nmarker = "So the answer is"\nlisted = 2')  # fmt: skip
  row = {'input': 'Which?\n(a) a cat\n(b) a dog'}
  assert label_of(listed, '(b) a dog.', row) == 'a dog'
  assert listed.dataset('x').choices.of(row['input']) == ('a cat', 'a dog')
  sums = own(f'{exemplars}[answer]\nmarker = "So the answer is"\nchoices = ["good", "bad"]',
             '[answer]\nmarker = "So the answer is"\nmetric = "equation"')  # fmt: skip
  assert label_of(sums, '(3 + 4).') == '(3 + 4)'
  assert sums.dataset('x').metric == 'equation'
  free = own(f'{exemplars}[answer]\nmarker = "So the answer is"\nchoices = ["good", "bad"]',
             '[answer]\nmarker = "so the answer is"\nmetric = "text"')  # fmt: skip
  assert label_of(free, ': **Lake Como**.') == 'Lake Como'


def test_exemplars_of_another_data_set_are_refused(own):
  with pytest.raises(
    ValueError, match=r"own\.toml: exemplar 1: expected 5 texts in field 'choices'"
  ):
    own().check(datasets.get('cqa'))
