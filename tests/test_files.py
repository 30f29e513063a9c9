"""Data sets of users' own: files that `files.source` reads, and functions that give broken rows."""

import json

import pytest
import seqio
import tensorflow as tf

from dss_jax.commands import vocab
from dss_jax.data import examples
from dss_jax.tasks import files, register_dataset, registration, vocabulary

FULL = {'input': 'q', 'label': 'a', 'rationale': 'r', 'teacher_label': 't'}


@pytest.fixture(autouse=True)
def vocabulary_of_bytes():
  with vocabulary.temporary_vocabulary('bytes'):
    yield


@pytest.fixture
def name(request):
  """A name for a data set, which is registered for good."""
  return f'files_{abs(hash(request.node.name))}'


def register(name, tmp_path, rows, file='train.jsonl'):
  (tmp_path / file).write_text(rows if isinstance(rows, str) else '\n'.join(map(json.dumps, rows)))
  register_dataset(name, files.source(str(tmp_path / file.replace('train', '{split}'))))


def targets(task, split='train'):
  loaded = examples.load_examples(task, split, keep_text=True)
  return list(loaded.texts['targets_pretokenized'])


def test_csv_becomes_the_tasks_and_missing_rationales_no_rows(name, tmp_path):
  content = 'input,label,rationale,teacher_label\nq,a,"r\n1",t\n"x, y",b,,\n'
  register(name, tmp_path, content, 'train.csv')
  assert targets(f'{name}_label') == ['a', 'b']
  assert targets(f'{name}_rationale') == ['r\n1']
  assert targets(f'{name}_teacher_label') == ['t']


def test_samples_may_differ_in_number(name, tmp_path):
  asked_twice = FULL | {'rationale': ['r1', 'r2'], 'teacher_label': ['t1', 't2']}
  nothing = FULL | {'rationale': [], 'teacher_label': None}
  register(name, tmp_path, [FULL, asked_twice, nothing, FULL | {'teacher_label': ['t']}])
  assert targets(f'{name}_rationale') == ['r', 'r1', 'r2', 'r']
  assert targets(f'{name}_label') == ['a'] * 4
  assert targets(f'{name}_teacher_single_task')[1:3] == ['r1 [label] t1', 'r2 [label] t2']


def test_texts_that_every_row_has_reach_templates(name, tmp_path):
  register(name, tmp_path, [FULL | {'hint': 'h', 'odd': 'x', 'number': 3}, FULL | {'hint': 'i'}])
  (row, _) = registration.first_examples(f'{name}_label', 'train', 2)
  assert row == FULL | {'hint': 'h'}


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    (FULL | {'label': None}, "line 2: expected a text in field 'label', got null"),
    ({'input': 'q'}, "line 2: expected a text in field 'label', but the row has only 'input'"),
    (
      FULL | {'rationale': ['a', 'b'], 'teacher_label': ['c']},
      'line 2: expected as many texts in each of rationale, teacher_label, got .2, 1.',
    ),
  ],
)
def test_a_row_that_is_none_is_named_when_it_is_read(name, tmp_path, row, message):
  register(name, tmp_path, [FULL, row])
  with pytest.raises(ValueError, match=rf'^{tmp_path}/train\.jsonl, {message}'):
    targets(f'{name}_label')
  with pytest.raises(ValueError, match=r'test\.jsonl: no such file; expected JSON lines'):
    targets(f'{name}_label', 'test')


def test_the_pattern_has_the_split_in_it():
  with pytest.raises(ValueError, match=r"expected a path with \{split\} in it.*'train\.jsonl'"):
    files.source('train.jsonl')


# ---------------------------------------------------------------- sources of users' own


def function(name, columns):
  """Registers a data set of a function that gives these columns."""

  def read(split, shuffle_files):
    return tf.data.Dataset.from_tensor_slices({key: make() for key, make in columns.items()})

  register_dataset(name, seqio.FunctionDataSource(read, ['train']))


@pytest.mark.parametrize(
  'values',
  [
    lambda: ['r', None],
    lambda: ['r', float('nan')],
    lambda: ['r', 3],
    lambda: ['r', '\ud83d'],
    lambda: [{}['rationale'], 'r'],
    lambda: [json.loads('{'), 'r'],
    lambda: [b'\xe9'.decode(), 'r'],
    lambda: [open, 'r'],
  ],
)
def test_a_function_that_gives_no_texts_is_named(name, values):
  function(name, {key: (lambda: ['a', 'b']) for key in FULL} | {'rationale': values})
  with pytest.raises(ValueError, match=rf"the source of data set '{name}', split 'train', fails: "):
    targets(f'{name}_label')


@pytest.mark.parametrize('field', ['input', 'label', 'rationale'])
def test_text_in_another_encoding_is_never_trained_on(name, field):
  texts = [b'fine'] * 1500 + ['café \u2013'.encode('cp1252')]
  function(name, {key: (lambda: [b'a'] * 1501) for key in FULL} | {field: lambda: texts})
  task = f'{name}_rationale' if field == 'rationale' else f'{name}_label'
  message = rf"task '{task}', split 'train', example 1500 \(from 0\), .*: byte \d+ is 0xe9, which"
  with pytest.raises(ValueError, match=message):
    examples.load_examples(task, 'train')
  message = rf"task '{task}', split 'train', row 1500 \(from 0\), .*is 0xe9, which is not UTF-8"
  with pytest.raises(ValueError, match=message):
    list(vocab.task_texts([task]))


def test_a_label_of_anothers_task_that_is_no_text_is_let_be():
  batch = {'label': tf.constant([1, 2]), 'inputs_pretokenized': tf.constant([[b'\xe9']])}
  examples._refuse_broken_text(batch, 'task', 0)
  with pytest.raises(ValueError, match=r'task, example 8 \(from 0\), label: byte 1 is 0xe9'):
    examples._refuse_broken_text({'label': tf.constant([b'a', b'\xe9'])}, 'task', 7)


def test_a_generator_that_fails_at_a_row_is_one_sentence(name):
  def rows():
    yield FULL
    yield FULL | {'label': None}

  def read(split, shuffle_files):
    spec = {key: tf.TensorSpec((), tf.string) for key in FULL}
    return tf.data.Dataset.from_generator(rows, output_signature=spec)

  register_dataset(name, seqio.FunctionDataSource(read, ['train']))
  with pytest.raises(ValueError) as error:
    targets(f'{name}_label')
  assert str(error.value) == (
    f"task '{name}_label', split 'train': its source or a preprocessor fails: Unsupported object "
    'type NoneType.'
  )
