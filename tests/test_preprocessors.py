"""Rows and tokens of the two tasks, from strings."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from dss_jax import methods
from dss_jax.datasets import embedded_arithmetic
from dss_jax.methods import Row
from dss_jax.tasks import preprocessors, vocabulary

PAIR = methods.dss.DSS.rows
PLAIN = [Row('label', '{input}', '{label}'), Row('rationale', '{input}', '{rationale}')]


def examples(*rows: tuple[str, str, str]) -> tf.data.Dataset:
  """A dataset of batches of (input, label, rationale); the teacher agrees."""
  inputs, labels, rationales = zip(*rows, strict=True)
  fields = {'input': inputs, 'label': labels, 'rationale': rationales, 'teacher_label': labels}
  dataset = tf.data.Dataset.from_tensor_slices({k: list(v) for k, v in fields.items()})
  return dataset.enumerate().map(lambda number, row: {**row, 'example_id': number}).batch(3)


def rows_of(dataset: tf.data.Dataset) -> list[tuple]:
  return [
    (r['inputs'].decode(), r['targets'].decode(), int(r['task_id']), int(r['example_id']))
    for r in dataset.unbatch().as_numpy_iterator()
  ]


def test_one_example_gives_both_tasks_in_order():
  dataset = examples(('q0', 'a0', 'r0'), ('q1', 'a1', 'r1'))
  assert rows_of(preprocessors.make_rows(PAIR)(dataset)) == [
    ('[label] q0', 'a0', 0, 0),
    ('[rationale] q0', 'r0', 1, 0),
    ('[label] q1', 'a1', 0, 1),
    ('[rationale] q1', 'r1', 1, 1),
  ]


def test_blank_targets_give_no_row_and_do_not_shift_the_numbers():
  dataset = examples(('q0', 'a0', ''), ('q1', '', 'r1'), ('q2', '', ' \n'), ('q3', 'a3', 'r3'))
  assert rows_of(preprocessors.make_rows(PLAIN)(dataset)) == [
    ('q0', 'a0', 0, 0),
    ('q1', 'r1', 1, 1),
    ('q3', 'a3', 0, 3),
    ('q3', 'r3', 1, 3),
  ]


@pytest.fixture(
  params=['bytes', embedded_arithmetic.VOCABULARY_PATH], ids=['bytes', 'sentencepiece']
)
def each_vocabulary(request) -> seqio.Vocabulary:
  return vocabulary.load_vocabulary(request.param)


PARTS = {
  'one part': ['one part'],
  'premise</s>hypothesis': ['premise', 'hypothesis'],
  'premise </s> hypothesis': ['premise', 'hypothesis'],
  'line\nbreak</s>b</s>c': ['line\nbreak', 'b', 'c'],
  'a</s>': ['a', ''],
  '</s>': ['', ''],
  '': [''],
  'é </ s> <s>': ['é </ s> <s>'],
}


@pytest.mark.parametrize(
  'texts', [*([text] for text in PARTS), list(PARTS), ['', '']], ids=lambda texts: '+'.join(texts)
)
def test_the_true_end_of_sequence_stands_between_the_parts(each_vocabulary, texts):
  """However a text is batched with others."""
  expected = [[i for p in PARTS[t] for i in [*each_vocabulary.encode(p), 1]][:-1] for t in texts]
  dataset = tf.data.Dataset.from_tensors(texts)
  dataset = dataset.map(lambda t: preprocessors.encode_parts(t, each_vocabulary))
  assert dataset.element_spec.dtype == tf.int32
  assert dataset.element_spec.shape.as_list() == [None, None]
  assert next(iter(dataset)).to_list() == expected


def test_tokenize_keeps_the_texts_and_passes_the_rest_on(each_vocabulary):
  dataset = preprocessors.make_rows(PAIR[:1])(examples(('p</s>h', 'yes', 'why')))
  feature = seqio.Feature(each_vocabulary)
  features = {'inputs': feature, 'targets': feature}
  dataset = preprocessors.tokenize(dataset, output_features=features).unbatch()
  row = next(dataset.as_numpy_iterator())
  assert row['inputs_pretokenized'] == b'[label] p</s>h'
  assert row['targets_pretokenized'] == b'yes'
  assert row['label'] == b'yes'
  assert (row['task_id'], row['example_id']) == (0, 0)
  assert row['task_id'].dtype == row['example_id'].dtype == np.int32
  expected = [*each_vocabulary.encode('[label] p'), 1, *each_vocabulary.encode('h')]
  np.testing.assert_array_equal(row['inputs'], expected)
  np.testing.assert_array_equal(row['targets'], each_vocabulary.encode('yes'))


def test_a_batch_without_any_target_gives_no_row(each_vocabulary):
  dataset = examples(('q0', ' ', ''), ('q1', '', ''), ('q2', '', ''), ('q3', 'a3', 'r3'))
  feature = seqio.Feature(each_vocabulary)
  dataset = preprocessors.make_rows(PLAIN)(dataset)
  dataset = preprocessors.tokenize(dataset, {'inputs': feature, 'targets': feature}).unbatch()
  assert [int(row['example_id']) for row in dataset.as_numpy_iterator()] == [3, 3]


def test_label_predictions_are_compared_with_the_gold_label():
  example = {'label': b'gold', 'targets_pretokenized': b'teacher'}
  read = preprocessors.label_reader(PAIR[0])
  assert read('teacher', example=example, is_target=True) == 'gold'
  assert read('said', example=example, is_target=False) == 'said'
  read = preprocessors.label_reader(methods.single_task.ROW)
  assert read('teacher', example=example, is_target=True) == 'gold'
  assert read('since [label] said', example=example, is_target=False) == 'said'
  assert read('since', example=example, is_target=False) == ''


def test_each_of_k_rationales_gives_a_row_and_the_label_one():
  """Example 1 has two samples, of which the second has no label of the teacher's."""
  columns = {
    'input': ['q0', 'q1'],
    'label': ['a0', 'a1'],
    'rationale': [['r0', 'r1', 'r2'], ['s0', 's1', '']],
    'teacher_label': [['t0', 't1', 't2'], ['u0', '', '']],
    'example_id': [0, 1],
  }
  dataset = tf.data.Dataset.from_tensors(columns)
  assert rows_of(preprocessors.make_rows(PAIR)(dataset)) == [
    ('[label] q0', 'a0', 0, 0),
    *[('[rationale] q0', f'r{k}', 1, 0) for k in range(3)],
    ('[label] q1', 'a1', 0, 1),
    *[('[rationale] q1', f's{k}', 1, 1) for k in range(2)],
  ]
  row = Row('label', '{input}', '{rationale} [label] {label}')
  targets = [
    text for _, text, _, _ in rows_of(preprocessors.make_rows([row], 'teacher_label')(dataset))
  ]
  assert targets == ['r0 [label] t0', 'r1 [label] t1', 'r2 [label] t2', 's0 [label] u0']
  first = preprocessors.make_rows([Row('label', '{rationale}', '{label}')], all_samples=False)
  assert [(i, t) for i, t, _, _ in rows_of(first(dataset))] == [('r0', 'a0'), ('s0', 'a1')]


def test_one_sample_is_the_first_that_is_not_blank():
  columns = {
    'input': ['q0', 'q1'],
    'label': ['a0', 'a1'],
    'rationale': [['', 'r1'], ['', '']],
    'teacher_label': [[' ', 't1'], ['', '']],
    'example_id': [0, 1],
  }
  dataset = tf.data.Dataset.from_tensors(columns)
  by_teacher = preprocessors.make_rows([methods.standard.ROW], 'teacher_label')
  assert [(i, t) for i, t, _, _ in rows_of(by_teacher(dataset))] == [('q0', 't1')]
  asked = preprocessors.make_rows([methods.rationale_input.ROW], 'label', {'label'}, False)
  assert [i for i, _, _, _ in rows_of(asked(dataset))] == ['q0 [rationale] r1', 'q1 [rationale] ']


def test_samples_of_different_number_are_batched_together():
  samples = [['r0'], ['r1', 's1'], []]
  dataset = tf.data.Dataset.from_generator(
    lambda: ({'rationale': one, 'input': 'q'} for one in samples),
    output_signature={
      'rationale': tf.TensorSpec([None], tf.string), 'input': tf.TensorSpec([], tf.string),
    },
  )  # fmt: skip
  (batch,) = preprocessors.batch(dataset).as_numpy_iterator()
  assert batch['rationale'].tolist() == [[b'r0', b''], [b'r1', b's1'], [b'', b'']]


def test_a_template_whose_field_the_source_lacks_is_refused():
  row = Row('label', '{input} {choices}', '{label}')
  with pytest.raises(ValueError, match=r"needs the field 'choices'.*'input', 'label'"):
    preprocessors.make_rows([row])(examples(('q', 'a', 'r')))
