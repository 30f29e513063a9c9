"""`dss prepare --parser`: the teacher's outputs as the paper's code reads them."""

# ruff: noqa: F811  a fixture

import dataclasses
import json

import pytest
from svamp_release import (  # noqa: F401
  GOOD,
  prepare_svamp,
  raw,
  rows,
  source_of,
)

from dss_jax import datasets
from dss_jax.datasets import release
from dss_jax.experiments import few_shot_cot
from dss_jax.tasks import prepared


def test_another_parser_is_another_version_and_its_labels_are_the_papers(raw, tmp_path, capsys):
  batch = raw / 'svamp' / 'llm' / 'test_CoT_0.json'
  batch.write_text(json.dumps([GOOD.format(n=0), 'So. The answer is (2 - 1) + 2.', 'Never ends']))
  lines = prepare_svamp(capsys, raw, tmp_path)
  assert 'is written (filter none, parser own)' in lines[0]
  assert [row.teacher_label for row in rows(source_of(tmp_path), 'test')][1] == ('((2 - 1) + 2)',)
  lines = prepare_svamp(capsys, raw, tmp_path, '--parser=released')
  assert 'replaces what was prepared' in lines[0] and 'parser released' in lines[0]
  assert [row.teacher_label for row in rows(source_of(tmp_path), 'test')][1] == ('(2 - 1)',)
  assert 'is up to date' in prepare_svamp(capsys, raw, tmp_path, '--parser=released')[0]
  metadata = source_of(tmp_path).metadata
  assert (metadata['parser'], metadata['filter']) == ('released', 'none')


def test_what_was_prepared_in_an_older_format_is_prepared_again(raw, tmp_path, capsys):
  prepare_svamp(capsys, raw, tmp_path)
  path = prepared.newest('svamp', str(tmp_path / 'data')) / 'metadata.json'
  metadata = json.loads(path.read_text())
  for name in ('provenance', 'statuses', 'dropped'):
    del metadata[name]
  path.write_text(json.dumps({**metadata, 'format': 3}))
  assert source_of(tmp_path).metadata['format'] == 3  # it is still read
  assert 'replaces' in prepare_svamp(capsys, raw, tmp_path)[0]


def test_a_data_set_without_the_papers_parser_says_so():
  own = dataclasses.replace(datasets.get('svamp'), name='mine', parse_released=None)
  with pytest.raises(ValueError, match=r'--parser=released: .* no parser for mine; leave'):
    release.with_parser(own, 'released')


def test_the_teachers_answers_are_scored_as_students_are(raw, tmp_path, capsys, monkeypatch):
  batch = raw / 'svamp' / 'llm' / 'test_CoT_0.json'
  batch.write_text(json.dumps([GOOD.format(n=0), 'So. The answer is (2 - 1) + 2.', 'Never ends']))
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'data'))
  for parser, correct in (('own', [True, True, False]), ('released', [True, False, False])):
    prepare_svamp(capsys, raw, tmp_path, f'--parser={parser}')
    answers = few_shot_cot.teacher_answers('svamp')
    assert answers.parser == parser and answers.correct.tolist() == correct
    assert answers.example_ids.tolist() == [0, 1, 2]
    assert answers.accuracy == sum(correct) / 3
  with pytest.raises(ValueError, match=r'svamp has no split .tset., only train, validation, test'):
    few_shot_cot.teacher_answers('svamp', 'tset')
  batch.unlink()
  prepare_svamp(capsys, raw, tmp_path)
  with pytest.raises(ValueError, match='the split test of svamp has no label of the teacher'):
    few_shot_cot.teacher_answers('svamp')
  with pytest.raises(ValueError, match=r'no data set .swamp. is registered'):
    few_shot_cot.teacher_answers('swamp')
