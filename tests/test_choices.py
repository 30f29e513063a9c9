"""Choices: where they are found, and the rows of methods whose loss needs all of an example's."""

import dataclasses

import pytest
import tensorflow as tf

from dss_jax import methods
from dss_jax.datasets import cqa, embedded, esnli
from dss_jax.methods import Choices, Row, Term
from dss_jax.tasks import preprocessors

LISTED = 'Where?\nAnswer Choices:\n(a) bank\n(b) a park \n(c) sea'


def test_choices_are_fixed_labels_or_lines_of_the_input():
  assert Choices(('yes', 'no')).of('whatever') == ('yes', 'no')
  assert Choices(listed=3).of(LISTED) == ('bank', 'a park', 'sea')
  assert Choices(listed=3).of(f'(a) is a letter.\n{LISTED}') == ('bank', 'a park', 'sea')
  assert (Choices(('yes', 'no')).count, Choices(listed=3).count) == (2, 3)


def test_choices_of_the_data_sets():
  assert esnli.DATASET.choices == embedded.CHOICES and embedded.CHOICES.count == 3
  row = {'question': 'Q?', 'choices': list('vwxyz'), 'answer': 'y'}
  question, label = cqa.DATASET.fields(row)
  assert cqa.DATASET.choices.of(question) == tuple('vwxyz') and label in 'vwxyz'


@pytest.mark.parametrize(
  'given', [{}, {'labels': ('a',)}, {'listed': 1}, {'labels': ('a', 'b'), 'listed': 2}]
)
def test_what_are_no_choices_is_refused(given):
  with pytest.raises(ValueError, match='at least two labels'):
    Choices(**given)
  with pytest.raises(ValueError, match='one line of text'):
    Choices(('a', 'b\nc'))


def test_an_input_without_its_choices_is_refused():
  with pytest.raises(ValueError, match=r'expected 4 choices.*found 3 such lines'):
    Choices(listed=4).of(LISTED)


def rows_of(method, choices, **columns):
  """(example, input, target) of every row that a method makes of these source examples."""
  count = len(columns['input'])
  columns = {'teacher_label': [''] * count, 'example_id': list(range(count)), **columns}
  make = preprocessors.make_rows(method.rows, choices=choices, keeps_groups=method.is_grouped)
  dataset = make(tf.data.Dataset.from_tensor_slices(columns).batch(count))
  (batch,) = dataset.as_numpy_iterator()
  texts = zip(batch['example_id'], batch['inputs'], batch['targets'], strict=True)
  return [(int(number), text.decode(), target.decode()) for number, text, target in texts]


def test_pinto_has_a_row_for_each_choice_the_right_one_first():
  found = rows_of(
    methods.get('pinto'),
    Choices(('yes', 'no', 'perhaps')),
    input=['Is rain wet?', 'Is x?', 'Blank?', 'Gold?'],
    label=['no', 'yes', 'yes', ''],
    rationale=['It is water.', 'So.', ' ', 'Why.'],
  )
  rain, x = 'Is rain wet? [rationale] It is water.', 'Is x? [rationale] So.'
  assert found == [
    (0, rain, 'no'), (0, rain, 'yes'), (0, rain, 'perhaps'),
    (1, x, 'yes'), (1, x, 'no'), (1, x, 'perhaps'),
  ]  # fmt: skip


def test_pinto_reads_choices_out_of_the_input():
  found = rows_of(
    methods.get('pinto'), Choices(listed=3), input=[LISTED], label=['sea'], rationale=['Salt.']
  )
  assert [target for _, _, target in found] == ['sea', 'bank', 'a park']


def test_pinto_on_data_without_choices_has_one_row():
  found = rows_of(
    methods.get('pinto'), None, input=['1 + 1?'], label=['2'], rationale=['One more.']
  )
  assert found == [(0, '1 + 1? [rationale] One more.', '2')]


def test_the_rows_of_an_example_come_whole_for_each_of_its_rationales():
  columns = {
    'input': ['q0', 'q1', 'q2'],
    'label': ['yes', 'no', 'no'],
    'rationale': [['r0', 's0'], ['', 's1'], ['', '']],
    'teacher_label': [['', ''], ['', ''], ['', '']],
  }
  assert rows_of(methods.get('mutual_information'), None, **columns) == [
    (0, '[label] q0', 'yes'), (0, '[rationale] q0', 'r0'),
    (0, '[label] q0', 'yes'), (0, '[rationale] q0', 's0'),
    (1, '[label] q1', 'no'), (1, '[rationale] q1', 's1'),
  ]  # fmt: skip
  found = rows_of(methods.get('pinto'), Choices(('yes', 'no')), **columns)
  assert [(text[-2:], target) for _, text, target in found] == [
    ('r0', 'yes'), ('r0', 'no'), ('s0', 'yes'), ('s0', 'no'), ('s1', 'no'), ('s1', 'yes')
  ]  # fmt: skip


def test_a_label_that_is_no_choice_is_refused():
  with pytest.raises(tf.errors.OpError, match=r"example 0 \(from 0\): the label 'maybe' is none"):
    rows_of(
      methods.get('pinto'), Choices(('yes', 'no')), input=['q'], label=['maybe'], rationale=['r']
    )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'label_source': 'teacher'}, 'gold labels, no other rows'),
    ({'loss': (Term('label'),)}, "a loss term of the kind 'choices'"),
    ({'rows': methods.standard.STANDARD.rows}, 'need a row for each choice'),
    (
      {'rows': (Row('label', '{rationale} {input}', '{label}', each_choice=True),)},
      'ends in a text and the',
    ),
  ],
)
def test_groups_that_do_not_fit_their_loss_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(methods.get('pinto'), **changes)
  with pytest.raises(ValueError, match='needs two rows and paired=True'):
    dataclasses.replace(methods.get('mutual_information'), paired=False)
