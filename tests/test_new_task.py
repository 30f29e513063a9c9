"""`dss new-task`: odd tables, and what is written."""

import importlib
import json
import os
import pathlib
import sys
import tomllib

import pytest
import teacher_server

from dss_jax import cli, datasets
from dss_jax.datasets import rows, tables
from dss_jax.teacher import prompts

REAL = os.environ.get('DSS_RAW_DIR', '')
EXTRA = pathlib.Path(REAL or '/nowhere') / 'extra'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """The working directory of each test; modules that it registers are forgotten."""
  monkeypatch.chdir(tmp_path)
  path = list(sys.path)
  registered = dict(datasets.registry._datasets)
  yield tmp_path
  sys.path[:] = path
  for name in [name for name in sys.modules if name.startswith('my_')]:
    del sys.modules[name]
  datasets.registry._datasets.clear()
  datasets.registry._datasets.update(registered)


def run(capsys, *argv):
  """Runs the command; returns its status, its report, all lines, and messages."""
  status = cli.main(['new-task', *argv])
  output = capsys.readouterr()
  lines = output.out.splitlines()
  return status, json.loads(lines[-1]) if status == 0 else None, lines, output.err


def written(name, split):
  return [row for _, row in rows.read(pathlib.Path('raw', name, f'{name}_{split}.json'))]


def reviews(count=60, **more):
  """Rows of two classes, each with a text of its own."""
  return [
    {'text': f'Review number {n}.', 'label': ('good', 'bad')[n % 2],
     'explanation': f'Word {n} says so.', **more}
    for n in range(count)
  ]  # fmt: skip


def save(name, table):
  pathlib.Path(name).write_text(''.join(f'{json.dumps(row)}\n' for row in table))
  return name


# ---------------------------------------------------------------- tables


def cells(path, encoding=None):
  return [row for _, row in tables.read(path, encoding).rows]


@pytest.mark.parametrize(
  'content',
  [
    '\ufefftext,label\r\n"Zoë said ""no"", then\r\nleft",bad\r\n'.encode(),
    'text;label\r\n"Zoë said ""no"", then\r\nleft";bad\r\n'.encode('cp1252'),
    'sep=;\r\ntext;label\r\n"Zoë said ""no"", then\r\nleft";bad\r\n'.encode(),
    'text\tlabel\n"Zoë said ""no"", then\nleft"\tbad\n'.encode('utf-16'),
    'text,label\r"Zoë said ""no"", then\rleft",bad\r'.encode(),
  ],
  ids=['mark', 'windows-1252', 'sep', 'utf-16', 'carriage-returns'],
)
def test_a_spreadsheets_table_is_read_whatever_it_saved(content):
  pathlib.Path('a.csv').write_bytes(content)
  assert cells('a.csv') == [{'text': 'Zoë said "no", then\nleft', 'label': 'bad'}]


def test_a_guessed_encoding_and_separator_are_said():
  pathlib.Path('a.csv').write_bytes('text;label\nZoë;bad\n'.encode('cp1252'))
  notes = ' '.join(tables.read('a.csv').notes)
  assert 'windows-1252' in notes and '--encoding' in notes and "';' separates" in notes
  assert cells('a.csv', 'cp850')[0]['text'] == 'Zo\u00d9'


def test_one_bad_byte_does_not_change_the_letters_of_other_lines():
  text = 'text,label\n' + ''.join(f'Zoë {n},bad\n' for n in range(40))
  pathlib.Path('a.csv').write_bytes(text.encode() + b'\xff,good\n')
  with pytest.raises(
    ValueError, match=r'^a\.csv, line 42: byte 482 of the file is 0xff, .*windows'
  ):
    tables.read('a.csv')
  assert cells('a.csv', 'windows-1252')[40]['text'] == 'ÿ'


@pytest.mark.parametrize('name', ['a.jsonl', 'a.json', 'a.xml'])
def test_only_csv_is_guessed_to_be_windows_1252(name):
  text = '<a><b><c>é</c></b></a>' if name == 'a.xml' else '{"c": "é"}'
  pathlib.Path(name).write_bytes(text.encode('cp1252'))
  with pytest.raises(ValueError, match=rf'^{name}, line 1: byte \d+ of the file is 0xe9'):
    tables.read(name)
  assert cells(name, 'cp1252') == [{'c': 'é'}]


@pytest.mark.parametrize('encoding', ['windows-1251', 'KOI8-R', 'utf-8', 'Shift_JIS', 'UTF-16'])
def test_xml_is_of_the_encoding_that_it_names(encoding):
  text = f"<?xml version='1.0' encoding='{encoding}'?>\n<a><b><c>Да</c></b></a>"
  pathlib.Path('a.xml').write_bytes(text.encode(encoding))
  assert cells('a.xml') == [{'c': 'Да'}]
  with pytest.raises(ValueError, match='knows no such encoding'):
    tables.read('a.xml', 'utf-9')


def test_json_may_be_one_list_and_have_objects_within():
  row = {'question': {'stem': 'Why?', 'choices': [{'label': 'A', 'text': 'so'}]}, 'answerKey': 'A'}
  pathlib.Path('a.json').write_text(json.dumps([row, row]))
  assert cells('a.json')[1] == {
    'question.stem': 'Why?', 'question.choices': ['so'], 'answerKey': 'A',
  }  # fmt: skip


def test_the_elements_of_xml_that_repeat_are_rows():
  pathlib.Path('a.xml').write_text(
    '<?xml version="1.0" encoding="UTF-8"?><All><Set><P ID="1"><Body>A</Body><Q>b</Q></P>'
    '<P ID="2"><Body>C</Body><Q>d <i>e</i></Q></P></Set></All>'
  )
  assert cells('a.xml') == [
    {'ID': '1', 'Body': 'A', 'Q': 'b'},
    {'ID': '2', 'Body': 'C', 'Q': 'd e'},
  ]


@pytest.mark.parametrize(
  ('name', 'content', 'said'),
  [
    ('a.xlsx', b'PK', 'save the sheet as CSV UTF-8'),
    ('a.txt', b'x', 'rename it to .tsv'),
    ('a.csv', b'', 'no rows'),
    ('a.csv', b'text,label\n', 'no rows'),
    ('a.csv', b'text,label\na\0b,c\n', 'NUL byte'),
    ('a.csv', b'text,label\na,b,c\n', 'expected 2 cells'),
    ('a.csv', b'text;label\n"a;b\n', 'not valid CSV'),
    ('a.jsonl', b'[1, 2]', 'list of JSON objects'),
    ('a.jsonl', b'{"text": "\\ud800"}\n', 'no character'),
    ('a.jsonl.gz', b'{}', 'gzip'),
    ('a.xml', b'<!DOCTYPE a [<!ENTITY b "c">]><a/>', 'document type'),
    ('a.xml', b'<a><b/></a>', 'no rows'),
    ('a.csv', b'text,label\n\x81,b\n', '--encoding'),
  ],
)
def test_what_is_no_table_is_refused_in_a_sentence(capsys, name, content, said):
  pathlib.Path(name).write_bytes(content)
  status, _, _, error = run(capsys, 'mine_a', f'--from={name}')
  assert status == 2 and said in error and name in error and error.count('\n') == 1


@pytest.mark.parametrize('path', ['nothing.csv', '.', '~/no/such.csv'])
def test_a_path_without_a_file_is_refused(capsys, path):
  status, _, _, error = run(capsys, 'mine_a', f'--from={path}')
  assert status == 2 and 'expected' in error and error.count('\n') == 1


# ---------------------------------------------------------------- the command


def test_what_is_written_is_prepared_and_has_its_tasks(capsys):
  """The module's data set reads its own rows, and its prompt the rationales out of them."""
  status, report, lines, _ = run(capsys, 'my_reviews', f'--from={save("a.jsonl", reviews())}')
  assert status == 0 and report['splits'] == {'train': 49, 'validation': 5, 'test': 6}
  assert any('2 classes' in line for line in lines)
  assert written('my_reviews', 'train')[0] == {
    'input': 'Review number 0.', 'label': 'good', 'rationale': 'Word 0 says so.',
  }  # fmt: skip
  assert len(prompts.load('my_reviews.toml').exemplars) == 8
  argv = ['--dataset=my_reviews', '--module=my_reviews', '--raw_dir=raw', '--data_dir=data']
  assert cli.main(['prepare', *argv]) == 0
  counts = json.loads(capsys.readouterr().out.splitlines()[-1])['splits']['train']
  assert counts == {
    'examples': 49, 'teacher_accuracy': None, 'unparsed': None, 'empty_rationale': 0,
    'disagree': None,
  }  # fmt: skip
  dataset = datasets.get('my_reviews')
  assert dataset.choices.labels == ('bad', 'good')


def test_a_teachers_labels_of_a_table_are_judged(capsys):
  table = reviews(teacher_label='good', rationale=['One.', 'Two.'])
  for row in table:
    row['teacher_label'] = ['good', row['label']]
  status, _, _, error = run(
    capsys, 'my_judged', f'--from={save("a.jsonl", table)}', '--teacher=a model'
  )
  assert status == 0, error
  argv = ['--dataset=my_judged', '--module=my_judged', '--raw_dir=raw', '--data_dir=data']
  assert cli.main(['prepare', *argv, '--filter=agree']) == 0
  report = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert report['teacher'] == 'a model' and report['splits']['test']['teacher_accuracy'] == 0.75
  bad = sum(row['label'] == 'bad' for row in written('my_judged', 'train'))
  assert report['splits']['train']['disagree'] == bad == report['dropped']['agree']


def test_the_gin_file_is_read_by_the_trainer(capsys):
  from dss_jax.settings import gin_files

  run(capsys, 'my_gin', f'--from={save("a.jsonl", reviews())}')
  argv = ['--gin_file=models/t5_1_1/tiny.gin', '--gin_file=my_gin.gin', '--model_dir=runs/a']
  gin_files.parse([*argv, '--gin_file=methods/dss.gin'], 'runs/train.gin')
  text = pathlib.Path('my_gin.gin').read_text()
  assert "TASK_FEATURE_LENGTHS = {'inputs': 32, 'targets': 32}" in text


def test_a_table_without_rationales_is_for_annotate_or_standard_training(capsys):
  table = [{'text': f'Review {n}', 'label': 'ab'[n % 2]} for n in range(40)]
  status, _, lines, _ = run(capsys, 'my_plain', f'--from={save("a.jsonl", table)}')
  assert status == 0
  assert any('dss annotate --dataset=my_plain' in line for line in lines)
  assert any('methods/standard.gin' in line for line in lines)
  prompt = prompts.load('my_plain.toml')
  assert prompt.exemplars == () and prompt.answer.choices.labels == ('a', 'b')


def test_a_teacher_is_asked_by_the_prompt_that_was_written(capsys):
  table = [{'text': f'Review {n}', 'label': 'ab'[n % 2]} for n in range(40)]
  assert run(capsys, 'my_asked', f'--from={save("a.jsonl", table)}')[0] == 0
  answers = {row['text']: f'Because. So the answer is {row["label"]}.' for row in table}
  shared = ['--dataset=my_asked', '--module=my_asked', '--raw_dir=raw']
  with teacher_server.serve(answers) as server:
    argv = [*shared, '--prompt=my_asked.toml', '--output=out', '--model=m']
    assert cli.main(['annotate', *argv, f'--base_url={server.url}']) == 0
  assert cli.main(['prepare', *shared, '--teacher_outputs=out', '--data_dir=data']) == 0
  report = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert report['teacher'] == 'm' and report['splits']['train']['teacher_accuracy'] == 1.0
  assert report['statuses']['train'] == {'ok': 32}


def test_a_column_of_splits_is_followed(capsys):
  table = reviews(40)
  for n, row in enumerate(table):
    row['split'] = ('train', 'dev', 'TEST')[max(0, n - 37)]
  status, report, _, _ = run(capsys, 'my_split', f'--from={save("a.jsonl", table)}')
  assert status == 0 and report['splits'] == {'train': 38, 'validation': 1, 'test': 1}
  status, report, _, _ = run(capsys, 'my_split', '--from=a.jsonl', '--split=none', '--replace')
  assert report['splits'] == {'train': 32, 'validation': 4, 'test': 4}
  table[0]['split'] = 'holdout'
  save('a.jsonl', table)
  status, _, _, error = run(capsys, 'my_split', '--from=a.jsonl', '--replace')
  assert status == 2 and "got 'holdout'" in error and 'row at 1' in error


def test_rows_without_an_input_are_left_out_and_counted(capsys):
  table = reviews(40)
  table[3]['text'] = ' '
  status, report, lines, _ = run(capsys, 'my_blank', f'--from={save("a.jsonl", table)}')
  assert status == 0 and sum(report['splits'].values()) == 39
  assert 'note: 1 rows without an input are left out.' in lines


def test_labels_with_quotes_commas_and_controls_survive_in_every_file(capsys):
  odd = ['a, "b"', "it's \\ {x}", 'del\x7f', 'ü — ½']
  table = [{'text': f'T {n}', 'label': odd[n % 4]} for n in range(40)]
  status, _, _, error = run(capsys, 'my_odd', f'--from={save("a.jsonl", table)}')
  assert status == 0, error
  assert tomllib.loads(pathlib.Path('my_odd.toml').read_text())['answer']['choices'] == sorted(odd)
  importlib.invalidate_caches()
  sys.path.append('.')
  assert importlib.import_module('my_odd').PROMPT.answer.choices.labels == tuple(sorted(odd))


@pytest.mark.parametrize(
  'name', ['json', 'svamp', 'Mine', '1a', 'a-b', 'class', '../x', 'embedded']
)
def test_a_name_that_others_have_or_python_cannot_is_refused(capsys, name):
  save('a.jsonl', reviews())
  status, _, _, error = run(capsys, name, '--from=a.jsonl')
  assert status == 2 and error.count('\n') == 1 and not list(pathlib.Path().glob('*.gin'))


def test_files_of_an_earlier_try_are_written_over_only_if_told(capsys):
  save('a.jsonl', reviews())
  assert run(capsys, 'my_twice', '--from=a.jsonl')[0] == 0
  pathlib.Path('my_twice.py').write_text('# mine')
  status, _, _, error = run(capsys, 'my_twice', '--from=a.jsonl')
  assert status == 2 and '--replace' in error
  assert pathlib.Path('my_twice.py').read_text() == '# mine'
  assert run(capsys, 'my_twice', '--from=a.jsonl', '--replace')[0] == 0


# ---------------------------------------------------------------- real tables


@pytest.mark.skipif(not EXTRA.is_dir(), reason='DSS_RAW_DIR has no folder extra/')
def test_gsm8k_and_ecqa_are_understood_as_they_are(capsys):
  gsm = EXTRA / 'gsm8k'
  status, report, _, _ = run(
    capsys, 'my_gsm', f'--from={gsm / "train.jsonl"}', f'--test={gsm / "test.jsonl"}'
  )
  assert status == 0 and report['splits'] == {'train': 6726, 'validation': 747, 'test': 1319}
  assert report['metric'] == 'equation' and all(
    row['rationale'] for row in written('my_gsm', 'test')
  )
  ecqa = EXTRA / 'ecqa'
  status, report, _, _ = run(
    capsys, 'my_ecqa', f'--from={ecqa / "val.csv"}', f'--test={ecqa / "test.csv"}'
  )
  assert status == 0 and report['splits'] == {'train': 971, 'validation': 108, 'test': 2194}
  assert report['left_out'] == 11
  assert prompts.load('my_ecqa.toml').answer.choices.listed == 5


@pytest.mark.skipif(not REAL, reason='DSS_RAW_DIR is not set')
def test_asdiv_is_read_from_its_xml(capsys):
  path = pathlib.Path(REAL) / 'asdiv' / 'ASDiv.xml'
  status, report, lines, _ = run(capsys, 'my_asdiv', f'--from={path}')
  assert status == 0 and sum(report['splits'].values()) == 2305
  assert '  input          Body + Question' in lines
