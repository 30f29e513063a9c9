"""`dss predict`: inputs of one's own become the tasks' tokens and get a label and a rationale."""

import gzip
import io
import json
import re

import numpy as np
import pytest
import run_folders
from run_folders import INPUTS, NAME

from dss_jax import methods
from dss_jax.commands import predict
from dss_jax.datasets import rows
from dss_jax.inference import evaluator, predictor
from dss_jax.runs import evaluation
from dss_jax.tasks import vocabulary


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return run_folders.make_run(tmp_path_factory.mktemp('predict') / 'run')


def run_main(capsys, *arguments):
  assert predict.main(list(arguments)) == 0
  return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize('spec', ['bytes', 'embedded_arithmetic'])
@pytest.mark.parametrize('name', ['label', 'rationale', 'standard'])
def test_tokens_are_those_of_the_task(spec, name):
  run_folders.register()
  (row,) = methods.get(name).rows
  with vocabulary.temporary_vocabulary(spec) as known:
    expected = evaluator.load_examples(f'{NAME}_{name}', 'test')
    asked = predictor.Predictor(None, methods.get(name), known, None)
    found = asked.encode(row, INPUTS)
  np.testing.assert_array_equal(found.inputs, expected.inputs)
  np.testing.assert_array_equal(found.input_offsets, expected.input_offsets)
  assert len(found.target_lengths) == len(INPUTS)


def test_answers_are_those_of_evaluation(run):
  answers = predict.predict(predict.PredictConfig(run), INPUTS)
  assert [answer['input'] for answer in answers] == INPUTS
  for task in ('label', 'rationale'):
    output = f'{run}/{task}.jsonl'
    evaluation.evaluate(evaluation.EvaluateConfig(run, task=f'{NAME}_{task}', output=output))
    with open(output, encoding='utf-8') as lines:
      expected = [json.loads(line)['prediction'] for line in lines]
    assert [answer[task] for answer in answers] == expected
    assert len(set(expected)) > 1


def test_an_input_given_alone_gets_the_same_answer(run):
  together = predict.predict(predict.PredictConfig(run), INPUTS)
  assert predict.predict(predict.PredictConfig(run), INPUTS[1:2]) == together[1:2]


def test_a_student_without_prefixes_has_no_rationale(tmp_path):
  run = run_folders.make_run(tmp_path / 'run', 'standard')
  (answer,) = predict.predict(predict.PredictConfig(run), ['Is rain wet?'])
  assert answer['rationale'] is None
  assert isinstance(answer['label'], str)


def test_inputs_come_from_arguments_files_and_standard_input(run, tmp_path, capsys, monkeypatch):
  for name in ('one.jsonl', 'two.txt'):
    (tmp_path / name).write_text(f'{{"input": "{name} \\u2028 é", "label": "x"}}\n\n', 'utf-8')
  monkeypatch.setattr('sys.stdin', io.StringIO('{"input": "read"}\n{"input": "twice"}\n'))
  answers = run_main(
    capsys, '--input=5 = 2 + 3', f'--model_dir={run}', '--input', 'apart',
    f'--input={tmp_path}/one.jsonl', f'--input_file={tmp_path}/two.txt', '--input=-',
  )  # fmt: skip
  inputs = [answer['input'] for answer in answers]
  files = ['one.jsonl \u2028 é', 'two.txt \u2028 é']
  assert inputs == ['5 = 2 + 3', 'apart', *files, 'read', 'twice']
  assert all(set(answer) == {'input', 'label', 'rationale'} for answer in answers)


def asked(*arguments):
  """The questions of a command line."""
  sources, rest = predict._split_inputs(arguments)
  assert not rest
  return [question for source in sources for question in predict._read(*source)]


@pytest.mark.parametrize('name', ['q.json', 'q.JSONL', 'q.jsonl.gz', 'my q.csv', 'q.tsv'])
def test_an_existing_file_of_rows_is_read_whatever_its_format(tmp_path, name):
  header, row = '{"input": "a"}\n', '{"input": "\u00e9", "number": 3}\r\n'
  content = ('input\na\nr\n' if rows.format_of(name) in ('.csv', '.tsv') else header + row).encode()
  (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith('.gz') else content)
  expected = [{'input': 'a'}, {'input': 'r' if b'{' not in content else 'é'}]
  assert asked(f'--input={tmp_path / name}') == expected
  assert asked(f'--input_file={tmp_path / name}') == expected


@pytest.mark.parametrize('name', ['q.txt', 'q', 'folder', 'q.parquet', 'q.xml', 'nowhere.txt'])
def test_what_exists_and_is_no_file_of_rows_is_never_a_text(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'folder').mkdir()
  for path in ('q.txt', 'q', 'q.parquet', 'q.xml'):
    (tmp_path / path).write_text('{"input": "a"}')
  with pytest.raises(ValueError, match=r'expected JSON lines \(\.jsonl, \.json\), \.csv or \.tsv'):
    asked(f'--input={name}')


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    ('nowhere.json', 'nowhere.json: no such file'),
    ('a.csv,b.csv', 'a.csv,b.csv: no such file'),
    ('my nowhere.jsonl', 'my nowhere.jsonl: no such file'),
    ('*.tsv.gz', 'no such file'),
    ('my nope.csv', 'my nope.csv: no such file'),
    ('/nowhere', '--input=/nowhere is a file or folder'),
    ('s3://b/q.bz2', 'is a file or folder'),
    ('nope.parquet', 'is a file or folder'),
    ('nope.jsonl.bz2', 'is a file or folder'),
    ('link.jsonl', 'link.jsonl: a link to nothing'),
    ('@q.jsonl', 'leave out the @: --input=q.jsonl'),
    ('gs://bucket/folder', 'expected JSON lines'),
    ('empty.jsonl', 'empty.jsonl: the file has no rows'),
    ('folder.csv', 'folder.csv is a folder'),
  ],
)
def test_a_path_that_cannot_be_read_is_refused(tmp_path, monkeypatch, value, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'link.jsonl').symlink_to('nothing')
  (tmp_path / 'folder.csv').mkdir()
  (tmp_path / 'empty.jsonl').touch()
  (tmp_path / 'q.jsonl').write_text('{"input": "a"}')
  with pytest.raises(ValueError, match=re.escape(message)):
    asked(f'--input={value}')


def test_a_text_is_a_text():
  for text in ('What is in data.json?', 'x' * 5000, 'and/or', '', 'a\0b', '@me', 'v1.5', 'é.'):
    assert asked(f'--input={text}') == [text]


@pytest.mark.parametrize('name', ['q.txt', 'folder', 'binary'])
def test_an_input_file_of_another_kind_is_refused(tmp_path, name):
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'q.txt').write_text('one question a line')
  (tmp_path / 'binary').write_bytes(b'{"input": "a"}\n\x93NUMPY')
  where = {'q.txt': 'q.txt, line 1: expected a JSON', 'binary': 'binary, line 2: byte 1 is 0x93'}
  with pytest.raises(ValueError, match=where.get(name, 'folder is a folder')):
    asked(f'--input_file={tmp_path / name}')


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'standard input: the file has no rows'),
    (b'{"input": "a"}\n\xff', 'standard input, line 2: byte 1 is 0xff'),
    (b'{"question": "a"}', "standard input, line 1: expected a text in field 'input', but the row"),
    ('{}'.encode('utf-16'), 'standard input is UTF-16'),
  ],
)
def test_standard_input_is_checked_like_a_file(monkeypatch, content, message):
  monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(content)))
  with pytest.raises(ValueError, match=message):
    asked('--input=-')
  monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(b'\xef\xbb\xbf{"input": "a"}')))
  assert asked('--input=-') == [{'input': 'a'}]


@pytest.mark.parametrize(
  ('output', 'message'),
  [
    ('in.jsonl', 'in.jsonl is one of the inputs'),
    ('./link.jsonl', 'is one of the inputs'),
    ('folder', 'folder is no file'),
    ('/dev/null', '/dev/null is no file'),
    ('nowhere/out.jsonl', 'is in a folder that does not exist'),
  ],
)
def test_an_output_that_would_lose_something_is_refused_at_once(
  tmp_path, monkeypatch, output, message
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'in.jsonl').write_text('{"input": "a"}')
  (tmp_path / 'link.jsonl').symlink_to('in.jsonl')
  with pytest.raises(ValueError, match=message):
    predict.main(['--model_dir=no_run', '--input=in.jsonl', f'--output={output}'])
  assert (tmp_path / 'in.jsonl').read_text() == '{"input": "a"}'


def test_a_question_that_is_no_text_is_named(run):
  settings = predict.PredictConfig(run)
  with pytest.raises(ValueError, match=r"input 2 of 2: .*'.udce9', which is no character"):
    predict.predict(settings, ['fine', 'caf\udce9'])
  with pytest.raises(ValueError, match=r"input 1 of 1: expected a text in field 'input', but the"):
    predict.predict(settings, [{'question': 'x'}])


def test_answers_can_go_to_a_file(run, tmp_path, capsys):
  output = tmp_path / 'answers.jsonl'
  assert run_main(capsys, f'--model_dir={run}', '--input=x', f'--output={output}') == []
  (line,) = output.read_text('utf-8').splitlines()
  assert json.loads(line)['input'] == 'x'
  assert [path.name for path in tmp_path.iterdir()] == ['answers.jsonl']


def test_cut_inputs_are_reported_apart_from_the_answers(run, capsys):
  assert predict.main([f'--model_dir={run}', f'--input={"long " * 20}', '--input=short']) == 0
  captured = capsys.readouterr()
  assert 'label: 1 of 2 inputs are cut at 48 tokens' in captured.err
  assert 'rationale: 1 of 2 inputs are cut' in captured.err
  assert len(captured.out.splitlines()) == 2


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'no input; give --input'),
    (['--input'], '--input needs a value'),
    (['--input=x', '--input= '], 'input 2 of 2 is blank'),
    (['--input=nowhere.jsonl'], 'nowhere.jsonl: no such file'),
    (['--input_file=nowhere'], 'nowhere: no such file'),
    (['--inptu=x'], 'INPTU'),
  ],
)
def test_what_is_wrong_is_said(run, arguments, message):
  with pytest.raises(ValueError, match=message):
    predict.main([f'--model_dir={run}', *arguments])


@pytest.mark.parametrize('line', ['plain text', '["input"]', '{"question": "x"}', '{"input": 3}'])
def test_a_line_that_is_no_input_is_named(run, tmp_path, line):
  path = tmp_path / 'in.jsonl'
  path.write_text(f'{{"input": "fine"}}\n{line}\n', 'utf-8')
  with pytest.raises(ValueError, match=r'in\.jsonl, line 2: expected'):
    predict.main([f'--model_dir={run}', f'--input={path}'])


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(ValueError, match='holds no run'):
    predict.predict(predict.PredictConfig(str(tmp_path)), ['x'])
