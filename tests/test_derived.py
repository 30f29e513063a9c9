"""Fields that are made of others: what each says, what it depends on, and as tensors."""

import random
import re

import pytest
import tensorflow as tf

from dss_jax.datasets import release
from dss_jax.methods import Row, derived
from dss_jax.tasks import metrics, preprocessors, vocabulary

RATIONALES = ['Sam had 8 apples, so 8 - 3 apples stay.', '', "It's a dog. A dog isn't a Cat."]
WORDS = ' '.join(f'w{n}' for n in range(40))


def made(name: str, ids=(0, 1, 2), **columns) -> list[str]:
  return derived.compute([name], columns, ids, metrics.text_correct)[0]


def test_the_first_half_has_the_middle_word():
  assert made('first_half', range(4), rationale=['a b c', 'a b', '', 'a']) == ['a b', 'a', '', 'a']


def made_lengths(mask: list[bool]) -> list[int]:
  return [len(run) for run in re.findall('1+', ''.join(str(int(noise)) for noise in mask))]


def test_shuffled_words_are_the_same_words_in_an_order_of_the_examples_number():
  (first,), (again,), (other,) = (
    made('shuffled_rationale', [number], rationale=[WORDS]) for number in (7, 7, 8)
  )
  assert first == again != other and first != WORDS
  assert sorted(first.split()) == sorted(WORDS.split())
  assert made('shuffled_rationale', [0], rationale=['c b a']) == ['a b c']  # on every machine


def test_cue_words_are_content_words_once_each_in_order():
  assert made('cue_words', rationale=RATIONALES) == ['Sam 8 apples 3 stay', '', 'dog Cat']


def test_the_other_rationale_is_half_a_batch_away_and_never_the_own_one():
  texts = ['r0', 'r1', '', 'r3', ' ', 'r5']
  assert made('other_rationale', range(6), rationale=texts) == ['r3', 'r5', '', 'r0', '', 'r1']
  assert made('other_rationale', [0, 1], rationale=['alone', '']) == ['', '']


def test_verdicts_are_the_metrics_and_blank_where_a_label_is():
  labels = {'label': ['(1 + 2)', 'a', '', 'b'], 'teacher_label': ['3', 'b', 'c', ' ']}
  expected = ['right', 'wrong', '', '']
  assert derived.compute(['verdict'], labels, range(4), metrics.equation_correct) == [expected]


# Span corruption


@pytest.mark.parametrize('length', [2, 3, 7, 20, 100, 1000, 3000])
def test_spans_of_noise_are_t5s(length):
  """The counts of T5's `random_spans_noise_mask`: 15 % of the words in spans of 3 on average."""
  for seed in range(5):
    mask = derived.noise_mask(length, random.Random(seed))
    noise = min(max(round(length * 0.15), 1), length - 1)
    assert len(mask) == length and sum(mask) == noise
    assert not mask[0] and mask[-1]  # T5's masks start with words and end with noise
    assert len(made_lengths(mask)) == min(max(round(noise / 3), 1), 100)


def test_the_missing_spans_are_what_the_corrupted_input_lacks():
  text = f'{WORDS}</s>{WORDS}'
  (corrupted,), (missing,) = (
    made(name, [3], input=[text]) for name in ('corrupted_input', 'missing_spans')
  )
  spans = dict(re.findall(r'(<extra_id_\d+>) ((?:(?!<extra)\S+ ?)+)', missing))
  assert list(spans) == [f'<extra_id_{n}>' for n in range(4)]
  for sentinel, words in spans.items():
    assert corrupted.count(sentinel) == 1
    corrupted = corrupted.replace(sentinel, words.strip())
  assert corrupted == text.replace('</s>', ' </s> ')


def test_an_input_of_one_word_has_nothing_to_miss():
  assert made('missing_spans', [0, 0], input=['word', '']) == ['', '']
  assert made('corrupted_input', [0], input=['word']) == ['word']


def test_a_sentinel_is_one_id_of_a_vocabulary_with_extra_ids_and_text_in_bytes():
  sentencepiece = vocabulary.load_vocabulary('embedded')
  text = tf.constant(['a <extra_id_0> b <extra_id_99>'])
  ids = sentencepiece.encode_tf(text)[0].numpy().tolist()
  a, b = sentencepiece.encode('a'), sentencepiece.encode('b')
  last = sentencepiece.vocab_size - 1
  assert ids == [*a, last, *b, last - 99]
  as_bytes = vocabulary.load_vocabulary('bytes')
  assert as_bytes.decode(as_bytes.encode_tf(text)[0].numpy().tolist()) == text.numpy()[0].decode()


# The table


def test_fields_know_the_fields_of_the_source_that_they_are_made_of():
  assert derived.sources_of(['verdict']) == {'label', 'teacher_label'}
  assert derived.sources_of(['cue_words', 'input', 'choices']) == {'rationale', 'input', 'choices'}
  assert derived.SEPARATOR == release.INPUT_SEPARATOR


@pytest.mark.parametrize('name', ['verdict', 'cue_words', 'a b'])
def test_a_name_stands_for_one_field(name):
  with pytest.raises(ValueError, match='choose another name'):
    derived.register(name, ['input'], lambda columns, ids: columns['input'])


@pytest.fixture
def of_users():
  """A field made of another derived one, and one whose function is wrong."""

  def judged(columns, ids):
    return list(map('{}: {}'.format, columns['verdict'], columns['rationale']))

  derived.register('judged', ['verdict', 'rationale'], judged)
  derived.register('too_few', ['input'], lambda columns, ids: ['x'])
  yield
  for name in ('judged', 'too_few'):
    del derived._table[name]


def examples() -> tf.data.Dataset:
  """Two batches: an example with two samples and one with one; one without a teacher."""
  one = {
    'input': ['q0', 'q1'],
    'label': ['a0', 'a1'],
    'rationale': [['so a0', 'so b'], ['so c', '']],
    'teacher_label': [['a0', 'b'], ['c', '']],
    'example_id': [0, 1],
  }
  none = {'input': ['q2'], 'label': ['a2'], 'rationale': tf.zeros([1, 0], tf.string),
          'teacher_label': tf.zeros([1, 0], tf.string), 'example_id': [2]}  # fmt: skip
  dataset = tf.data.Dataset.from_generator(
    lambda: iter([one, none]),
    output_signature={
      name: tf.TensorSpec(
        [None, None] if name in preprocessors.TEACHERS else [None],
        tf.int32 if name == 'example_id' else tf.string,
      )
      for name in one
    },
  )
  return dataset


def rows_of(*rows: Row) -> list[tuple]:
  dataset = preprocessors.make_rows(rows)(examples()).unbatch()
  return [
    (row['inputs'].decode(), row['targets'].decode(), *filter(None, [row.get('loss_weight')]))
    for row in dataset.as_numpy_iterator()
  ]


def test_a_field_made_of_the_rationale_is_made_of_every_sample(of_users):
  row = Row('r', '{input}', '{judged} is {label}')
  assert rows_of(row) == [
    ('q0', 'right: so a0 is a0'),
    ('q0', 'wrong: so b is a0'),
    ('q1', 'wrong: so c is a1'),
    ('q1', ':  is a1'),
  ]
  row = Row('r', '{rationale}', '{judged}')  # left out where its rationale is blank
  assert [target for _, target in rows_of(row)] == ['right: so a0', 'wrong: so b', 'wrong: so c']


def test_a_function_with_another_number_of_texts_is_refused(of_users):
  with pytest.raises(tf.errors.InvalidArgumentError, match="'too_few' returns one text for each"):
    rows_of(Row('r', '{input}', '{too_few}'))


def test_a_wrong_samples_row_has_another_weight_or_is_left_out():
  row = Row('rationale', '{input}', '{rationale}', weight_if_wrong=0.25)
  assert rows_of(row) == [('q0', 'so a0', 1.0), ('q0', 'so b', 0.25), ('q1', 'so c', 0.25)]
  row = Row('rationale', '{input}', '{rationale}', weight_if_wrong=0.0)
  assert rows_of(row) == [('q0', 'so a0', 1.0)]
  with pytest.raises(ValueError, match='weight_if_wrong is at least 0, not -1'):
    Row('rationale', '{input}', '{rationale}', weight_if_wrong=-1)


def test_the_parts_of_an_input_are_parted_by_a_space_in_a_target():
  dataset = tf.data.Dataset.from_tensors({'input': ['p</s>h', 'p </s> h', ' '], 'label': ['x'] * 3,
                                          'example_id': [0, 1, 2]})  # fmt: skip
  rows = preprocessors.make_rows([Row('copy', '[c] {input}', '{input}')])(dataset).unbatch()
  found = [(row['inputs'], row['targets']) for row in rows.as_numpy_iterator()]
  assert found == [(b'[c] p</s>h', b'p h'), (b'[c] p </s> h', b'p h')]


def test_a_derived_field_whose_own_fields_the_source_lacks_is_refused():
  dataset = tf.data.Dataset.from_tensors({'input': ['q'], 'label': ['a'], 'example_id': [0]})
  with pytest.raises(ValueError, match="cue_words are made of the field 'rationale'"):
    preprocessors.make_rows([Row('r', '{input}', '{cue_words}')])(dataset)
