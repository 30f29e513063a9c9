"""Prepared data that others made, which TFDS never opens; and two preparations at once."""

import concurrent.futures
import json
import pathlib
import shutil
import sys

import pytest
import tensorflow as tf
from etils import epath

from dss_jax import cli, datasets
from dss_jax.datasets import release
from dss_jax.settings import errors
from dss_jax.tasks import builder, prepared

TEXT = {'pythonClassName': 'tensorflow_datasets.core.features.text_feature.Text', 'text': {}}


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  """SVAMP's test split in the release's layout, three rows."""
  folder = tmp_path_factory.mktemp('raw') / 'svamp'
  folder.mkdir()
  rows = [{'input': f'2 and {n}. Sum?', 'label': f'( 2.0 + {n}.0 )'} for n in range(3)]
  (folder / 'svamp_test.json').write_text('\n'.join(map(json.dumps, rows)))
  return folder.parent


def prepare(raw, data_dir, row_filter='none'):
  dataset = datasets.get('svamp')
  splits = {'test': release.split_files(dataset, raw, 'test')}
  return builder.prepare(dataset, splits, str(data_dir), row_filter)


@pytest.fixture(scope='module')
def made(raw, tmp_path_factory):
  return pathlib.Path(prepare(raw, tmp_path_factory.mktemp('data')).folder)


@pytest.fixture
def version(made, tmp_path):
  """A copy of a prepared version that a test may change."""
  copy = tmp_path / 'dss' / 'svamp' / '1.0.0'
  shutil.copytree(made, copy)
  return copy


def change(file, **values):
  file.write_text(json.dumps(json.loads(file.read_text()) | values))


def read(tmp_path):
  source = prepared.PreparedSource('svamp', str(tmp_path))
  return [row['input'] for row in source.get_dataset('test', shuffle=False).as_numpy_iterator()]


def features(**changed):
  return {'features': {'input': TEXT, 'label': TEXT, **changed}}


def test_what_the_builder_writes_is_read(version, tmp_path):
  assert read(tmp_path) == [b'2 and 0. Sum?', b'2 and 1. Sum?', b'2 and 2. Sum?']


@pytest.mark.parametrize(
  'content',
  [
    {'pythonClassName': 'evil_module_of_features.Feature'},
    {'type': 'evil_module_of_features.Feature', 'content': {}},
    {'featuresDict': features(rationale={**TEXT, 'pythonClassName': 'evil_module_of_features.F'})},
    {'featuresDict': features()},
    {'proto_cls': 'evil_module_of_features.F'},
  ],
)
def test_a_class_that_a_folder_names_is_not_imported(version, tmp_path, monkeypatch, content):
  (tmp_path / 'evil_module_of_features.py').write_text('RAN = True\n')
  monkeypatch.syspath_prepend(str(tmp_path))
  change(version / 'features.json', **content)
  with pytest.raises(ValueError, match=r'expected the four texts input, label, rationale, teacher'):
    read(tmp_path)
  assert 'evil_module_of_features' not in sys.modules


SPLIT = {
  'filepathTemplate': prepared.SPLIT_FILES,
  'name': 'test',
  'numBytes': '10',
  'shardLengths': ['3'],
}


@pytest.mark.parametrize(
  'content',
  [
    {'splits': [{**SPLIT, 'filepathTemplate': f'../../{prepared.SPLIT_FILES}'}]},
    {'splits': [{**SPLIT, 'filepathTemplate': '/etc/passwd'}]},
    {'splits': [{**SPLIT, 'name': '../../test'}]},
    {'splits': [{**SPLIT, 'name': 3}]},
    {'splits': [{**SPLIT, 'shardLengths': ['-3']}]},
    {'splits': [{**SPLIT, 'shardLengths': 3}]},
    {'splits': [{**SPLIT, 'numBytes': '9' * 5000}]},
    {'splits': 'test'},
    {'splits': [SPLIT], 'no_such_field': 1},
    {'splits': [SPLIT, SPLIT]},
    {'fileFormat': 'array_record'},
    {'name': 'other'},
    {'configName': '../x'},
    {'version': '2.0.0'},
    {'isBlocked': 'yes'},
  ],
)  # fmt: skip
def test_files_elsewhere_and_odd_descriptions_are_refused(version, tmp_path, content):
  change(version / 'dataset_info.json', **content)
  with pytest.raises(ValueError, match=r'dataset_info\.json'):
    read(tmp_path)


@pytest.mark.parametrize('lengths', [['9' * 18], ['3', '9' * 18], ['1000'], ['0'] * 1001])
def test_more_rows_than_the_files_can_hold_are_refused(version, tmp_path, lengths):
  change(version / 'dataset_info.json', splits=[{**SPLIT, 'shardLengths': lengths}])
  source = prepared.PreparedSource('svamp', str(tmp_path))
  with pytest.raises(ValueError, match=r'json: expected [0-9]+ rows in dss-test\.tfrecord'):
    source.get_dataset('test')
  if len(lengths) == 1:
    with pytest.raises(ValueError, match=r'can hold [0-9]+ at most; prepare the data set again'):
      source.get_dataset('test')


def test_a_file_of_rows_that_is_missing_is_named(version, tmp_path):
  (file := next(version.glob('*.tfrecord*'))).unlink()
  with pytest.raises(ValueError, match=rf'{file.name}, which is no file; prepare'):
    read(tmp_path)


@pytest.mark.parametrize('name', ['features.json', 'dataset_info.json'])
def test_json_that_is_deep_or_none_is_named(version, tmp_path, name):
  for text in ('[' * 100_000, '{', '3', '{"a": ' + '9' * 5000 + '}'):
    (version / name).write_text(text)
    with pytest.raises(ValueError, match=name):
      read(tmp_path)


def test_metadata_of_another_form_is_as_if_it_were_not_there(version):
  path = version / 'metadata.json'
  good = json.loads(path.read_text())
  assert prepared.read_metadata(epath.Path(version)) == good
  for text in ('[' * 100_000, '[]', '{}', json.dumps({**good, 'counts': {'test': 3}})):
    path.write_text(text)
    assert prepared.read_metadata(epath.Path(version)) == {}


def test_only_names_of_versions_are_versions(tmp_path):
  names = ('1.0.0', '1.0.12', '1.0.01', '1.0.\u0663', '1.0.²', '1.0', 'incomplete.x_1.0.0')
  for name in names:
    (tmp_path / name).mkdir()
  assert prepared.versions(epath.Path(tmp_path)) == [(1, 0, 0), (1, 0, 12)]


def test_a_damaged_version_is_prepared_again(raw, version, tmp_path):
  (version / 'features.json').write_text('{}')
  outcome = prepare(raw, tmp_path)
  assert (outcome.change, outcome.folder.name) == ('replaced', '1.0.1')
  assert len(read(tmp_path)) == 3


@pytest.mark.parametrize('second', ['none', 'other'])
def test_two_preparations_at_once_both_succeed(raw, tmp_path, monkeypatch, second):
  """The second one begins and ends while the first one writes."""
  raws = {'none': raw, 'other': tmp_path / 'raw'}
  shutil.copytree(raw, raws['other'])
  file = raws['other'] / 'svamp' / 'svamp_test.json'
  file.write_text(file.read_text().replace('Sum?', 'Total?'))
  counts_of, outcomes = builder.Counts.report, []

  def interrupted(counts, has_teacher):
    if not outcomes:
      outcomes.append(None)
      outcomes[0] = prepare(raws[second], tmp_path / 'data')
    return counts_of(counts, has_teacher)

  monkeypatch.setattr(builder.Counts, 'report', interrupted)
  outcome = prepare(raw, tmp_path / 'data')
  assert [one.notes['counts']['test']['examples'] for one in (*outcomes, outcome)] == [3, 3]
  assert outcome.folder.name == ('1.0.0' if second == 'none' else '1.0.1')
  assert [path.name for path in outcome.folder.parent.iterdir()] == [outcome.folder.name]
  assert read(tmp_path / 'data')[0] == b'2 and 0. Sum?'


def test_many_preparations_at_once_leave_one_version(raw, tmp_path):
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    outcomes = list(pool.map(lambda _: prepare(raw, tmp_path), range(4)))
  assert {outcome.folder.name for outcome in outcomes} == {'1.0.0'}
  assert [path.name for path in (tmp_path / 'dss' / 'svamp').iterdir()] == ['1.0.0']


def test_a_full_disk_leaves_nothing(raw, tmp_path, monkeypatch):
  def full(counts, has_teacher):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(builder.Counts, 'report', full)
  with pytest.raises(OSError, match='the disk is full: nothing of this output is left'):
    prepare(raw, tmp_path)
  assert not [path for path in tmp_path.rglob('*') if path.is_file()]


def test_tensorflows_full_disk_is_one_sentence(raw, tmp_path, monkeypatch, capsys):
  """TFDS raises a RuntimeError from it."""

  def full(writer, record):
    raise tf.errors.ResourceExhaustedError(None, None, '/a/b; No space left on device')

  monkeypatch.setattr(tf.io.TFRecordWriter, 'write', full)
  command = ['prepare', '--dataset=svamp', f'--raw_dir={raw}', f'--data_dir={tmp_path}']
  assert cli.main(command) == errors.MAY_PASS
  said = capsys.readouterr().err.splitlines()[-1]
  assert said.startswith('dss prepare: [Errno 28] the disk is full: nothing of this output is left')
  assert f"'{tmp_path}/dss/svamp/1.0.0'" in said
  assert not [path for path in tmp_path.rglob('*') if path.is_file()]
