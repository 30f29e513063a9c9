"""The entailment world: labels that follow from the words, held-out pairs, its vocabulary."""

import collections
import pathlib
import re
import subprocess
import sys

import pytest
import sentencepiece

from dss_jax.datasets import embedded as world

SPLITS = ('train', 'validation', 'test')
KIND_OF = {
  word: kind
  for kinds in (world.PEOPLE, *world.ASPECTS.values())
  for kind, words in kinds.items()
  for word in words
}
ASPECT_OF = {kind: aspect for aspect, kinds in world.ASPECTS.items() for kind in kinds}
VOCABULARY = pathlib.Path(world.VOCABULARY_PATH)
FIRST_TEST_EXAMPLE = {
  'input': 'A waitress is in a meadow.</s>A woman is outdoors.',
  'label': 'entailment',
  'rationale': 'A waitress is a woman. Someone in a meadow is outdoors.',
  'teacher_label': 'entailment',
}


def parts(row: dict[str, str]) -> tuple[str, str, str, str]:
  """Person, other word, and the kinds that the hypothesis gives them."""
  premise, hypothesis = row['input'].split('</s>')
  match = re.fullmatch(r'A (\w+) is (.+)\.', premise)
  claim = re.fullmatch(r'A (\w+) is (.+)\.', hypothesis)
  assert match and claim, row
  return (*match.groups(), *claim.groups())


def derived_label(person: str, word: str, claimed_person: str, claim: str) -> str:
  """The label by a rule of the test's own, from the kinds of the words alone."""
  same_aspect = ASPECT_OF[KIND_OF[word]] == ASPECT_OF[claim]
  if KIND_OF[person] != claimed_person or (same_aspect and KIND_OF[word] != claim):
    return 'contradiction'
  return 'entailment' if same_aspect else 'neutral'


def pairs(split: str) -> set[tuple[str, str]]:
  return {parts(row)[:2] for row in world.problems(split)}


def test_splits_have_their_sizes_and_share_no_input():
  inputs = {split: [row['input'] for row in world.problems(split)] for split in SPLITS}
  assert {split: len(rows) for split, rows in inputs.items()} == world.SIZES
  assert len(set().union(*inputs.values())) == sum(world.SIZES.values())


def test_generation_does_not_depend_on_when_it_is_called():
  first = world.problems('test')
  world.problems.cache_clear()
  assert world.problems('test') == first
  assert first[0] == FIRST_TEST_EXAMPLE


def test_another_split_is_refused():
  with pytest.raises(ValueError, match=r"train, validation, test; not 'dev'"):
    world.problems('dev')


def test_the_module_imports_no_framework():
  code = 'import runpy, sys; runpy.run_path(sys.argv[1]); print(*sys.modules)'
  command = [sys.executable, '-c', code, world.__file__]
  imported = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
  assert 'random' in imported
  assert not {'tensorflow', 'seqio', 'jax'} & set(imported)


def test_no_word_is_of_two_kinds():
  lists = [words for kinds in (world.PEOPLE, *world.ASPECTS.values()) for words in kinds.values()]
  assert len(KIND_OF) == sum(map(len, lists))


@pytest.mark.parametrize('split', SPLITS)
def test_the_label_follows_from_the_kinds_of_the_words(split):
  for row in world.problems(split):
    assert row['label'] == derived_label(*parts(row)), row


@pytest.mark.parametrize('split', SPLITS)
def test_the_rationale_states_the_relation_that_decides(split):
  for row in world.problems(split):
    person, word, claimed_person, claim = parts(row)
    of_person, of_claim = re.findall(r'[^.]+\.', row['rationale'])
    assert of_person.startswith(f'A {person} is a {KIND_OF[person]}')
    assert of_person.endswith(f', not a {claimed_person}.') == (KIND_OF[person] != claimed_person)
    told = ASPECT_OF[KIND_OF[word]] == ASPECT_OF[claim]
    if told:
      assert of_claim.startswith(f' Someone {word} is {KIND_OF[word]}')
      assert of_claim.endswith(f', not {claim}.') == (KIND_OF[word] != claim)
    else:
      assert of_claim == f' The {ASPECT_OF[claim]} is not told.'
    assert ('not a' in of_person or ', not ' in of_claim) == (row['label'] == 'contradiction')


def test_no_two_words_of_a_held_out_premise_meet_in_training():
  trained = pairs('train')
  for split in ('validation', 'test'):
    asked = pairs(split)
    assert len(asked) > 200
    assert not asked & trained


def test_training_shows_every_word_of_the_other_splits():
  trained = {word for row in world.problems('train') for word in parts(row)}
  for split in ('validation', 'test'):
    assert {word for row in world.problems(split) for word in parts(row)} <= trained


@pytest.mark.parametrize('split', SPLITS)
def test_labels_are_balanced(split):
  labels = [row['label'] for row in world.problems(split)]
  for some in (labels, labels[:99]):
    counts = collections.Counter(some)
    assert set(counts) == set(world.LABELS)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_the_hypothesis_alone_does_not_tell_the_label():
  counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  for row in world.problems('train'):
    counts[row['input'].split('</s>')[1]][row['label']] += 1
  right = sum(max(labels.values()) for labels in counts.values())
  assert right < 0.5 * world.SIZES['train']


def test_the_teacher_is_wrong_now_and_then():
  rows = world.problems('train')
  wrong = sum(row['label'] != row['teacher_label'] for row in rows) / len(rows)
  assert 0.5 * world.TEACHER_ERROR_RATE < wrong < 1.5 * world.TEACHER_ERROR_RATE
  assert {row['teacher_label'] for row in rows} == set(world.LABELS)


def test_its_vocabulary_has_every_word_as_one_piece():
  """Else the letters of a word could tell its kind; the lengths of the rows are chosen by it."""
  model = sentencepiece.SentencePieceProcessor(model_file=str(VOCABULARY))
  words = [*world.LABELS, *' '.join(KIND_OF).split(), '[label]', '[rationale]']
  assert [word for word in words if len(model.encode(word)) != 1] == []
  for row in world.problems('test'):
    ids = [model.encode(part) for part in row['input'].split('</s>')]
    assert sum(map(len, ids)) + 3 <= 20
    assert len(model.encode(row['rationale'])) + 1 <= 24
