"""`dss prepare` from raw files to what SeqIO reads: counts, filters, replacement, messages."""

# ruff: noqa: F811  a fixture

import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest
import seqio
from svamp_release import (  # noqa: F401
  GOOD,
  TRAIN_COMPLETIONS,
  parsed,
  prepare_svamp,
  raw,
  rows,
  run,
  source_of,
)

from dss_jax import tasks
from dss_jax.commands import prepare
from dss_jax.datasets import release
from dss_jax.tasks import prepared, registration


def test_the_last_line_is_json_with_counts_before_any_filter(raw, tmp_path, capsys):
  held_out = release.held_out_rows(10)
  assert held_out.isdisjoint(TRAIN_COMPLETIONS)
  expected = {
    'train': (9, 6, 2, 2, 1),  # of 9 rows, 2 unparsed and 1 disagrees; row 2 agrees
    'validation': (1, 1, 0, 0, 0),
    'test': (3, 2, 1, 1, 0),
  }
  report = json.loads(prepare_svamp(capsys, raw, tmp_path)[-1])
  assert report == {
    'dataset': 'svamp',
    'teacher': release.TEACHER,
    'statuses': {
      'train': {'ok': 6, 'no_rationale': 1, 'cut_off': 2},
      'validation': {'ok': 1},
      'test': {'ok': 2, 'cut_off': 1},
    },
    'dropped': {},
    'splits': {
      split: {
        'examples': count,
        'teacher_accuracy': round(correct / count, 6),
        'unparsed': unparsed,
        'empty_rationale': empty,
        'disagree': disagree,
      }
      for split, (count, correct, unparsed, empty, disagree) in expected.items()
    },
  }


@pytest.mark.parametrize(('row_filter', 'dropped'), [('clean', {0, 1, 2}), ('agree', {0, 1, 2, 3})])
def test_filters_drop_train_rows_only_and_leave_the_counts(
  raw, tmp_path, capsys, row_filter, dropped
):
  before = json.loads(prepare_svamp(capsys, raw, tmp_path)[-1])['splits']
  after = json.loads(prepare_svamp(capsys, raw, tmp_path, f'--filter={row_filter}')[-1])['splits']
  before['train']['examples'] -= len(dropped)
  assert after == before
  source = source_of(tmp_path)
  numbers = [n for n in range(10) if n not in release.held_out_rows(10)]
  kept = [
    example for n, example in zip(numbers, parsed(raw, 'train'), strict=True) if n not in dropped
  ]
  assert rows(source, 'train') == kept
  assert rows(source, 'test') == parsed(raw, 'test')


def test_seqio_reads_the_parsed_rows_in_order(raw, tmp_path, capsys):
  prepare_svamp(capsys, raw, tmp_path)
  source = source_of(tmp_path)
  assert isinstance(source, seqio.TfdsDataSource)
  assert set(source.splits) == {'train', 'validation', 'test'}
  for split in source.splits:
    assert rows(source, split) == parsed(raw, split)
    assert source.num_input_examples(split) == len(parsed(raw, split))
  numbered = registration.NumberedSource(source).get_dataset('train', shuffle=False)
  assert [int(row['example_id']) for row in numbered] == list(range(9))


def test_the_registered_tasks_find_the_data_folder_when_they_read(
  raw, tmp_path, capsys, monkeypatch
):
  tasks.set_vocabulary('bytes')
  task = seqio.get_mixture_or_task('svamp_label')
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'empty'))
  with pytest.raises(ValueError) as error:
    task.get_dataset(sequence_length=None, split='test', shuffle=False)
  assert 'dss prepare --dataset=svamp' in str(error.value)
  assert str(tmp_path / 'empty') in str(error.value)

  prepare_svamp(capsys, raw, tmp_path)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'data'))
  (first, *_) = task.get_dataset(sequence_length=None, split='test', shuffle=False)
  assert first['targets_pretokenized'].numpy() == b'( 2.0 + 0.0 )'
  assert task.num_input_examples('test') == 3

  monkeypatch.delenv('TFDS_DATA_DIR')
  seqio.set_tfds_data_dir_override(str(tmp_path / 'data'))
  try:
    assert prepared.PreparedSource('svamp').num_input_examples('train') == 9
  finally:
    seqio.set_tfds_data_dir_override(None)


def test_tfds_reads_it_without_our_code(raw, tmp_path, capsys):
  prepare_svamp(capsys, raw, tmp_path)
  program = (
    'import sys, tensorflow_datasets as tfds\n'
    'data = tfds.load("dss/svamp", data_dir=sys.argv[1], split="test")\n'
    'print(len(list(data)), next(iter(data))["teacher_label"].numpy())'
  )
  output = subprocess.run(
    [sys.executable, '-c', program, str(tmp_path / 'data')], capture_output=True, check=True
  )
  assert output.stdout.split() == [b'3', b"[b'']"]


def test_the_same_again_changes_nothing(raw, tmp_path, capsys):
  first = prepare_svamp(capsys, raw, tmp_path)
  files = sorted((tmp_path / 'data').rglob('*.tfrecord*'))
  times = [path.stat().st_mtime_ns for path in files]
  again = prepare_svamp(capsys, raw, tmp_path)
  assert any('up to date' in line for line in again)
  assert again[-1] == first[-1]
  assert [path.stat().st_mtime_ns for path in files] == times


def test_other_raw_files_or_another_filter_replace_the_data(raw, tmp_path, capsys):
  prepare_svamp(capsys, raw, tmp_path)
  lines = prepare_svamp(capsys, raw, tmp_path, '--filter=clean')
  assert any('replaces' in line for line in lines)
  path = raw / 'svamp' / 'svamp_test.json'
  path.write_text(path.read_text().replace('Sum?', 'Total?'))
  prepare_svamp(capsys, raw, tmp_path, '--filter=clean')
  assert rows(source_of(tmp_path), 'test')[0].input == '2 and 0.\nTotal?'
  folders = [entry.name for entry in (tmp_path / 'data' / 'dss' / 'svamp').iterdir()]
  assert folders == ['1.0.2']
  assert source_of(tmp_path).metadata['filter'] == 'clean'


KILLED = """
import os, signal, sys
from dss_jax.commands import prepare
from dss_jax import datasets
from dss_jax.datasets import release
from dss_jax.experiments import few_shot_cot
read_examples = release.read_examples
def die(dataset, files, split, read):
  for number, example in enumerate(read_examples(dataset, files, split, read)):
    if (split, number) == ('test', 1):
      os.kill(os.getpid(), signal.SIGKILL)
    yield example
release.read_examples = die
prepare.main(sys.argv[1:])
"""


def test_a_killed_preparation_leaves_the_old_data(raw, tmp_path, capsys):
  prepare_svamp(capsys, raw, tmp_path)
  old = rows(source_of(tmp_path), 'train')
  options = ['--dataset=svamp', f'--raw_dir={raw}', f'--data_dir={tmp_path / "data"}']
  killed = subprocess.run(
    [sys.executable, '-c', KILLED, *options, '--filter=agree'], capture_output=True
  )
  assert killed.returncode == -signal.SIGKILL
  (leftover,) = (tmp_path / 'data' / 'dss' / 'svamp').glob('incomplete.*')
  assert rows(source_of(tmp_path), 'train') == old
  os.utime(leftover, (0, 0))
  prepare_svamp(capsys, raw, tmp_path, '--filter=agree')
  assert len(rows(source_of(tmp_path), 'train')) == 5
  assert not leftover.exists()


def test_after_a_kill_before_the_old_version_is_deleted_the_new_one_counts(raw, tmp_path, capsys):
  prepare_svamp(capsys, raw, tmp_path)
  folder = tmp_path / 'data' / 'dss' / 'svamp'
  shutil.copytree(folder / '1.0.0', tmp_path / 'old')
  prepare_svamp(capsys, raw, tmp_path, '--filter=agree')
  shutil.copytree(tmp_path / 'old', folder / '1.0.0')
  assert len(rows(source_of(tmp_path), 'train')) == 5
  prepare_svamp(capsys, raw, tmp_path, '--filter=agree')
  assert [entry.name for entry in folder.iterdir()] == ['1.0.1']


def test_a_missing_split_is_reported_and_left_out(raw, tmp_path, capsys):
  (raw / 'svamp' / 'svamp_train.json').unlink()
  lines = prepare_svamp(capsys, raw, tmp_path)
  assert list(json.loads(lines[-1])['splits']) == ['test']
  for split in ('train', 'validation'):
    (line,) = (line for line in lines if line.startswith(f'{split} is left out'))
    assert 'svamp_train.json is missing' in line
    assert release.SOURCE in line
  with pytest.raises(ValueError, match='no split train, only test'):
    source_of(tmp_path).get_dataset('train')


def test_without_any_split_it_fails(raw, tmp_path, capsys):
  (raw / 'esnli').mkdir()
  status, lines, errors = run(
    capsys, '--dataset=esnli', f'--raw_dir={raw}', f'--data_dir={tmp_path}'
  )
  assert status == 2
  assert 'No raw file of esnli' in errors
  assert len(lines) == 3


def test_malformed_raw_files_fail_and_leave_the_old_data(raw, tmp_path, capsys):
  prepare_svamp(capsys, raw, tmp_path)
  with (raw / 'svamp' / 'svamp_test.json').open('a') as file:
    file.write('\n{"input": ')
  status, _, errors = run(
    capsys, '--dataset=svamp', f'--raw_dir={raw}', f'--data_dir={tmp_path / "data"}'
  )
  assert status == 2
  assert 'svamp_test.json, line 4 is not JSON' in errors
  assert rows(source_of(tmp_path), 'test')[2].label == '( 2.0 + 2.0 )'


def test_a_filter_without_teacher_outputs_fails(raw, tmp_path, capsys):
  shutil.rmtree(raw / 'svamp' / 'llm')
  lines = prepare_svamp(capsys, raw, tmp_path)
  entry = json.loads(lines[-1])['splits']['test']
  assert entry['examples'] == 3
  assert {value for key, value in entry.items() if key != 'examples'} == {None}
  status, _, errors = run(
    capsys, '--dataset=svamp', f'--raw_dir={raw}', f'--data_dir={tmp_path}', '--filter=clean'
  )
  assert status == 2
  assert '--filter=none' in errors


def test_a_zip_archive_serves_as_raw_dir_and_as_url(raw, tmp_path, capsys):
  path = tmp_path / 'datasets.zip'
  with zipfile.ZipFile(path, 'w') as file:
    for entry in raw.rglob('*.json'):
      file.write(entry, pathlib.PurePosixPath('datasets', entry.relative_to(raw)))
  expected = prepare_svamp(capsys, raw, tmp_path)[-1]
  for number, source in enumerate((f'--raw_dir={path}', f'--url={path.as_uri()}')):
    data_dir = tmp_path / f'from_zip_{number}'
    status, lines, errors = run(capsys, '--dataset=svamp', source, f'--data_dir={data_dir}')
    assert (status, lines[-1]) == (0, expected), errors


def test_options_that_cannot_work_are_refused(raw, tmp_path, capsys):
  status, _, errors = run(capsys, '--dataset=svamp', f'--raw_dir={tmp_path / "nowhere"}')
  assert status == 2
  assert 'nowhere' in errors
  for argv in ([], ['--dataset=svamp']):
    with pytest.raises(SystemExit, match='2'):
      prepare.main(argv)
  with pytest.raises(ValueError, match=r"no data set 'nothing'; there are anli1, asdiv"):
    prepare.main(['--dataset=nothing', f'--raw_dir={raw}'])


def test_svamp_with_asdiv_joins_gold_and_teacher_labels(raw, tmp_path, capsys, monkeypatch):
  folder = raw / 'asdiv'
  (folder / 'llm').mkdir(parents=True)
  problems = ''.join(
    f'<Problem><Body>B{n}</Body><Question>Q</Question><Formula>{n}*2={n * 2}</Formula></Problem>'
    for n in range(2)
  )
  (folder / 'ASDiv.xml').write_text(f'<C><ProblemSet>{problems}</ProblemSet></C>')
  prepare_svamp(capsys, raw, tmp_path)
  run(capsys, '--dataset=asdiv', f'--raw_dir={raw}', f'--data_dir={tmp_path / "data"}')
  source = prepared.AugmentedSource('svamp', 'asdiv', str(tmp_path / 'data'))
  with pytest.raises(ValueError, match='without teacher outputs'):
    source.get_dataset('train')

  completions = ['Nil. The answer is (0 * 2).', 'No answer']
  (folder / 'llm' / 'train_CoT_0.json').write_text(json.dumps(completions))
  run(capsys, '--dataset=asdiv', f'--raw_dir={raw}', f'--data_dir={tmp_path / "data"}')
  joined = rows(source, 'train')
  assert joined[:9] == parsed(raw, 'train')
  assert joined[9:] == [
    release.Example('B0\nQ', '(0 * 2)', ('Nil.',), ('(0 * 2)',)),
    release.Example('B1\nQ', '', ('',), ('',)),
  ]
  assert rows(source, 'test') == parsed(raw, 'test')
  assert source.num_input_examples('train') == 11

  tasks.set_vocabulary('bytes')
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'data'))
  task = seqio.get_mixture_or_task('svamp_asdiv_paired')
  data = task.get_dataset(sequence_length=None, split='train', shuffle=False)
  counts = collections.Counter(int(row['task_id']) for row in data)
  assert counts == {0: 10, 1: 8}  # rows with a blank target are left out
  assert 'svamp_asdiv_teacher_dss' in seqio.MixtureRegistry.names()
  (info,) = registration.datasets_of('svamp_asdiv_standard')
  assert info.unlabeled == ('asdiv',)  # a card does not call these labels gold


REAL: dict[str, dict[str, tuple]] = {
  'svamp': {'train': (720, 13, 10, 177), 'validation': (80, 1, 1, 15), 'test': (200, 2, 2, 43)},
  'cqa': {
    'train': (8766, 257, 0, 1893),
    'validation': (975, 30, 0, 218),
    'test': (1221, 25, 0, 238),
  },
  'anli1': {'validation': (1000, 1, 1, 324), 'test': (1000, 0, 0, 336)},
  'esnli': {'validation': (9842, 4, 4, 2637), 'test': (9824, 0, 0, 2653)},
  'asdiv': {'train': (2305, None, None, None)},
}


@pytest.mark.parametrize('name', sorted(REAL))
def test_the_real_data_sets_have_the_known_counts(name, raw_dir, tmp_path, capsys):
  status, lines, errors = run(
    capsys, f'--dataset={name}', f'--raw_dir={raw_dir}', f'--data_dir={tmp_path / "data"}'
  )
  assert status == 0, errors
  splits = json.loads(lines[-1])['splits']
  for split, (examples, unparsed, empty, disagree) in REAL[name].items():
    entry = splits[split]
    accuracy = None if unparsed is None else round((examples - unparsed - disagree) / examples, 6)
    assert entry == {
      'examples': examples,
      'teacher_accuracy': accuracy,
      'unparsed': unparsed,
      'empty_rationale': empty,
      'disagree': disagree,
    }
    assert rows(source_of(tmp_path, name), split) == parsed(raw_dir, split, name)
