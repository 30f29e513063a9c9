"""What `dss new-task` makes of a table: columns, labels of any kind, splits without leaks."""

import pytest

from dss_jax.datasets import columns, guessing, splitting, tables
from dss_jax.datasets.columns import Columns, Record

# ---------------------------------------------------------------- columns and labels


def table_of(*found):
  return tables.Table(
    list(enumerate(found, 1)), tuple(dict.fromkeys(k for r in found for k in r)), ()
  )


def records_of(found, **read):
  """The records of tables by their files' names, without what groups them."""
  named = columns.naming(read, found)
  return [
    record._replace(group='')
    for name, table in read.items()
    for _, _, record in columns.records(table, found, name, named)
  ]


def record_of(*found, **given):
  table = table_of(*found)
  guessed = guessing.guess(table, Columns(**given))
  return guessed, records_of(guessed, f=table)


def test_usual_names_are_guessed():
  row = {'id': 7, 'Premise': 'A cat.', 'Hypothesis': 'An animal.', 'Label': 0, 'explanation': 'So.'}
  guessed, found = record_of(row)
  assert guessed.inputs == ('Premise', 'Hypothesis') and guessed.label == 'Label'
  assert found == [Record('A cat.</s>An animal.', '0', 'So.')]


def test_a_column_that_is_left_is_the_missing_one():
  guessed, _ = record_of({'id': 1, 'Frage': 'Warum?', 'label': 'x'})
  assert guessed.inputs == ('Frage',)


def test_an_unknown_column_is_refused_with_all_columns():
  with pytest.raises(ValueError, match=r"--input=COLUMN.*'Frage' \('Warum\?'\)"):
    record_of({'Frage': 'Warum?', 'Antwort': 'x', 'Grund': 'y'})
  with pytest.raises(ValueError, match=r"no column 'Nope'.*'Frage'"):
    record_of({'Frage': 'Warum?', 'Antwort': 'x'}, label='Nope')


def test_an_answer_after_a_mark_is_the_label_and_the_rest_the_rationale():
  guessed, found = record_of({'question': '2 + 2?', 'answer': 'Two and two\nmake 4.\n#### 4'})
  assert guessed.answer_after == '####'
  assert found == [Record('2 + 2?', '4', 'Two and two\nmake 4.')]


@pytest.mark.parametrize(
  ('labels', 'expected'),
  [
    (('red', 'blue'), ('red', 'blue')),
    (('A', '(b)'), ('red', 'blue')),
    ((0, 1), ('red', 'blue')),
    (('1', '3'), ('red', 'green')),
  ],
)
def test_a_label_is_the_text_letter_or_number_of_a_choice(labels, expected):
  found = record_of(
    *({'passage': 'P', 'question': f'Q{n}', 'A': 'red', 'B': 'blue', 'C': 'green', 'answer': label}
      for n, label in enumerate(labels))
  )[1]  # fmt: skip
  assert tuple(one.label for one in found) == expected
  assert found[0].input == 'P</s>Q0\nAnswer Choices:\n(a) red\n(b) blue\n(c) green'


def test_a_number_that_may_count_from_0_or_1_is_refused():
  row = {'question': 'Q', 'choices': ['red', 'blue', 'green'], 'answer': 1}
  with pytest.raises(ValueError, match='from 0 or from 1'):
    record_of(row)


def test_labels_of_any_kind_become_one_line_of_text():
  texts = [{'text': 't', 'label': one} for one in ('a, b', 'red\nblue', ' x  y ', 3, 2.5, True)]
  texts += [{'text': 't', 'label': None}, {'text': 't', 'label': float('nan')}]
  found = [one.label for one in record_of(*texts)[1]]
  assert found == ['a, b', 'red blue', 'x y', '3', '2.5', 'true', '', '']


def labels_like(*labels, metric=''):
  return columns.labels_of([Record('t', one) for one in labels], Columns(label='label'), metric)


def test_labels_are_classes_numbers_or_texts():
  assert labels_like(*['yes', 'no'] * 3).choices.labels == ('no', 'yes')
  assert labels_like('1', '2,000', '3.5')[:2] == ('equation', None)
  assert labels_like('1', '2', '3', metric='text')[:2] == ('text', None)
  assert labels_like('Paris', 'Rome', 'Oslo')[:2] == ('text', None)
  assert labels_like(*['Yes', 'yes'] * 3).choices is None, 'a prompt cannot tell them apart'


def test_odd_labels_are_said():
  assert "'null'" in labels_like(*['null', 'b'] * 3).notes[0]
  assert "'Yes' and 'yes'" in labels_like(*['Yes', 'yes'] * 3).notes[0]


@pytest.mark.parametrize(
  ('label', 'said'), [('x', "every label is 'x'"), ('', 'no row has a label')]
)
def test_one_class_is_nothing_to_learn(label, said):
  with pytest.raises(ValueError, match=said):
    labels_like(label, label, label)


# ---------------------------------------------------------------- splits


def some(count, start=0):
  return [Record(f'Input {n}', 'ab'[n % 2]) for n in range(start, start + count)]


def test_missing_splits_have_the_same_share_of_every_label_and_no_input_of_train():
  made = splitting.split({'train': some(200)}, seed=0, by_label=True).records
  assert [len(made[name]) for name in splitting.SPLITS] == [162, 18, 20]
  for found in made.values():
    assert abs(sum(one.label == 'a' for one in found) - len(found) / 2) <= 1
  keys = [{splitting.key(one) for one in found} for found in made.values()]
  assert sum(map(len, keys)) == len(set.union(*keys)) == 200
  assert made == splitting.split({'train': some(200)}, seed=0, by_label=True).records
  assert made != splitting.split({'train': some(200)}, seed=1, by_label=True).records


def test_rows_of_one_input_go_together():
  records = [Record(text, 'ab'[n % 2]) for n in range(30) for text in (f'I {n}', f' i  {n}')]
  made = splitting.split({'train': records}, seed=0, by_label=True).records
  keys = [{splitting.key(one) for one in found} for found in made.values()]
  assert sum(map(len, keys)) == len(set.union(*keys)) == 30


def test_an_input_in_two_splits_stays_in_the_later_one():
  given = {'train': some(20), 'validation': some(5, 18), 'test': some(5, 20)}
  split = splitting.split(given, seed=0, by_label=True)
  assert [len(split.records[name]) for name in splitting.SPLITS] == [18, 2, 5]
  assert split.left_out == 5 and 'train: 2 rows are left out' in split.notes[0]


def test_rows_without_a_label_stay_in_train():
  records = some(20) + [Record(f'Unknown {n}', '') for n in range(40)]
  made = splitting.split({'train': records}, seed=0, by_label=True).records
  assert all(one.label for name in ('validation', 'test') for one in made[name])


def test_too_few_rows_are_refused():
  with pytest.raises(ValueError, match='--test=FILE'):
    splitting.split({'train': some(5)}, seed=0, by_label=True)


def test_odd_splits_are_said():
  given = {'train': some(20), 'validation': [Record('v', 'zebra')], 'test': [Record('t', 'a')] * 2}
  notes = ' '.join(splitting.split(given, seed=0, by_label=True).notes)
  assert "no row of train has the label 'zebra'" in notes and '1 rows repeat' in notes
