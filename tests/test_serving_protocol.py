"""The teacher's own format: a shipped prompt's question becomes an input, and back."""

import pytest

from dss_jax import datasets
from dss_jax.methods import Choices
from dss_jax.serving import protocol
from dss_jax.teacher import prompts


@pytest.mark.parametrize('name', prompts.names())
def test_every_shipped_prompt_goes_both_ways(name):
  dataset = datasets.get(name)
  form = protocol.load(None, name, dataset.choices)
  assert form.prompt.exemplars
  for exemplar in form.prompt.exemplars:
    text, label = dataset.fields(exemplar.row)
    question = form.prompt.question(exemplar.row)
    assert form.input(question) == form.input(f'\n{question} ') == text.strip()
    assert form.question(text) == question
    written = form.completion(text, exemplar.rationale, label)
    read = form.read(text, written, 'stop')
    assert (read.rationale, read.label, read.status) == (exemplar.rationale, label, 'ok')
    assert form.starts_with_rationale and written.startswith(exemplar.rationale)


def test_without_a_prompt_the_message_is_the_input():
  form = protocol.load(None, 'mine', Choices(('no', 'yes')))
  assert form.input(' Is rain wet? ') == 'Is rain wet?' == form.question('Is rain wet?')
  assert form.completion('x', 'Rain is water.', 'yes') == 'Rain is water. The answer is yes.'
  assert form.completion('x', None, 'yes') == 'The answer is yes.'
  assert form.read('x', 'Rain is water. The answer is yes.', None).label == 'yes'


def test_another_text_than_a_question_is_the_input_itself():
  form = protocol.load('esnli', 'mine', None)
  assert form.input('A dog runs.</s>An animal moves.') == 'A dog runs.</s>An animal moves.'


def test_a_choice_is_answered_with_its_letter_where_the_input_lists_it():
  form = protocol.load('cqa', 'mine', Choices(listed=2))
  text = 'Where?\nAnswer Choices:\n(a) here\n(b) there'
  assert form.answer(text, 'there') == '(b) there'
  assert form.answer(text, 'nowhere') == 'nowhere' == form.answer('no choices', 'nowhere')


def test_exemplars_that_do_not_show_the_way_are_refused(tmp_path):
  path = tmp_path / 'mine.toml'
  path.write_text(
    'instruction = "Answer."\nquestion = "{input}"\nmax_tokens = 9\n'
    'completion = "{rationale} The answer is {answer}."\n[answer]\nchoices = ["yes", "no"]\n'
  )
  with pytest.raises(ValueError, match='has no exemplars: at least one'):
    protocol.load(str(path), 'mine', None)
  path.write_text(
    'instruction = "Answer."\nquestion = "{other}: {input}"\n'
    'completion = "{rationale} The answer is {answer}."\nmax_tokens = 9\n'
    '[answer]\nchoices = ["yes", "no"]\n[[exemplars]]\nrationale = "So."\nanswer = "yes"\n'
    'row = { input = "a", other = "b", label = "yes" }\n'
  )
  with pytest.raises(ValueError, match='its exemplars do not show'):
    protocol.load(str(path), 'mine', None)
