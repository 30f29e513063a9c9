"""Hostile rows, completions and questions: only rows, or a sentence, come out of each reader."""

import csv
import gzip
import io
import json
import re
import sys
import time
from unittest import mock

import fuzzing
from hypothesis import strategies as st

from dss_jax import datasets
from dss_jax.commands import predict
from dss_jax.datasets import asdiv, completions, release, rows
from dss_jax.teacher import reading

REQUIRED, OPTIONAL = ('input', 'label'), ('rationale', 'teacher_label')
FIELDS = ['input', 'label', 'rationale', 'teacher_label', 'premise', 'hypothesis', 'choices']
FIELDS += ['question', 'answer', 'Body', 'Question', 'Formula', 'Input', '']
CHARACTERS = st.characters(exclude_categories=())  # halves of surrogate pairs, too
TEXTS = st.text(CHARACTERS, max_size=30) | st.text(' \n\r\t\x85\u2028\0",;\'(İß', max_size=40)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
  SCALARS, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXTS, inner, max_size=4)
)
ROWS = st.dictionaries(st.sampled_from(FIELDS) | TEXTS, VALUES | TEXTS, max_size=9)
GOOD = st.fixed_dictionaries(dict.fromkeys([*REQUIRED, *OPTIONAL], TEXTS))
MARKS = st.sampled_from([b'', b'', b'\xef\xbb\xbf', b'\xff\xfe', b'\xfe\xff', b'\x1f\x8b'])
ENDS = st.sampled_from(['\n', '\r\n', '\r', '\u2028', '\n\n', ''])
ENCODINGS = st.sampled_from(['utf-8'] * 4 + ['utf-16', 'cp1252', 'utf-8-sig', 'utf-32-le'])
NAMES = st.sampled_from(['q.jsonl', 'q.json', 'q.csv', 'q.TSV', 'q.jsonl.gz', 'q.csv.gz', 'q.txt'])
DATASETS = st.sampled_from(['anli1', 'asdiv', 'cqa', 'esnli', 'svamp'])
ANSWERS = ['the answer is ', 'The answer is', 'So ', ', so ', 'thus ', 'Answer:', 'neutral']
ANSWERS += ['\nQ:', '\nPremise:', '(a)', '(İ)', '(', ')', '.', 'Entailment', '1', '2,345', '-', '+']
PIECES = st.sampled_from([*ANSWERS, '*', '/', ',', '   ', '\n', 'İ', '=', '</s>', 'choice'])
COMPLETIONS = st.lists(PIECES | TEXTS, max_size=12).map(''.join) | st.builds(
  lambda piece, times, end: piece * times + end, PIECES, st.integers(0, 20_000), PIECES
)
# What ends a value early, opens what is never closed, or is too large.
MUTATIONS = st.sampled_from(
  [
    b'"',
    b'\\',
    b'{',
    b'}',
    b'[' * 5000,
    b'\xe9',
    b'\0',
    b'\r',
    b',',
    b'\n',
    b'9' * 5000,
    b'\\ud800',
  ]
)


def encoded(text: str, encoding: str) -> bytes:
  return text.encode(encoding, 'replace' if encoding == 'cp1252' else 'surrogatepass')


@st.composite
def mutated(draw, contents):
  """Content with a byte or a few changed."""
  content = draw(contents)
  for _ in range(draw(st.integers(0, 3))):
    at = draw(st.integers(0, len(content)))
    content = content[:at] + draw(MUTATIONS) + content[at + draw(st.integers(0, 5)) :]
  return content


JSON_LINES = st.builds(
  lambda mark, rows_, end, encoding, ascii_: (
    mark + encoded(end.join(json.dumps(row, ensure_ascii=ascii_) for row in rows_), encoding)
  ),
  MARKS, st.lists(GOOD | ROWS, max_size=5), ENDS, ENCODINGS, st.booleans(),
)  # fmt: skip


@st.composite
def cells(draw):
  """CSV or TSV of random cells, some of them ragged, with a random header."""
  text = io.StringIO()
  writer = csv.writer(
    text,
    delimiter=draw(st.sampled_from(',;\t')),
    quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    lineterminator=draw(st.sampled_from(['\n', '\r\n', '\r'])),
  )
  header = draw(st.permutations(FIELDS[:4]) | st.lists(st.sampled_from(FIELDS), max_size=6))
  writer.writerow(header)
  for _ in range(draw(st.integers(0, 4))):
    width = len(header) + draw(st.sampled_from([0, 0, 0, -1, 1]))
    writer.writerow(draw(st.lists(TEXTS, min_size=max(width, 0), max_size=max(width, 0))))
  return draw(MARKS) + encoded(text.getvalue(), draw(ENCODINGS))


def is_read_or_refused(content: bytes, name: str) -> bool:
  """Whether a file is refused, or has rows, raw and as texts, of what rows may hold."""
  with fuzzing.file_of(content, name) as path:
    raw = fuzzing.outcome(lambda: [number for number, _ in rows.read(path)])
    texts = fuzzing.outcome(lambda: list(rows.read_texts(path, REQUIRED, OPTIONAL)))
  return bool(raw) and (
    isinstance(texts, fuzzing.Refused) or (bool(texts) and all(map(is_row, texts)))
  )


def is_row(row) -> bool:
  texts = [
    text for value in row.values() for text in (value if isinstance(value, list) else [value])
  ]
  is_text = all('\0' not in text and text.encode('utf-8') is not None for text in texts)
  return {*REQUIRED, *OPTIONAL} <= set(row) and is_text


def examples_of(dataset, files, split: str):
  """The examples of a split, or their refusal; whether each is of texts is checked."""
  found = fuzzing.outcome(lambda: list(release.read_examples(dataset, files, split)))
  if not isinstance(found, fuzzing.Refused):
    assert all(isinstance(one.input, str) and isinstance(one.label, str) for one in found)
  return found


def packed(content: bytes, name: str) -> bytes:
  return gzip.compress(content, 1) if name.endswith('.gz') else content


@fuzzing.fuzz(mutated(st.binary(max_size=200) | MARKS), NAMES, st.booleans())
def test_any_bytes(content, name, pack):
  assert is_read_or_refused(packed(content, name) if pack else content, name)


@fuzzing.fuzz(mutated(JSON_LINES), st.sampled_from(['q.jsonl', 'q.JSON', 'q.jsonl.gz']))
def test_json_lines(content, name):
  assert is_read_or_refused(packed(content, name), name)


@fuzzing.fuzz(mutated(cells()), st.sampled_from(['q.csv', 'q.tsv', 'q.csv.gz']))
def test_cells(content, name):
  assert is_read_or_refused(packed(content, name), name)


@fuzzing.fuzz(mutated(JSON_LINES.map(lambda content: gzip.compress(content, 1))))
def test_damaged_gzip(content):
  assert is_read_or_refused(content, 'q.jsonl.gz')


@fuzzing.fuzz(DATASETS, ROWS)
def test_fields_of_every_data_set(name, row):
  with fuzzing.may_refuse(), rows.at('file, line 1'):
    input_text, label = datasets.get(name).fields(row)
    assert isinstance(input_text, str) and isinstance(label, str)


@fuzzing.fuzz(DATASETS, COMPLETIONS, st.lists(TEXTS, min_size=5, max_size=5))
def test_completions_of_every_data_set(name, completion, choices):
  start = time.process_time()
  output = datasets.get(name).parse(completion, {'choices': choices})
  assert isinstance(output.rationale, str) and isinstance(output.label, str)
  assert time.process_time() - start < 5


@fuzzing.fuzz(
  mutated(
    st.builds(
      lambda mark, items, encoding: mark + encoded(json.dumps(items), encoding),
      MARKS,
      st.lists(TEXTS | st.lists(TEXTS, max_size=3) | VALUES, max_size=5) | VALUES,
      ENCODINGS,
    )
  )
)
def test_files_of_completions(content):
  with fuzzing.file_of(content, 'test_CoT_0.json') as path, fuzzing.may_refuse():
    for outputs in completions.read((path,)):
      assert all(isinstance(text, str) for text in outputs.completions)


OUTPUTS = st.fixed_dictionaries(
  {'input': TEXTS | VALUES, 'completions': st.lists(COMPLETIONS | st.none(), max_size=3) | VALUES},
  optional={'finish_reasons': st.lists(st.sampled_from(['stop', 'length']), max_size=3) | VALUES},
)


@fuzzing.fuzz(mutated(st.lists(OUTPUTS, max_size=3).map(lambda rows: json_lines(rows))))
def test_json_lines_of_completions_and_what_is_read_in_them(content):
  dataset = datasets.get('svamp')
  with fuzzing.file_of(content, 'test.jsonl') as path, fuzzing.may_refuse():
    for outputs in completions.read((path,)):
      assert len(outputs.completions) == len(outputs.finish_reasons) > 0
      for text, reason in zip(outputs.completions, outputs.finish_reasons, strict=True):
        found = reading.read(text, lambda own: dataset.parse(own, {}), reason)
        assert found.status in reading.STATUSES
        f'{found.rationale}{found.label}'.encode()


@fuzzing.fuzz(
  mutated(VALUES.map(lambda value: json.dumps({'teacher': value, 'usd': value}).encode()))
)
def test_who_the_teacher_was(content):
  with fuzzing.file_of(content, 'teacher.json') as path, fuzzing.may_refuse():
    assert completions.read_provenance(path.parent).teacher.strip()


def json_lines(rows):
  return '\n'.join(map(json.dumps, rows)).encode()


@fuzzing.fuzz(mutated(JSON_LINES), st.sampled_from(['svamp', 'cqa', 'esnli']), COMPLETIONS)
def test_rows_of_the_release(content, name, completion):
  dataset = datasets.get(name)
  with fuzzing.file_of(content, f'{name}_test.json') as path:
    answers = path.with_name('test_CoT_0.json')
    answers.write_text(json.dumps([completion] * 3))
    with_answers = examples_of(dataset, release.SplitFiles(path, (answers,)), 'test')
    alone = examples_of(dataset, release.SplitFiles(path, ()), 'test')
  refused = isinstance(with_answers, fuzzing.Refused)
  assert refused or [one.input for one in with_answers] == [one.input for one in alone]


@fuzzing.fuzz(mutated(cells()))
def test_cells_of_the_release(content):
  with fuzzing.file_of(content, 'esnli_test.csv') as path:
    found = examples_of(datasets.get('esnli'), release.SplitFiles(path, ()), 'test')
  assert isinstance(found, list | fuzzing.Refused)


TAGS = ['Problem', 'Body', 'Question', 'Formula', 'Corpus', '!DOCTYPE x [<!ENTITY a "b">]', '?xml']


@st.composite
def xml(draw):
  """Tags that mostly match, around texts."""
  text = draw(
    st.sampled_from(['', '<?xml version="1.0" encoding="utf-16"?>', '<?xml version="1"?>'])
  )
  tags = draw(st.lists(st.sampled_from(TAGS), max_size=6))
  text += ''.join(f'<{tag}>' for tag in tags) + draw(TEXTS) + '&a;' * draw(st.integers(0, 1))
  text += ''.join(f'</{tag}>' for tag in reversed(tags))
  return draw(MARKS) + encoded(text * draw(st.integers(1, 2)), draw(ENCODINGS))


@fuzzing.fuzz(mutated(xml()) | st.integers(0, 20_000).map(lambda n: b'<a>' * n))
def test_xml_of_asdiv(content):
  with fuzzing.file_of(content, 'ASDiv.xml') as path, fuzzing.may_refuse():
    for number, problem in asdiv.read_problems(path):
      with rows.at(f'problem {number}'):
        assert all(isinstance(text, str) for text in datasets.get('asdiv').fields(problem))


@fuzzing.fuzz(mutated(JSON_LINES))
def test_standard_input(content):
  stream = io.TextIOWrapper(io.BytesIO(content))
  with mock.patch.object(sys, 'stdin', stream), fuzzing.may_refuse():
    for question in predict._read('input', '-'):
      assert isinstance(question['input'], str)


@fuzzing.fuzz(
  st.lists(TEXTS | st.sampled_from(['/', '.', '..', '~', '@', 'gs://', '-', *FIELDS]), max_size=4),
  st.sampled_from(['', '.jsonl', '.csv', '.TSV', '.txt', '.json.gz', '/']),
  st.sampled_from(['input', 'input_file']),
)
def test_values_of_a_command_line(parts, suffix, kind):
  value = re.sub('gs:/+', 'gs:/', ''.join(parts) + suffix)  # a bucket is not asked
  with fuzzing.may_refuse(), mock.patch.object(sys, 'stdin', io.StringIO('{"input": "a"}')):
    (question,) = predict._read(kind, value)
    assert question == value or question == {'input': 'a'}
