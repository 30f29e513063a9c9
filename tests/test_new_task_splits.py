"""The splits that `dss new-task` makes or is given: no leaks through groups, no rare label lost."""

import collections
import json
import pathlib

import pytest

from dss_jax import cli
from dss_jax.datasets import rows, splitting
from dss_jax.datasets.columns import CHOICES, Record
from dss_jax.datasets.splitting import SPLITS


def made(records, seed=0, by_label=True, **given):
  return splitting.split({'train': records, **given}, seed, by_label)


def counts(split, name):
  return collections.Counter(one.label for one in split.records[name])


def classes(**sizes):
  return [Record(f'{label} {n}', label) for label, count in sizes.items() for n in range(count)]


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize('sizes', [{'A': 5, 'B': 1, 'C': 54}, {'A': 2, 'B': 2, 'C': 20, 'D': 3}])
def test_no_label_is_lost_to_train_whatever_the_seed(sizes):
  drawn = collections.Counter()
  for seed in range(40):
    split = made(classes(**sizes), seed)
    assert set(counts(split, 'train')) == set(sizes)
    assert sum(len(split.records[name]) for name in SPLITS) == sum(sizes.values())
    for label, size in sizes.items():
      assert abs(counts(split, 'test')[label] - size / 10) <= 1
    drawn.update(counts(split, 'test').keys())
  rare = {label for label, size in sizes.items() if size == 1}
  assert set(drawn) == set(sizes) - rare
  assert all(drawn[label] < 40 for label, size in sizes.items() if size <= 5), 'the seed decides'


def test_a_group_of_several_labels_leaves_one_of_each_in_train():
  records = [Record(f'P{n}</s>{m}', 'abc'[(n + m) % 3] if n else 'rare', group=f'P{n}')
             for n in range(12) for m in range(3)]  # fmt: skip
  for seed in range(20):
    split = made(records, seed)
    assert set(counts(split, 'train')) == {'a', 'b', 'c', 'rare'}
  pairs = [Record(f'P{n}</s>{m}', f'r{n // 2}' if m else 'ab'[n % 2], group=f'P{n}')
           for n in range(40) for m in range(2)]  # fmt: skip
  for seed in range(60):
    assert len(counts(made(pairs, seed), 'train')) == 22


def test_shares_are_claimed_only_where_they_are_so():
  even, odd = made(classes(A=100, B=60)), made(classes(A=50, B=1))
  assert sum('the same share of every label' in note for note in even.notes) == 2
  assert not any('the same share' in note for note in odd.notes)
  assert "test: no row of it has the label 'B'." in odd.notes
  assert not any('no row of' in note for note in even.notes)


def test_six_inputs_are_enough_and_five_are_not():
  assert [len(made(classes(A=3, B=3)).records[name]) for name in SPLITS] == [4, 1, 1]
  with pytest.raises(ValueError, match=r'at least 6 different inputs.* got 5'):
    made(classes(A=3, B=2))
  with pytest.raises(ValueError, match='a label of two different inputs'):
    made(classes(**dict.fromkeys('ABCDEFG', 1)))


# ---------------------------------------------------------------- groups


def of_passages(count, each=5):
  return [Record(f'P{n}</s>Q{n} {m}', 'ab'[m % 2], group=f'P{n}')
          for n in range(count) for m in range(each)]  # fmt: skip


@pytest.mark.parametrize('by_label', [False, True])
def test_rows_of_one_group_go_to_one_split(by_label):
  split = made(of_passages(16), by_label=by_label)
  groups = {name: {one.group for one in split.records[name]} for name in SPLITS}
  assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 16
  assert [len(split.records[name]) for name in SPLITS] == [65, 5, 10]
  assert not any('share their group' in note for note in split.notes)


def test_a_question_with_its_choices_in_another_order_is_the_same():
  options = ('x', 'y', 'z')
  records = [
    Record(f'Q{n}{CHOICES}' + ''.join(f'\n({a}) {o}' for a, o in zip('abc', order, strict=True)),
           'x')
    for n in range(30) for order in (options, options[::-1])
  ]  # fmt: skip
  split = made(records, by_label=False)
  keys = {name: {splitting.key(one) for one in split.records[name]} for name in SPLITS}
  assert sum(map(len, keys.values())) == 30 and not any('repeat' in one for one in split.notes)
  given = made(records[::2], by_label=False, test=records[1:9:2])
  assert len(given.records['test']) == 4 and given.left_out == 4


def test_groups_that_given_splits_share_are_counted():
  split = made(of_passages(16)[:-6], test=of_passages(16)[-6:])
  assert any(note.startswith('test: 1 of 6 rows share their group') for note in split.notes)


def test_an_input_of_two_groups_is_in_one_split():
  records = [Record(f'Q{n // 2}', 'ab'[n % 4 // 2], group=f'{n}') for n in range(60)]
  split = made(records)
  keys = [{splitting.key(one) for one in split.records[name]} for name in SPLITS]
  assert sum(map(len, keys)) == 30 and split.left_out > 0


# ---------------------------------------------------------------- rows without a label


def test_what_has_no_label_is_in_no_split_that_judges():
  records = classes(A=20, B=20)
  twice = [Record(one.input, '') for one in records]
  split = made(records + twice)
  assert all(one.label for name in ('validation', 'test') for one in split.records[name])
  keys = [{splitting.key(one) for one in split.records[name]} for name in SPLITS]
  assert sum(map(len, keys)) == len(set.union(*keys)) == 40
  assert split.left_out == len(split.records['test']) + len(split.records['validation'])


def test_a_given_split_keeps_labelled_rows_only():
  test = [Record('T 1', 'A'), Record('T 2', '')]
  split = made(classes(A=9, B=9), test=test)
  assert split.records['test'] == test[:1] and split.left_out == 1
  assert 'test: 1 rows without a label are left out.' in split.notes
  with pytest.raises(ValueError, match='test: none of its 1 rows has a label'):
    made(classes(A=9, B=9), test=test[1:])


# ---------------------------------------------------------------- the command


def numbers(name):
  """The numbers of the questions in a split that was written."""
  found = rows.read(f'raw/my_groups/my_groups_{name}.json')
  return [int(row['input'].rpartition('Q')[2]) for _, row in found]


@pytest.mark.parametrize(
  ('flags', 'groups'), [([], 'passage'), (['--group=source'], 'source'), (['--group=none'], '')]
)
def test_the_command_says_and_keeps_groups(tmp_path, monkeypatch, capsys, flags, groups):
  monkeypatch.chdir(tmp_path)
  table = [
    {'passage': f'P{n // 4}', 'question': f'Q{n}', 'label': 'ab'[n % 2], 'source': f'S{n // 8}'}
    for n in range(160)
  ]
  table[3]['passage'] = table[3]['question'] = ' '
  pathlib.Path('a.jsonl').write_text(''.join(f'{json.dumps(row)}\n' for row in table))
  assert cli.main(['new-task', 'my_groups', '--from=a.jsonl', *flags]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[1] for line in lines if line.startswith('  group ')] == [groups] * bool(
    groups
  )
  report = json.loads(lines[-1])
  assert report['left_out'] == 1 and sum(report['splits'].values()) == 159
  size = {'passage': 4, 'source': 8, '': 1}[groups]
  parts = [{number // size for number in numbers(name)} for name in SPLITS]
  assert sum(map(len, parts)) == len(set.union(*parts)) == 160 // size - (size == 1)
