"""Completions of any teacher, in the folder that `dss annotate` writes: prepared and measured."""

# ruff: noqa: F811  a fixture

import json

import pytest
from svamp_release import parsed, prepare_svamp, raw, rows, run, source_of  # noqa: F401

from dss_jax import cli, datasets
from dss_jax.commands import prepare
from dss_jax.datasets import completions, release

TEACHER = {
  'teacher': 'my-model-7b',
  'prompt': {'name': 'svamp', 'version': '0123456789ab'},
  'parameters': {'temperature': 0.7, 'stop': ['\nQ:'], 'condense': None},
  'date': '2026-11-26T10:00:00+00:00',
  'requests': 20,
  'tokens': {'input': 1000, 'cached': 800, 'output': 90},
  'usd': 0.25,
  'licence_note': 'Ask the provider.',
}


def entry(number, *texts, **more):
  texts = texts or (f'Two and {number}. The answer is (2 + {number}).',)
  return {'input': f'2 and {number}.\nSum?', 'completions': list(texts), **more}


@pytest.fixture
def outputs(tmp_path):
  """Writes a folder of completions, by default of all ten rows of train; returns its option."""

  def write(entries=None, split='train', teacher=TEACHER):
    folder = tmp_path / 'out'
    folder.mkdir(exist_ok=True)
    entries = [entry(number) for number in range(10)] if entries is None else entries
    (folder / f'{split}.jsonl').write_text('\n'.join(map(json.dumps, entries)))
    (folder / 'teacher.json').write_text(json.dumps(teacher))
    return f'--teacher_outputs={folder}'

  return write


def test_completions_of_the_folder_replace_those_of_the_release(raw, tmp_path, capsys, outputs):
  lines = prepare_svamp(capsys, raw, tmp_path, outputs())
  report = json.loads(lines[-1])
  assert report['teacher'] == 'my-model-7b' and release.TEACHER not in '\n'.join(lines)
  assert report['splits']['train']['teacher_accuracy'] == 1
  assert report['splits']['test']['teacher_accuracy'] is None  # whatever lies beside its raw file
  assert any(line.startswith('test: no teacher outputs') and 'test.jsonl' in line for line in lines)
  metadata = source_of(tmp_path).metadata
  assert metadata['teacher'] == 'my-model-7b'
  assert metadata['provenance'] == TEACHER
  again = prepare_svamp(capsys, raw, tmp_path, outputs())
  assert 'is up to date' in again[0] and again[-1] == lines[-1]
  other = outputs(teacher={**TEACHER, 'teacher': 'another'})
  assert 'replaces' in prepare_svamp(capsys, raw, tmp_path, other)[0]
  assert source_of(tmp_path).metadata['teacher'] == 'another'
  prepare_svamp(capsys, raw, tmp_path)
  assert source_of(tmp_path).metadata['teacher'] == release.TEACHER
  assert source_of(tmp_path).metadata['provenance'] == {}


def test_k_samples_a_row_are_read_with_their_reasons_and_all_go_to_training(
  raw, tmp_path, capsys, outputs
):
  texts = ['Two. The answer is (2 + 0).', None, '', 'Two. The answer is 2 - 1', '<think>Hm']
  reasons = ['stop', None, None, 'length', 'stop']
  entries = [entry(0, *texts, finish_reasons=reasons), *(entry(n) for n in range(1, 10))]
  report = json.loads(prepare_svamp(capsys, raw, tmp_path, outputs(entries))[-1])
  first = rows(source_of(tmp_path), 'train')[0]
  assert first.rationale == ('Two.', '', '', 'Two.', '')
  assert first.teacher_label == ('(2 + 0)', '', '', '', '')
  assert report['statuses']['train'] == {'ok': 9, 'cut_off': 1, 'empty': 3}
  assert report['splits']['train']['unparsed'] == 4


def test_filters_count_what_each_of_them_drops(raw, tmp_path, capsys, outputs):
  right, wrong = 'Two. The answer is (2 + {}).', 'Three. The answer is (2 - 5).'
  entries = [entry(n, wrong, right.format(n), right.format(n)) for n in range(10)]
  option = outputs(entries)
  lines = prepare_svamp(capsys, raw, tmp_path, option, '--filter=vote,unique')
  report = json.loads(lines[-1])
  assert report['dropped'] == {'vote': 9, 'unique': 17}
  assert 'unique dropped 17 samples of train.' in lines
  assert report['splits']['train']['examples'] == 1  # the one whose rationale came first
  assert report['splits']['validation']['examples'] == 1
  assert len(rows(source_of(tmp_path), 'validation')[0].rationale) == 3  # never filtered
  again = prepare_svamp(capsys, raw, tmp_path, option, '--filter=vote,unique')
  assert 'is up to date' in again[0] and json.loads(again[-1]) == report


def test_rows_that_were_not_asked_about_are_left_out_and_said(raw, tmp_path, capsys, outputs):
  """Which rows are held out for validation stays the same."""
  (held_out,) = release.held_out_rows(10)
  asked = [n for n in (0, 3, 4) if n != held_out]
  lines = prepare_svamp(capsys, raw, tmp_path, outputs([entry(n) for n in asked]))
  assert any(f'has {len(asked)} of the 10 rows of svamp_train.json' in line for line in lines)
  assert 'validation is left out: the teacher was asked about no row of it.' in lines
  assert [row.input[6] for row in rows(source_of(tmp_path), 'train')] == list(map(str, asked))
  with pytest.raises(ValueError, match='no split validation'):
    source_of(tmp_path).get_dataset('validation')


def test_our_own_name_of_a_split_and_gzip_are_read_too(raw, tmp_path, capsys, outputs):
  (held_out,) = release.held_out_rows(10)
  lines = prepare_svamp(capsys, raw, tmp_path, outputs([entry(held_out)], 'validation'))
  splits = json.loads(lines[-1])['splits']
  assert splits['validation']['teacher_accuracy'] == 1
  assert splits['train']['teacher_accuracy'] is None


MALFORMED = [
  ([entry(1), entry(0)], r"line 2: the input '2 and 0\..* is that of no row of .*svamp_train"),
  ([entry(99)], r"train\.jsonl, line 1: the input '2 and 99"),
  ([{'completions': ['x']}], "line 1: expected a text in field 'input'"),
  ([{'input': 'x'}], "expected a list of texts or null in field 'completions', got no such field"),
  ([entry(0) | {'completions': 'x'}], "in field 'completions', got 'x'"),
  ([entry(0) | {'completions': []}], "expected 1 to 256 texts in field 'completions'"),
  ([entry(0) | {'completions': [3]}], r"in field 'completions', got \[3\]"),
  ([entry(0, finish_reasons=['stop', 'stop'])], 'as many finish_reasons as completions, 1; got 2'),
  ([entry(0, '\ud800')], 'no character'),
]  # fmt: skip


@pytest.mark.parametrize(('entries', 'message'), MALFORMED)
def test_completions_of_other_rows_or_forms_are_one_clear_sentence(
  raw, tmp_path, capsys, outputs, entries, message
):
  with pytest.raises(ValueError, match=message):
    options = ['--dataset=svamp', f'--raw_dir={raw}', f'--data_dir={tmp_path / "data"}']
    prepare.main([*options, outputs(entries)])
  assert not (tmp_path / 'data').exists()


@pytest.mark.parametrize(
  ('teacher', 'message'),
  [
    ({}, "the field 'teacher' of Provenance is missing"),
    ({'teacher': ' '}, 'expected the name of a model'),
    ({'teacher': 'a', 'usd': 'free'}, r'Provenance\.usd is of type float'),
    ({'teacher': 'a', 'tokens': {'input': 1.5}}, r'Provenance\.tokens'),
    ([], 'teacher.json is a list'),
  ],
)
def test_who_the_teacher_was_must_be_known(raw, tmp_path, capsys, outputs, teacher, message):
  status, _, errors = run(
    capsys,
    '--dataset=svamp',
    f'--raw_dir={raw}',
    f'--data_dir={tmp_path}',
    outputs(teacher=teacher),
  )
  assert status == 2
  assert message.replace('\\', '') in errors


def test_a_folder_without_them_says_what_is_expected(raw, tmp_path, capsys, outputs):
  option = outputs()
  (tmp_path / 'out' / 'train.jsonl').rename(tmp_path / 'out' / 'x.jsonl')
  command = ['--dataset=svamp', f'--raw_dir={raw}', f'--data_dir={tmp_path}', option]
  assert 'expected completions in train.jsonl, test.jsonl' in run(capsys, *command)[2]
  (tmp_path / 'out' / 'teacher.json').unlink()
  assert 'at least {"teacher": "NAME OF THE MODEL"}' in run(capsys, *command)[2]


def test_provenance_passes_over_fields_of_other_tools():
  found = completions.provenance_of({'teacher': 'a', 'engine': 'x'}, 'here')
  assert found == completions.Provenance('a')


def test_the_releases_completions_are_the_same_data_by_way_of_the_folder(
  raw_dir, tmp_path, capsys, outputs
):
  """Rows, splits, rationales and labels of the real SVAMP, in the form of `dss annotate`."""
  dataset = datasets.get('svamp')
  for split in ('train', 'test'):
    files = release.split_files(dataset, raw_dir, split)
    texts = [text for path in files.completions for text in json.loads(path.read_text())]
    inputs = [dataset.fields(row)[0] for _, row in dataset.read(files.rows)]
    entries = [
      {'input': asked, 'completions': [text]} for asked, text in zip(inputs, texts, strict=True)
    ]
    option = outputs(entries, split)
  report = json.loads(prepare_svamp(capsys, raw_dir, tmp_path, option)[-1])
  assert report['splits']['test']['teacher_accuracy'] == 0.775
  for split in ('train', 'validation', 'test'):
    assert rows(source_of(tmp_path), split) == parsed(raw_dir, split)
  report = json.loads(prepare_svamp(capsys, raw_dir, tmp_path, option, '--parser=released')[-1])
  assert report['splits']['test']['teacher_accuracy'] == 0.74


MODULE = """
from dss_jax import datasets
from dss_jax.teacher import prompts
datasets.register(prompts.load({path!r}).dataset('reviews'))
"""
PROMPT = """
instruction = "Is the review good or bad?"
question = "Review: {input}"
completion = "{rationale} So the answer is {answer}."
stop = ["\\nReview:"]
max_tokens = 60
[answer]
marker = "so the answer is"
choices = ["good", "bad"]
"""


def test_a_prompt_with_an_answer_section_makes_a_data_set_of_ones_own(
  tmp_path, capsys, outputs, monkeypatch
):
  (tmp_path / 'reviews.toml').write_text(PROMPT)
  (tmp_path / 'my_reviews.py').write_text(MODULE.format(path=str(tmp_path / 'reviews.toml')))
  monkeypatch.syspath_prepend(str(tmp_path))
  (tmp_path / 'raw' / 'reviews').mkdir(parents=True)
  reviews = [{'input': 'Cold.', 'label': 'bad'}, {'input': 'Warm.'}]
  file = tmp_path / 'raw' / 'reviews' / 'reviews_train.json'
  file.write_text('\n'.join(map(json.dumps, reviews)))
  said = ['It is cold. So the answer is **bad**.\nReview: X', 'Nice. So the answer is Good.']
  entries = [
    {'input': row['input'], 'completions': [text]} for row, text in zip(reviews, said, strict=True)
  ]
  status, lines, errors = run(
    capsys, '--dataset=reviews', f'--raw_dir={tmp_path / "raw"}', '--module=my_reviews',
    f'--data_dir={tmp_path / "data"}', outputs(entries),
  )  # fmt: skip
  assert status == 0, errors
  assert json.loads(lines[-1])['splits']['train']['teacher_accuracy'] == 1
  assert rows(source_of(tmp_path, 'reviews'), 'train') == [
    release.Example('Cold.', 'bad', ('It is cold.',), ('bad',)),
    release.Example('Warm.', '', ('Nice.',), ('good',)),
  ]


# ---------------------------------------------------------------- dss quality


def quality(capsys, *argv):
  status = cli.main(['quality', *argv])
  output = capsys.readouterr()
  return status, output.out.splitlines(), output.err


def test_quality_is_a_table_with_examples_and_json(raw, tmp_path, capsys, outputs):
  right, wrong = 'Two. The answer is (2 + {}).', 'T\x1bo. The answer is (2 - 5).'
  entries = [entry(n, right.format(n), wrong, right.format(n), 'Never') for n in range(10)]
  prepare_svamp(capsys, raw, tmp_path, outputs(entries))
  status, lines, _ = quality(capsys, '--dataset=svamp', f'--data_dir={tmp_path / "data"}')
  assert status == 0
  assert lines[0] == 'svamp: teacher my-model-7b, filter none, parser own.'
  text = '\n'.join(lines)
  assert 'train, split_vote: samples of one input disagree' in text
  assert 'rationale: T\\x1bo.' in text and '\x1b' not in text
  report = json.loads(lines[-1])
  train = report['splits']['train']
  assert report['teacher'] == 'my-model-7b'
  assert (train['samples_a_row'], train['parsed'], train['agreement']) == (4, 0.75, 0.5)
  assert (train['vote_agreement'], train['margin']) == (1, 0.25)
  assert report['splits']['test']['agreement'] is None
  (vote,) = (line for line in lines if line.startswith('vote is the gold label'))
  assert vote.split()[-3:] == ['100.00%', '100.00%', '-']


def test_quality_reads_one_split_and_any_registered_data_set(tmp_path, capsys):
  _, lines, _ = quality(capsys, '--dataset=embedded', '--split=validation', '--examples=0')
  report = json.loads(lines[-1])
  assert list(report['splits']) == ['validation']
  assert report['teacher'] == 'its own generator'
  assert report['splits']['validation']['agreement'] == pytest.approx(0.9, abs=0.05)
  assert not any(line.startswith('  row') for line in lines)
  status, _, errors = quality(capsys, '--dataset=embedded', '--split=tests')
  assert status == 2 and "no split 'tests', only train, validation, test" in errors
  status, _, errors = quality(capsys, '--dataset=svamp', f'--data_dir={tmp_path}')
  assert status == 2 and 'dss prepare --dataset=svamp' in errors
  assert quality(capsys, '--dataset=nothing')[0] == 2
