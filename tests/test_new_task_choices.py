"""What `dss new-task` takes columns for, and which choice a label of any kind names."""

import pytest

from dss_jax.datasets import columns, guessing, tables
from dss_jax.datasets.columns import Columns

ANSWER = Columns(inputs=('q',), label='answer', choices=('options',))


def table_of(*found):
  names = tuple(dict.fromkeys(name for row in found for name in row))
  return tables.Table(list(enumerate(found, 1)), names, ())


def labels_of(found, **read):
  """The labels of tables that are read together, by the names of their files."""
  named = columns.naming(read, found)
  return {
    name: [record.label for _, _, record in columns.records(table, found, name, named)]
    for name, table in read.items()
  }


def answered(options, *labels):
  return table_of(*({'q': f'Q{n}', 'options': options, 'answer': one}
                    for n, one in enumerate(labels)))  # fmt: skip


# ---------------------------------------------------------------- labels that name choices


def test_labels_name_choices_alike_in_all_files():
  """Test's labels alone would be texts, and train's alone could be counted from 0 only."""
  numbers = ['3', '1', '2']
  read = {'train': answered(numbers, 0, 1), 'test': answered(numbers, 1, 2)}
  assert labels_of(ANSWER, **read) == {'train': ['3', '1'], 'test': ['1', '2']}
  read = {'train': answered(numbers, 1, 2), 'test': answered(numbers, 3, 1)}
  assert labels_of(ANSWER, **read) == {'train': ['1', '2'], 'test': ['3', '1']}
  read = {'train': answered(['b', 'a'], 'a'), 'test': answered(['b', 'a'], 'b', 'a')}
  assert labels_of(ANSWER, **read) == {'train': ['a'], 'test': ['b', 'a']}
  read = {'train': answered(['b', 'a'], 'a'), 'test': answered(['x', 'y'], 'a')}
  assert labels_of(ANSWER, **read) == {'train': ['b'], 'test': ['x']}
  read = {'train': answered(['x', 'y', 'z'], 1), 'test': answered(['x', 'y', 'z'], 3)}
  assert labels_of(ANSWER, **read) == {'train': ['x'], 'test': ['z']}


def test_labels_of_several_kinds_are_each_resolved():
  found = answered(['red', 'blue', 'green'], 'A', '3', '(b)', 'red', '', 1)
  assert labels_of(ANSWER, f=found)['f'] == ['red', 'green', 'blue', 'red', '', 'red']


def test_a_row_may_have_fewer_choices():
  rows = [{'q': 'Q', 'answer': 'B', 'A': 'x', 'B': 'y', 'C': last} for last in ('z', '', None)]
  found = guessing.guess(table_of(*rows), Columns(inputs=('q',)))
  assert labels_of(found, f=table_of(*rows))['f'] == ['y'] * 3
  texts = [r.input.count('\n(') for _, _, r in columns.records(
    table_of(*rows), found, 'f', columns.naming({'f': table_of(*rows)}, found))]  # fmt: skip
  assert texts == [3, 2, 2]


@pytest.mark.parametrize(
  ('options', 'label', 'said'),
  [
    (['x', 'y'], 'C', 'none of the choices'),
    (['x', 'y'], '7', 'none of the choices'),
    (['x', 'y'], '9' * 5000, 'none of the choices'),
    (['x', 'y'], 'zebra', 'none of the choices'),
    (['x', '', 'y'], 'A', 'not blank'),
    (['x', ''], 'A', 'expected 2 to 26'),
  ],
)
def test_a_wrong_label_or_choice_is_refused_with_file_and_row(options, label, said):
  with pytest.raises(ValueError, match=rf'^bad\.csv, row at 1: .*{said}'):
    labels_of(ANSWER, **{'good.csv': answered(['x', 'y'], 'A', '2'),
                         'bad.csv': answered(options, label)})  # fmt: skip


def test_a_choice_may_stand_after_a_mark():
  row = {'q': 'Q', 'answer': 'Since so.\n#### B', 'A': 'x', 'B': 'y'}
  table = table_of(row)
  found = guessing.guess(table, Columns(inputs=('q',)))
  record = next(columns.records(table, found, 'f', columns.naming({'f': table}, found)))[2]
  assert found.answer_after == '####' and (record.label, record.rationale) == ('y', 'Since so.')


def test_an_answer_without_its_mark_is_refused_with_its_row():
  table = table_of({'q': 'Q', 'a': 'So. #### 1'}, {'q': 'Q', 'a': ''}, {'q': 'Q', 'a': 'It is 2.'})
  found = Columns(inputs=('q',), label='a', answer_after='####')
  with pytest.raises(ValueError, match=r"^f, row at 3: expected '####'.*'It is 2\.'"):
    labels_of(found, f=table)


# ---------------------------------------------------------------- columns by their names


@pytest.mark.parametrize(
  'names',
  [
    ('option2', 'option1', 'option3'), ('C', 'A', 'B'), ('q_op2', 'q_op1'), ('ending1', 'ending0'),
    ('opb', 'opa', 'opc'), ('choice_b', 'choice_a'), tuple(f'answer{n}' for n in range(11, 0, -1)),
  ],
)  # fmt: skip
def test_columns_of_choices_are_in_the_order_of_their_names(names):
  table = table_of({'question': 'Q', 'label': 1, **dict.fromkeys(names, 'x')})
  number = {name: int(''.join(filter(str.isdigit, name)) or 0) for name in names}
  expected = sorted(names, key=lambda name: (number[name], name))
  assert guessing.guess(table, Columns()).choices == tuple(expected)


@pytest.mark.parametrize(
  'names',
  [('options', 'answers'), ('ops', 'solo'), ('option1', 'answer2'), ('option1', 'option3'),
   ('option1', 'option2', 'option4'),   ('B', 'C'), ('option_b', 'option_c')],
)  # fmt: skip
def test_columns_that_are_like_choices_are_none(names):
  table = table_of({'question': 'Q', 'label': 'x', **dict.fromkeys(names, 'x')})
  assert guessing.guess(table, Columns()).choices == ()


@pytest.mark.parametrize(
  ('row', 'inputs', 'label'),
  [
    ({'premise': 'P', 'question': 'cause', 'choice1': 'x', 'choice2': 'y', 'label': 0},
     ('premise', 'question'), 'label'),
    ({'text': 'T', 'label': ['a', 'b'], 'target': 'a'}, ('text',), 'target'),
    ({'question': 'Q', 'category': 'history', 'sentiment': 'good'}, ('question',), 'sentiment'),
    ({'id': 1, 'text': 'T', 'category': 'a'}, ('text',), 'category'),
  ],
)  # fmt: skip
def test_inputs_and_labels_are_told_from_what_is_like_them(row, inputs, label):
  found = guessing.guess(table_of(row), Columns())
  assert (found.inputs, found.label) == (inputs, label)


def test_the_first_of_several_parts_is_the_group_unless_it_is_a_kind():
  rows = [{'passage': f'P{n // 2}', 'question': f'Q{n}', 'label': 'a'} for n in range(20)]
  assert guessing.guess(table_of(*rows), Columns()).group == 'passage'
  assert guessing.guess(table_of(*rows[:18]), Columns()).group == ''
  assert guessing.guess(table_of(*rows), Columns(group='label')).group == 'label'
  with pytest.raises(ValueError, match="no column 'nope'"):
    guessing.guess(table_of(*rows), Columns(group='nope'))
