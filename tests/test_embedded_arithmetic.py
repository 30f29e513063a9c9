"""The embedded sums: true, varied, never memorable; and the vocabulary that ships with them."""

import pathlib
import re

import pytest
import seqio

from dss_jax import methods
from dss_jax.commands import vocab
from dss_jax.datasets import embedded_arithmetic, equations
from dss_jax.tasks import vocabulary
from dss_jax.tasks.registration import FIELDS

SPLITS = ('train', 'validation', 'test')

FIRST_TEST_PROBLEM = {
  'input': 'Ben has 64 cards. He sells 19. How many cards does Ben have now?',
  'label': '( 64 - 19 )',
  'rationale': 'Start with 64. Selling 19 leaves 45.',
  'teacher_label': '( 64 - 19 )',
}


def numbers(text: str) -> list[int]:
  return [int(number) for number in re.findall(r'\d+', text)]


def test_splits_have_their_sizes_and_share_no_problem():
  inputs = {
    split: [row['input'] for row in embedded_arithmetic.problems(split)] for split in SPLITS
  }
  assert {split: len(rows) for split, rows in inputs.items()} == embedded_arithmetic.SIZES
  assert len(set().union(*inputs.values())) == sum(embedded_arithmetic.SIZES.values())


def test_generation_does_not_depend_on_when_it_is_called():
  first = embedded_arithmetic.problems('test')
  embedded_arithmetic.problems.cache_clear()
  assert embedded_arithmetic.problems('test') == first
  assert first[0] == FIRST_TEST_PROBLEM


def test_another_split_is_refused():
  with pytest.raises(ValueError, match=r"train, validation, test; not 'dev'"):
    embedded_arithmetic.problems('dev')


@pytest.mark.parametrize('split', SPLITS)
def test_the_rationale_ends_with_the_labels_value(split):
  for row in embedded_arithmetic.problems(split):
    value = equations.evaluate(row['label'])
    assert value is not None, row
    assert value == numbers(row['rationale'])[-1], row


def test_labels_have_one_to_three_operations_each_and_all_four_kinds():
  labels = [row['label'] for row in embedded_arithmetic.problems('test')]
  counts = [len(re.findall(r' [-+*/] ', label)) for label in labels]
  assert min(counts) == 1
  assert max(counts) == 3
  for operator in '+-*/':
    assert sum(f' {operator} ' in label for label in labels) > len(labels) / 20
  assert all(re.fullmatch(r'[\d()+*/ -]+', label) for label in labels)


def test_no_number_of_the_held_out_problems_occurs_in_training():
  trained = {
    n for row in embedded_arithmetic.problems('train') for k in FIELDS for n in numbers(row[k])
  }
  for split in ('validation', 'test'):
    asked = {n for row in embedded_arithmetic.problems(split) for n in numbers(row['input'])}
    assert len(asked) > 15
    assert not asked & trained


def test_training_shows_every_digit_in_both_places():
  """Else held-out numbers could not be composed of what was seen."""
  trained = {n for row in embedded_arithmetic.problems('train') for n in numbers(row['input'])}
  assert {n // 10 for n in trained if n > 9} == set(range(1, 10))
  assert {n % 10 for n in trained if n > 9} == set(range(10))


def test_the_wording_decides_the_operation():
  """Problems that differ in their names and numbers only have labels that do, too."""
  shapes: dict[str, set[str]] = {}
  for row in embedded_arithmetic.problems('train'):
    if 'years old' in row['input']:
      continue
    wording = re.sub(r'\d+', '0', row['input'])
    shapes.setdefault(wording, set()).add(re.sub(r'\d+', '0', row['label']))
  assert max(map(len, shapes.values())) == 1


def test_a_constant_answer_is_never_right_often():
  labels = [row['label'] for row in embedded_arithmetic.problems('test')]
  assert max(map(labels.count, labels)) < len(labels) / 50


def test_the_teacher_is_wrong_now_and_then():
  rows = embedded_arithmetic.problems('train')
  wrong = sum(row['label'] != row['teacher_label'] for row in rows) / len(rows)
  assert (
    0.5 * embedded_arithmetic.TEACHER_ERROR_RATE
    < wrong
    < 1.5 * embedded_arithmetic.TEACHER_ERROR_RATE
  )
  assert all(equations.evaluate(row['teacher_label']) is not None for row in rows)


def test_its_vocabulary_keeps_texts_and_takes_few_tokens():
  """The lengths of the smoke run are chosen by these."""
  with vocabulary.temporary_vocabulary(embedded_arithmetic.VOCABULARY_PATH) as model:
    longest = {'embedded_arithmetic_label': (48, 24), 'embedded_arithmetic_rationale': (48, 40)}
    for task, (inputs, targets) in longest.items():
      for row in seqio.get_mixture_or_task(task).get_dataset(None, 'test', shuffle=False):
        assert len(row['inputs']) <= inputs
        assert len(row['targets']) <= targets
        assert 2 not in row['inputs'].numpy()
        text = row['inputs_pretokenized'].numpy().decode()
        assert model.decode(row['inputs'].numpy()) == text
    assert len(model.encode('[label]')) == len(model.encode('[rationale]')) == 1
    assert vocabulary.padded_vocab_size(model) == model.vocab_size


def test_the_vocabulary_that_ships_is_the_one_that_dss_vocab_trains(tmp_path, monkeypatch):
  # Other tests register methods of their own, whose marks would be pieces too.
  monkeypatch.setattr(methods, 'marks', lambda: ('[label]', '[rationale]'))
  output = tmp_path / 'embedded_arithmetic.model'
  assert vocab.main(['--task=embedded_arithmetic_dss', f'--output={output}', '--size=540']) == 0
  assert output.read_bytes() == pathlib.Path(embedded_arithmetic.VOCABULARY_PATH).read_bytes()
