"""Values that people type, at the verbs without gin files: one sentence, or the right value.

The kinds are None, 1e4, 10k, ~, a path that is none, an empty or broken file, a wrong type. Nothing
here asks a server: what passes the checks writes a batch file instead.
"""

import json
import os
import pathlib

import pytest

from dss_jax import cli
from dss_jax.commands import annotate_options, vocab
from dss_jax.experiments import configuration

PROMPT = """
instruction = "Say."
question = "Q: {input}"
completion = "{rationale} So the answer is {answer}."
max_tokens = 50
[answer]
marker = "So the answer is"
choices = ["a", "b"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  (tmp_path / 'home').mkdir()
  rows = [{'input': f'Q {n}', 'label': 'ab'[n % 2]} for n in range(4)]
  pathlib.Path('ok.jsonl').write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
  pathlib.Path('empty.jsonl').touch()
  pathlib.Path('latin.jsonl').write_bytes('{"input": "café"}\n'.encode('latin-1'))
  pathlib.Path('folder').mkdir()
  os.symlink('/nowhere', 'link.jsonl')
  pathlib.Path('p.toml').write_text(PROMPT)
  return tmp_path


def run(capsys, *argv):
  """Returns the exit code and the message."""
  try:
    status = cli.main(argv)
  except SystemExit as end:
    status = end.code
  return status, capsys.readouterr().err


def annotate(capsys, *more, prompt='p.toml', rows='ok.jsonl', output='out'):
  return run(
    capsys, 'annotate', '--dataset=mine', '--model=m', '--base_url=http://127.0.0.1:9/v1',
    f'--prompt={prompt}', f'--input={rows}', f'--output={output}', '--write_batch=batch', *more,
  )  # fmt: skip


@pytest.mark.parametrize(
  ('flag', 'said'),
  [
    ('--max_usd=None', "a number, 0 or more, got 'None'"),
    ('--limit=10k', "a whole number, 1 or more, got '10k'"),
    ('--limit=1.5', "a whole number, 1 or more, got '1.5'"),
    ('--limit=1e999', 'a whole number'),
    ('--limit=0', "got '0'"),
    ('--temperature=nan', "a number, 0 or more, got 'nan'"),
    ('--requests_per_minute=0', 'more than 0'),
    ('--output=None', 'leave the flag out'),
    ('--model=', 'expected a value'),
    ('--dataset= ', 'expected a value'),
    ('--store=folder', 'is a folder; --store names a file'),
    ('--output=ok.jsonl', 'is a file; expected a folder'),
    ('--input=link.jsonl', 'a link to /nowhere'),
    ('--input=folder', 'is a folder; expected JSON lines'),
    ('--input=empty.jsonl', 'no rows'),
    ('--input=latin.jsonl', 'not UTF-8'),
    ('--input=~/no.jsonl', 'home/no.jsonl is missing'),
    ('--input=p.toml', 'expected JSON lines'),
    ('--price_file=empty.jsonl', 'not JSON'),
    ('--prompt=None', 'expected a value'),
    ('--prompt=folder', 'no prompt'),
    ('--samplse=3', 'unrecognized arguments: --samplse=3'),
  ],
)
def test_annotate_refuses_in_a_sentence(capsys, flag, said):
  status, error = annotate(capsys, flag)
  last = error.splitlines()[-1]
  assert status == 2 and said in last and 'Traceback' not in error, error
  assert not list(pathlib.Path().glob('batch/*.jsonl'))


@pytest.mark.parametrize(('typed', 'value'), [('1e4', 10_000), ('12', 12), (' 7 ', 7), ('+3', 3)])
def test_a_whole_number_may_be_typed_as_people_do(typed, value):
  argv = ['--dataset=d', '--model=m', f'--limit={typed}']
  assert annotate_options.parser().parse_args(argv).limit == value
  argv = ['--task=t', '--output=o.model', f'--size={typed}']
  assert vocab.parser().parse_args(argv).size == value


def test_a_home_folder_is_found(capsys, folder):
  status, error = annotate(capsys, output='~/out')
  assert status == 0, error
  assert (folder / 'home' / 'out' / 'answers.sqlite').is_file() and not os.path.exists('~')


@pytest.mark.parametrize(
  ('old', 'new', 'said'),
  [
    ('50', '"50"', "'max_tokens'"),
    ('50', '1e4', 'got 10000.0'),
    ('50', 'true', 'got true'),
    ('["a", "b"]', '"a"', 'expected a list of texts'),
    ('["a", "b"]', '["a"]', 'at least two labels'),
    ('choices = ["a", "b"]', 'listed = 99', 'at most 26'),
    ('{input}', '{inptu}', 'ok.jsonl: the question of q.toml: expected a text in field'),
    ('max_tokens', 'max_token', 'there are max_tokens'),
    ('"Say."', '"Say.', 'not valid TOML'),
    ('So the answer', 'caf\udce9', 'not UTF-8'),
  ],
)
def test_a_prompt_is_refused_with_its_file_and_field(capsys, old, new, said):
  text = PROMPT.replace(old, new)
  pathlib.Path('q.toml').write_bytes(text.encode('utf-8', 'surrogateescape'))
  status, error = annotate(capsys, prompt='q.toml')
  assert status == 2 and said in error and 'q.toml' in error and error.count('\n') == 1


def test_a_prompt_may_start_with_a_byte_order_mark(capsys):
  pathlib.Path('q.toml').write_text(f'\ufeff{PROMPT}'.replace('\n', '\r\n'))
  status, error = annotate(capsys, prompt='q.toml')
  assert status == 0, error


@pytest.mark.parametrize(
  ('argv', 'said'),
  [
    (['--from=ok.jsonl', '--seed=-1'], 'a whole number, 0 or more'),
    (['--from=ok.jsonl', '--encoding=utf-9'], 'no such encoding'),
    (['--from=latin.jsonl', '--encoding=ascii'], 'not text in ascii'),
    (['--from=gs://b/x.csv'], 'copy it here'),
    (['--from=folder'], 'is a folder'),
    (['--from=link.jsonl'], 'a link to /nowhere'),
    (['--from=ok.jsonl', '--test=ok.jsonl'], 'no row is left in train'),
    (['--from=ok.jsonl', '--input=input,input'], 'named for two things'),
    (['--from=ok.jsonl', '--split=None'], 'expected at least 6 different inputs'),
    (['--from=ok.jsonl', '--test='], "expected a value, got ''"),
    (['--from=None'], "expected a value, got 'None'"),
    (['--from=ok.jsonl', '--input=,'], "expected names of columns, got ','"),
    (['--from=ok.jsonl', '--split=nope'], "no column 'nope'"),
    (['--from=ok.jsonl', '--split=label', '--test=ok.jsonl'], 'not both'),
    (['--from=ok.jsonl'], 'expected at least 6 different inputs'),
  ],
)
def test_new_task_refuses_in_a_sentence(capsys, argv, said):
  status, error = run(capsys, 'new-task', 'mine_edge', *argv)
  assert status == 2 and said in error.splitlines()[-1], error
  assert not list(pathlib.Path().glob('mine_edge*'))


def test_a_file_of_t5x_is_needed_to_explain_one(capsys):
  status, error = run(capsys, 'train', '--explain_t5x')
  assert status == 2 and '--explain_t5x=FILE' in error


@pytest.mark.parametrize('method', ['None', 'none', ''])
def test_none_is_no_method_of_a_sweep(method):
  with pytest.raises(ValueError, match='METHODS are names'):
    configuration.reader([], 'runs/sweep.gin')(method, {})
