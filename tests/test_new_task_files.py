"""`dss new-task` and the files around it: what is not written over, mixed up or half done."""

import dataclasses
import json
import pathlib

import pytest

from dss_jax import cli
from dss_jax.commands import new_task_files
from dss_jax.datasets import release, rows
from dss_jax.datasets.columns import Record
from dss_jax.datasets.splitting import Split
from dss_jax.methods import Choices
from dss_jax.settings import whole_files
from dss_jax.tasks import builder
from dss_jax.teacher import answer_section

ROWS = [{'text': f'Text {n}.', 'label': 'ab'[n % 2]} for n in range(40)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """A working directory with a table of two classes."""
  monkeypatch.chdir(tmp_path)
  save('a.jsonl', ROWS)
  return tmp_path


def save(name, table):
  path = pathlib.Path(name)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(f'{json.dumps(row)}\n' for row in table))


def run(capsys, *argv):
  """Returns the status, the output's lines and the messages."""
  try:
    status = cli.main(['new-task', 'my_files', *argv])
  except SystemExit as end:
    status = end.code
  output = capsys.readouterr()
  return status, output.out.splitlines(), output.err


@pytest.mark.parametrize('flag', ['--from', '--test', '--validation'])
@pytest.mark.parametrize('link', [False, True])
def test_a_table_that_is_read_is_never_written_over(capsys, flag, link):
  own = pathlib.Path('raw/my_files/my_files_train.json')
  save(own, ROWS)
  pathlib.Path('link.json').symlink_to(own)
  before, path = own.read_bytes(), 'link.json' if link else f'./{own}'
  argv = [f'{flag}={path}'] + ([] if flag == '--from' else ['--from=a.jsonl'])
  for more in ([], ['--replace']):
    status, _, error = run(capsys, *argv, *more)
    assert status == 2 and 'is read' in error and '--replace' not in error
  assert own.read_bytes() == before and not list(pathlib.Path().glob('my_files*'))


def test_a_column_of_splits_is_not_dropped_when_a_file_is_given(capsys):
  save('a.jsonl', [{**row, 'split': 'test' if n > 35 else 'train'} for n, row in enumerate(ROWS)])
  save('b.jsonl', [{'text': f'Other {n}.', 'label': 'ab'[n % 2]} for n in range(4)])
  status, _, error = run(capsys, '--from=a.jsonl', '--test=b.jsonl')
  assert status == 2 and "'split'" in error and '--split=none' in error
  assert run(capsys, '--from=a.jsonl', '--test=b.jsonl', '--split=none')[0] == 0


FLAGS = ('test', 'validation', 'encoding', 'input', 'label', 'rationale', 'teacher_label',
         'choices', 'answer_after', 'split', 'teacher')  # fmt: skip


@pytest.mark.parametrize('flag', ['from', *FLAGS])
def test_an_empty_flag_is_refused(capsys, flag):
  status, _, error = run(capsys, '--from=a.jsonl', f'--{flag}=')
  assert status == 2 and 'expected a value' in error.splitlines()[-1]


@pytest.mark.parametrize('flag', ['input', 'choices'])
def test_a_list_without_a_name_is_refused(capsys, flag):
  status, _, error = run(capsys, '--from=a.jsonl', f'--{flag}=,')
  assert status == 2 and 'expected names of columns' in error


# ---------------------------------------------------------------- what is written


def split_of(*records):
  return Split({'train': list(records), 'validation': [], 'test': []}, (), 0)


def test_letters_that_are_not_ascii_are_a_token_each():
  """A vocabulary of `dss vocab` has about a token for each letter of Japanese."""
  assert new_task_files.tokens('今日は良い天気です') >= 9
  assert new_task_files.tokens('x' * 300) == 101
  japanese = new_task_files.lengths(
    split_of(Record('今' * 300, 'はい'), Record('今' * 300, 'いいえ'))
  )
  english = new_task_files.lengths(split_of(Record('x' * 300, 'yes'), Record('x' * 300, 'no')))
  assert japanese.inputs >= 308 and english.inputs == 128 and not japanese.notes + english.notes


@pytest.mark.parametrize(
  ('record', 'said'),
  [
    (Record('x' * 9000, 'a'), 'about 1 inputs, of 1024 tokens at most'),
    (Record('x', 'a' * 900), 'about 1 labels, of 256 tokens at most'),
    (Record('x', 'a', 'w' * 900), 'about 1 rationales, of 256 tokens at most'),
    (Record('x', 'a', ['w', 'w' * 900]), 'about 1 rationales, of 256 tokens at most'),
  ],
)
def test_what_will_be_cut_is_said(record, said):
  found = new_task_files.lengths(split_of(record, Record('y', 'b')))
  assert [note[: len(said)] for note in found.notes] == [said]
  many = new_task_files.lengths(split_of(*[Record('y', 'b')] * 300, Record('y' * 3000, 'b')))
  assert many.inputs == 32 and many.notes[0].startswith('about 1 inputs, of 32')


@pytest.mark.parametrize(('count', 'method'), [(1, 'standard'), (19, 'standard'), (36, 'dss')])
def test_few_rationales_are_not_enough_for_step_by_step(capsys, count, method):
  save('a.jsonl', [{**row, 'why': 'So.' if n < count else ''} for n, row in enumerate(ROWS)])
  status, lines, _ = run(capsys, '--from=a.jsonl')
  assert status == 0 and any(f'--gin_file=methods/{method}.gin' in line for line in lines)
  assert any('rows have a rationale' in line for line in lines) == (method == 'standard')


@pytest.mark.parametrize('broken', range(6))
def test_an_interrupted_replacement_leaves_the_earlier_try(capsys, monkeypatch, broken):
  assert run(capsys, '--from=a.jsonl')[0] == 0
  before = contents()
  save('a.jsonl', [{'text': f'New {n}.', 'label': 'xy'[n % 2]} for n in range(40)])
  write, written = whole_files.write_text, []

  def interrupted(path, text):
    written.append(path)
    if len(written) > broken:
      raise KeyboardInterrupt
    write(path, text)

  monkeypatch.setattr(whole_files, 'write_text', interrupted)
  try:
    status = cli.main(['new-task', 'my_files', '--from=a.jsonl', '--replace'])
  except KeyboardInterrupt:
    status = 130
  assert status != 0 and contents() == before


def contents():
  return {path: path.read_bytes() for path in pathlib.Path().rglob('*my_files*') if path.is_file()}


@pytest.mark.parametrize(('file', 'status'), [('__init__.py', 2), ('rows.csv', 0)])
def test_a_folder_of_the_name_is_refused_if_it_is_a_module(capsys, file, status):
  pathlib.Path('my_files').mkdir()
  pathlib.Path('my_files', file).touch()
  found, _, error = run(capsys, '--from=a.jsonl')
  assert found == status and ('the folder my_files' in error) == (status == 2)


# ---------------------------------------------------------------- what is read of it


def test_a_teacher_is_looked_for_once_and_only_where_rows_may_hold_one():
  read = []

  def reader(path):
    read.append(path)
    return rows.read(path)

  files = release.SplitFiles(pathlib.Path('b.jsonl'), ())
  save('b.jsonl', [{'input': row['text'], 'label': row['label']} for row in ROWS])
  answer = answer_section.Answer('So', Choices(['a', 'b']), 'text')
  own = dataclasses.replace(answer.dataset('mine', ()), read=reader)
  with pytest.raises(ValueError, match='judges teacher outputs'):
    builder.prepare(own, {'train': files}, 'data', 'agree')
  assert len(read) == 1
  none = dataclasses.replace(own, given=None)
  with pytest.raises(ValueError, match='judges teacher outputs'):
    builder.prepare(none, {'train': files}, 'data', 'agree')
  assert len(read) == 1
  save('b.jsonl', [{'input': 'T', 'label': 'a', 'rationale': ['x'], 'teacher_label': ['a', 'b']}])
  with pytest.raises(ValueError, match=r'^b.jsonl, line 1: expected as many rationales'):
    builder.prepare(own, {'train': files}, 'data')
