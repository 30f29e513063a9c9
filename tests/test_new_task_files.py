"""`dss new-task` and the files around it: what is not written over, mixed up or half done."""

import dataclasses
import json
import pathlib

import pytest

from dss_jax import cli
from dss_jax.datasets import release, rows
from dss_jax.methods import Choices
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
