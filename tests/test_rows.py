"""The reader of users' rows: what it accepts in each format, and the sentence for all else."""

import gzip
import io
import json
import time

import pytest

from dss_jax.datasets import asdiv, completions, cqa, esnli, release, rows, teacher_outputs

FULL = {'input': 'q', 'label': 'a', 'rationale': 'r', 'teacher_label': 't'}
REQUIRED, OPTIONAL = ('input', 'label'), ('rationale', 'teacher_label')
CSV = 'input,label,rationale,teacher_label\n'


def read(tmp_path, content, name='mine.jsonl'):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return list(rows.read_texts(path, REQUIRED, OPTIONAL))


def refusal(tmp_path, content, name='mine.jsonl'):
  with pytest.raises(ValueError) as error:
    read(tmp_path, content, name)
  message = str(error.value)
  assert message.startswith(f'{tmp_path / name}') and message.isprintable()
  return message.removeprefix(f'{tmp_path / name}').removeprefix(', ')


def line(**changes):
  return json.dumps(FULL | changes) + '\n'


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize('name', ['a.jsonl', 'a.json', 'A.JSONL', 'a.jsonl.gz', 'a.JSON.GZ'])
@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
def test_json_lines_have_marks_either_line_end_and_odd_separators(tmp_path, name, mark):
  odd = 'a\u2028b\x85c\u00a0 İß e\u0301'
  content = (
    mark
    + (json.dumps(FULL | {'input': odd}, ensure_ascii=False) + '\r\n\r\n  \n').encode()
    + line(rationale=None, teacher_label=float('nan')).rstrip().encode()
  )
  content = gzip.compress(content) if name.lower().endswith('.gz') else content
  expected = [FULL | {'input': odd}, FULL | {'rationale': '', 'teacher_label': ''}]
  assert read(tmp_path, content, name) == expected


@pytest.mark.parametrize(('name', 'comma'), [('a.csv', ','), ('a.TSV', '\t'), ('a.csv.gz', ',')])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_cells_are_named_by_the_first_line_and_may_have_lines(tmp_path, name, comma, end):
  content = comma.join(['label', 'input', 'rationale', 'teacher_label', 'more'])
  content += end + comma.join(['a', f'"one{end}""two""{comma}"', '', '', 'é\u2028']) + end
  content += end + comma * 4 + end + comma.join('vwxyz')
  packed = gzip.compress(content.encode()) if name.endswith('.gz') else b'\xef\xbb\xbf'
  packed = packed if name.endswith('.gz') else packed + content.encode()
  first = {'input': f'one\n"two"{comma}', 'label': 'a', 'rationale': '', 'teacher_label': ''}
  found = read(tmp_path, packed, name)
  assert found[0] == first | {'more': 'é\u2028'}
  assert found[1] == dict(zip(['label', 'input', *OPTIONAL, 'more'], 'vwxyz', strict=True))


def test_a_row_is_numbered_by_its_first_line(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('x,y\n\n"1\n2\n3",4\n5,6\n', encoding='utf-8')
  assert [number for number, _ in rows.read(path)] == [3, 6]
  assert [n for n, _ in rows.read('name', '.jsonl', io.BytesIO(b'\n{"a": 1}\n\n{}'))] == [2, 4]


def test_other_texts_pass_and_optional_fields_may_be_lists(tmp_path):
  content = line(
    rationale=['x', None, float('nan')], teacher_label='', id='7', number=3, nested={'a': ['b']}
  )
  assert read(tmp_path, content) == [
    FULL | {'rationale': ['x', '', ''], 'teacher_label': '', 'id': '7'}
  ]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'label': None}, "expected a text in field 'label', got null."),
    ({'label': float('nan')}, "expected a text in field 'label', got NaN."),
    ({'label': 7}, 'expected a text in field \'label\', got 7; write it in quotes, "7".'),
    ({'label': 1.5}, "expected a text in field 'label', got 1.5; write"),
    ({'label': True}, "expected a text in field 'label', got true."),
    ({'label': ['no']}, "expected a text in field 'label', got ['no']."),
    ({'label': {'no': 1}}, "expected a text in field 'label', got {'no': 1}."),
    ({'rationale': 7}, "expected a text in field 'rationale', got 7"),
    ({'rationale': ['x', 3]}, "the list in field 'rationale': expected a text in field '2', got 3"),
    ({'rationale': float('inf')}, "expected a text in field 'rationale', got Infinity"),
    (
      {'rationale': '\ud83d half'},
      "field 'rationale' holds '\\ud83d', which is no character; remove it.",
    ),
    (
      {'rationale': ['x', '\ud83d']},
      "field 'rationale' holds '\\ud83d', which is no character; remove it.",
    ),
    ({'input': 'a\0b'}, "field 'input' holds '\\x00', which is no character; remove it."),
  ],
)
def test_a_field_that_is_no_text_is_named(tmp_path, changes, message):
  assert refusal(tmp_path, line() + line(**changes)).startswith(f'line 2: {message}')


def test_a_missing_field_is_named_with_its_near_name(tmp_path):
  row = {'input': 'q', 'Label': 'a', 'rationale': '', 'teacher_label': ''}
  message = "line 2: expected a text in field 'label', but the row has 'Label'."
  assert refusal(tmp_path, line() + json.dumps(row)) == message
  del row['rationale']
  row['label'] = row.pop('Label')
  assert refusal(tmp_path, line() + json.dumps(row)) == (
    "line 2: expected a text in field 'rationale', but the row has only 'input', 'teacher_label', "
    '\'label\'; where there is no text write null or "".'
  )
  message = refusal(tmp_path, 'input,labels\nq,a\n', 'a.csv')
  assert message == "line 2: expected a text in field 'label', but the row has 'labels'."


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', ': the file has no rows; expected JSON lines'),
    (b'\xef\xbb\xbf\r\n \n', ': the file has no rows'),
    (line().encode('utf-16'), ' is UTF-16; save it as UTF-8: iconv'),
    (line().encode('utf-32'), ' is UTF-32; save it as UTF-8: iconv -f UTF-32'),
    (line().encode('utf-16-be'), 'line 1: expected text in UTF-8, got a NUL byte (is it UTF-16 or'),
    (b'\n{"input": "caf\xe9"}', 'line 2: byte 15 is 0xe9, which is not UTF-8 there; save the'),
    (b'PK\x03\x04\xff', 'line 1: byte 5 is 0xff'),
    (b'{"input": "a\rb"}', 'line 1 is not JSON: Invalid control character at character 13.'),
    (b'["q"]', 'line 1: expected a JSON object a line, got \'["q"]\' (jq -c'),
    (b'plain text', "line 1: expected a JSON object a line, got 'plain text'."),
    (b'{\n  "input": "q"\n}', 'line 1 is not JSON: Expecting property name'),
    (b'{"n": ' + b'1' * 5000 + b'}', 'line 1 is not JSON: Exceeds the limit (4300 digits)'),
    (b'{"n": ' + b'[' * 99999 + b'}', 'line 1 is not JSON that can be read: it is'),
    (b'{"input": "a", "input": "b"}', "line 1 is not JSON: the field 'input' stands twice."),
    (b'{"n": {"a": 1, "a": 1}}', "line 1 is not JSON: the field 'a' stands twice."),
    (b'{}{}', 'line 1 is not JSON: Extra data at character 3.'),
    (b'{"input": 1', "line 1 is not JSON: Expecting ',' delimiter"),
  ],
)
def test_json_lines_that_are_none_are_named(tmp_path, content, message):
  assert refusal(tmp_path, content).startswith(message)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (CSV, ': the file has no rows'),
    (CSV + 'q,a,r,t\nq,a\n', "line 3: expected 4 cells, as the first line has, got 2: 'q', 'a'."),
    (CSV + '"q\n', 'line 2: not valid CSV (unexpected end of data).'),
    (CSV + '"q"x,a,r,t\n', "line 2: not valid CSV (',' expected after '\"')."),
    (CSV + 'q,a\rb,r,t\n', 'line 2: not valid CSV (new-line character seen in unquoted field).'),
    (CSV + '"' + 'q' * 200_000, 'line 2: not valid CSV (unexpected end of data).'),
    ('input,label,input\n', "line 1: two cells of the first line are named 'input'."),
    ('input;label\n1;2\n', "line 1: expected names of fields with ',' between them, got 'input;"),
    (CSV + 'q,a\0,r,t', 'line 2: expected text in UTF-8, got a NUL byte'),
    (CSV.encode() + b'q,caf\xe9,r,t', 'line 2: byte 6 is 0xe9, which is not UTF-8'),
  ],
)
def test_cells_that_are_none_are_named(tmp_path, content, message):
  assert refusal(tmp_path, content, 'mine.csv').startswith(message)


def test_files_that_are_none_are_named(tmp_path, monkeypatch):
  (tmp_path / 'folder.jsonl').mkdir()
  (tmp_path / 'link.jsonl').symlink_to(tmp_path / 'nothing')
  for name, message in [
    ('q.txt', ': expected JSON lines (.jsonl, .json), .csv or .tsv'),
    ('q.jsonl.zip', ': expected JSON lines'),
    ('q.jsonl', ': no such file; expected JSON lines'),
    ('link.jsonl', ': a link to nothing; expected'),
    ('folder.jsonl', ' is a folder; expected JSON lines'),
  ]:
    with pytest.raises(ValueError) as error:
      list(rows.read(tmp_path / name))
    assert str(error.value).startswith(f'{tmp_path / name}{message}')
  packed = gzip.compress(line().encode() * 99)
  for content in (b'not packed', packed[:-20], packed[:20] + b'xx' + packed[22:]):
    assert refusal(tmp_path, content, 'q.jsonl.gz').startswith(': not a sound gzip file (')
  monkeypatch.setattr(rows, 'MAX_LINE_BYTES', 1 << 20)
  assert refusal(tmp_path, b' ' * 2_000_000) == 'line 1: more than 1 MiB; is each row a line?'


def test_the_home_folder_is_found(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'a.jsonl').write_text('{"a": 1}')
  assert list(rows.read('~/a.jsonl')) == [(1, {'a': 1})]


# ---------------------------------------------------------------- the paper's data sets


@pytest.mark.parametrize(
  ('label', 'shown'),
  [(1.0, '1.0'), (True, 'true'), ('1', "'1'"), (' entailment ', "' entailment '"), (3, '3')],
)
def test_a_label_of_esnli_is_a_number_of_three(label, shown):
  row = {'premise': 'a', 'hypothesis': 'b', 'label': label}
  with pytest.raises(ValueError) as error:
    esnli.DATASET.fields(row)
  assert str(error.value) == (
    "expected label 0, 1 or 2 (entailment, neutral, contradiction) in field 'label', got " + shown
  )


@pytest.mark.parametrize('changes', [{'choices': ['a', None, 'c', 'd', 'e']}, {'choices': 'abcde'}])
def test_a_choice_of_cqa_is_a_text(changes):
  row = {'question': 'q', 'answer': 'a', 'choices': list('abcde'), **changes}
  with pytest.raises(ValueError, match=r"expected 5 texts in field 'choices', got ['\[]"):
    cqa.DATASET.fields(row)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16', 'latin-1'])
def test_entities_of_xml_are_refused_in_every_encoding(tmp_path, encoding):
  path = tmp_path / 'ASDiv.XML'
  text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'
  path.write_bytes(text.encode(encoding))
  with pytest.raises(ValueError, match='expected XML without a document type or entities'):
    list(asdiv.read_problems(path))


@pytest.mark.parametrize('content', [b'', b'\xff', b'<?xml version="1.0" encoding="no"?><x/>'])
def test_malformed_xml_is_named(tmp_path, content):
  (tmp_path / 'a.xml').write_bytes(content)
  with pytest.raises(ValueError, match=r'a\.xml: not valid XML'):
    list(asdiv.read_problems(tmp_path / 'a.xml'))


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'\xef\xbb\xbf["fine", 3]', r'or of lists of texts if each row has several; item 2 has 3\.'),
    (b'["x", ["y", null]]', r'item 2 has null\.'),
    (b'["x", "\\ud83d"]', r"item 2 holds '.ud83d', which is no character; remove it\."),
    (b'["caf\xe9"]', r'byte 6 is 0xe9'),
    (b'[' * 99999, 'nested too deeply'),
    (b'[' + b'1' * 5000 + b']', 'Exceeds the limit'),
    (json.dumps(['x' * 1_000_001]).encode(), 'item 1 has 1000001 characters; expected'),
  ],
)
def test_completions_that_are_no_texts_are_named(tmp_path, content, message):
  path = tmp_path / 'test_CoT_0.json'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=rf'test_CoT_0\.json.*: .*{message}'):
    list(completions.read((path,)))


HOSTILE = 200_000


@pytest.mark.parametrize(
  'completion',
  [
    ' ' * HOSTILE,
    '\n' * HOSTILE,
    'so' + ' ' * HOSTILE + 'the answer is (a)' + ' ' * HOSTILE,
    'so ' * HOSTILE,
    'the answer is ' * (HOSTILE // 14),
    'the answer is ' + '(' * HOSTILE,
    'the answer is (a) ' + ''.join(chr(0x4E00 + n % 9000) for n in range(HOSTILE)),
    'Answer:' + ' ' * HOSTILE,
    '\nQ' * HOSTILE,
    'the answer is (İ) ' + 'İ' * HOSTILE,
  ],
  ids=range(10),
)
def test_a_completion_takes_linear_time(completion):
  start = time.process_time()
  teacher_outputs.equation(completion)
  teacher_outputs.nli_answer_is(completion)
  teacher_outputs.nli_answer_line(completion)
  teacher_outputs.choice(completion, [completion[-9000:], *'bcde'])
  assert time.process_time() - start < 2  # a quadratic pattern takes half an hour


@pytest.mark.parametrize('letter', ['İ', '\u0131', '\u017f', '\u212a', 'ß', 'é'])
def test_only_letters_of_the_alphabet_name_a_choice(letter):
  completion = f'Since. So the answer is ({letter}) b.'
  expected = teacher_outputs.TeacherOutput('Since.', '')
  assert teacher_outputs.choice(completion, list('abcde')) == expected


def test_a_key_that_a_users_function_misses_is_named(tmp_path):
  dataset = release.Dataset(
    'mine', 'text', lambda row: (row['q'], row['answer']), None, {'train': 'train'}
  )
  path = tmp_path / 'a.csv'
  path.write_text('q\nx\n')
  with pytest.raises(ValueError, match=r"a\.csv, line 2: the row has no field 'answer'\."):
    list(release.read_examples(dataset, release.SplitFiles(path, ()), 'test'))


@pytest.mark.parametrize('value', [[['x' * 60] * 9] * 9, 10**999, 'x' * 9999, {'x' * 99: [[[[]]]]}])
def test_what_came_is_shown_in_short(value):
  row = {'question': 'q', 'answer': 'a', 'choices': value, 'x' * 5000: ''}
  with pytest.raises(ValueError) as error:
    cqa.DATASET.fields(row)
  assert len(str(error.value)) < 250
  with pytest.raises(ValueError) as error:
    rows.text({'label': [value], 'x' * 5000: '', 'y' * 5000: ''}, 'input')
  assert len(str(error.value)) < 500
