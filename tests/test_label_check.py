"""Labels that can never be scored as right are found at the start, whatever the reason."""

import contextlib
import dataclasses
import json
import pathlib

import fuzzing
import pytest
import sentencepieces
import seqio
import tensorflow as tf
from hypothesis import strategies
from small_runs import config_of

from dss_jax import methods
from dss_jax.data import pipeline
from dss_jax.methods import Row
from dss_jax.planning import checks
from dss_jax.runs import label_check, run_config, training_setup
from dss_jax.runs.label_check import Limits
from dss_jax.runs.run_config import EvalConfig
from dss_jax.tasks import metrics, registration, vocabulary
from dss_jax.tasks.numbered_source import FIELDS

ALONE = methods.get('standard').answer
LONG = Limits(200, 200)
LABELS = ['½ cup', 'red\nblue', 'new  york', 'yes', 'no', 'yes', 'no', 'yes']


@pytest.fixture(scope='module')
def normalising(tmp_path_factory):
  """A vocabulary as T5's: NFKC, extra spaces removed, and characters that it lacks."""
  folder = tmp_path_factory.mktemp('vocabulary')
  texts = ['yes no new york red blue cup 1 2 3 4 5 6 7 8 9 0'] * 20
  return sentencepieces.train(folder / 'spiece.model', texts, model_type='char', vocab_size=30)


def report(labels, vocabulary_name='bytes', metric='text', row=ALONE, limits=LONG):
  """The report on labels that occur once each; None where there is none."""
  with vocabulary.temporary_vocabulary(vocabulary_name):
    return label_check.report(dict.fromkeys(labels, 1), 'labels', metric, row, limits)


@pytest.mark.parametrize(
  ('label', 'back'),
  [
    ('½ cup', "'1 ⁇ 2 cup'"),
    ('red\nblue', "'red blue'"),
    ('new  york', "'new york'"),
    ('new\u00a0york', "'new york'"),
    ('ﬁve', ' ⁇ '),  # a ligature
    ('Yes', ' ⁇ es'),
    ('yes!', 'yes ⁇ '),
    ('\u0661', ' ⁇ '),  # a digit
  ],
)
def test_a_label_that_the_vocabulary_changes_is_reported_with_what_comes_back(
  label, back, normalising
):
  found = report([label, 'yes'], normalising)
  assert found.text.startswith('1 of 2 labels (50.0%) can never be scored as right')
  assert f'such as {label!r}: VOCABULARY gives it back as' in found.text and back in found.text
  assert not found.is_refused


@pytest.mark.parametrize('name', ['bytes', 'normalising'])
def test_labels_that_come_back_are_not_reported(name, normalising):
  names = {'normalising': normalising}
  assert report(['yes', ' no ', 'new york', 'cup\n'], names.get(name, name)) is None
  assert report(['½ cup', 'red\nblue', 'new  york', 'x\x00y', '日本', '</s>'], 'bytes') is None


def test_a_label_as_long_as_the_output_fits_and_a_longer_one_does_not():
  fits, too_long = 'a' * 64, 'a' * 72
  found = report([fits, too_long], limits=Limits(200, 64))
  assert found.text.startswith('1 of 2 labels (50.0%)')
  assert 'it has 73 tokens with its EOS and is cut at 64; raise MAX_DECODE_LENGTH' in found.text
  assert 'a' * 61 not in found.text  # the label itself is shown in part
  found = report([too_long], limits=Limits(32, 64))
  assert "raise TASK_FEATURE_LENGTHS['targets'] and MAX_DECODE_LENGTH" in found.text
  assert found.is_refused
  # In training a target that is cut keeps its EOS, so its last token is lost.
  assert report([fits], limits=Limits(64, 64)) is not None


@pytest.mark.parametrize(
  'label', ['$5', '50%', '+5', '\u22125', '12 apples', '1e3', '1,00', 'x = 5', '2^3', '(3', '1/0']
)
def test_an_equation_without_a_value_is_reported(label):
  found = report([label, '( 3 + 4 )'], metric='equation')
  assert '1 of 2 labels (50.0%) can never be scored as right' in found.text
  assert f'such as {label!r}: its metric compares values and finds none in it' in found.text
  assert report([label]) is None  # as text it is right


@pytest.mark.parametrize('label', ['1,000', '1/2', '5.', '.5', '-5', '( 84.0 / 2.0 )', ' 7 '])
def test_an_equation_with_a_value_is_not_reported(label):
  assert report([label], metric='equation') is None


def test_an_equation_whose_signs_the_vocabulary_lacks_is_reported(normalising):
  found = report(['3 + 4'], normalising, metric='equation')
  assert found.is_refused and 'VOCABULARY gives it back as' in found.text


def test_the_label_is_read_out_of_a_longer_target():
  row = Row('label', '{input}', '{label} because {rationale}')
  found = report(['yes because no', 'yes'], row=row)
  assert "METHOD reads 'yes' out of 'yes because no because '" in found.text
  row = methods.get('single_task').answer
  assert report(['yes', 'a [label] b'], row=row) is None
  found = report(['yes' * 9], row=row, limits=Limits(20, 20))
  assert found.text.endswith("raise TASK_FEATURE_LENGTHS['targets'].")


def test_reasons_are_counted_by_examples_and_each_has_one(normalising):
  with vocabulary.temporary_vocabulary(normalising):
    labels = {'Yes': 5, 'No': 2, 'new york ' * 5: 1, 'yes': 2}
    found = label_check.report(labels, 'labels', 'text', ALONE, Limits(100, 20))
  assert found.text.startswith('8 of 10 labels (80.0%)')
  assert "7 such as 'Yes': VOCABULARY" in found.text and '1 such as ' in found.text
  assert not found.is_refused


@pytest.mark.parametrize(('right', 'is_refused'), [(0, True), (1, True), (2, False)])
def test_a_split_is_refused_where_nine_in_ten_of_its_labels_fail(right, is_refused):
  with vocabulary.temporary_vocabulary('bytes'):
    labels = {'nonsense': 10 - right, '7': right}
    assert label_check.report(labels, 'x', 'equation', ALONE, LONG).is_refused is is_refused


# ---------------------------------------------------------------- splits of a run


def _register(name, splits, metric='text'):
  """A data set whose splits have these labels; a split that is an error raises it."""

  def read(split, shuffle_files):
    labels = splits[split]
    if isinstance(labels, Exception):
      raise labels
    rows = {
      'input': [f'question {number}' for number in range(len(labels))],
      'label': labels,
      'rationale': ['because'] * len(labels),
      'teacher_label': [label if isinstance(label, bytes) else f'{label}?' for label in labels],
    }
    return tf.data.Dataset.from_tensor_slices({key: rows[key] for key in FIELDS})

  if not registration.is_dataset(name):
    registration.register_dataset(name, seqio.FunctionDataSource(read, list(splits)), metric)


def _run(folder, name, **changes):
  data = pipeline.DataConfig(name, {'inputs': 64, 'targets': 64}, batch_size=8)
  run = config_of(folder, data=data, eval=EvalConfig(period=4, max_decode_length=16), **changes)
  return dataclasses.replace(run, vocabulary=changes.get('vocabulary', 'bytes'))


def _texts(run):
  return [one.text for one in label_check.reports(run_config.set_up_tasks(run))]


def test_training_names_count_and_example_of_every_split(tmp_path, capsys, normalising):
  few = ['yes', 'no', 'Yes']
  _register('labels_of_all', {'train': LABELS, 'validation': few, 'test': few[:2]})
  run = _run(tmp_path, 'labels_of_all_dss', vocabulary=normalising)
  with contextlib.ExitStack() as stack:
    training_setup.set_up(run, stack)
  errors = capsys.readouterr().err
  assert 'warning: 3 of 8 gold labels of labels_of_all train (37.5%) can never' in errors
  assert "such as '½ cup': VOCABULARY gives it back as '1 ⁇ 2 cup'" in errors
  assert 'warning: 1 of 3 gold labels of labels_of_all validation (33.3%)' in errors
  assert 'labels_of_all test' not in errors


@pytest.mark.parametrize('split', ['train', 'validation', 'test'])
def test_training_on_labels_that_cannot_be_right_is_refused(split, tmp_path):
  splits = {name: ['1'] * 3 for name in ('train', 'validation', 'test')} | {split: ['x'] * 3}
  _register(f'labels_bad_{split}', splits, 'equation')
  text = rf'3 of 3 gold labels of labels_bad_{split} {split}'
  with contextlib.ExitStack() as stack, pytest.raises(ValueError, match=text):
    training_setup.set_up(_run(tmp_path, f'labels_bad_{split}_dss'), stack)
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']


def test_a_test_split_that_cannot_be_read_is_told_and_validation_is_not_needed(tmp_path):
  _register('labels_no_test', {'train': ['a'], 'validation': ['a'], 'test': OSError('no test')})
  run = _run(tmp_path, 'labels_no_test_dss')
  assert _texts(run) == ['the labels of labels_no_test test cannot be read: no test']
  _register('labels_train', {'train': ['a', 'a' * 70]})
  run = dataclasses.replace(_run(tmp_path, 'labels_train_label'), eval=EvalConfig(period=0))
  (text,) = _texts(run)
  assert '1 of 2 gold labels of labels_train train' in text


def test_blank_labels_are_counted(tmp_path):
  _register('labels_blank', {'train': ['a', '', ' ', 'b'], 'validation': ['a'], 'test': ['']})
  texts = _texts(_run(tmp_path, 'labels_blank_dss'))
  assert texts[0].startswith('2 of 4 gold labels of labels_blank train are blank')
  assert texts[1].startswith('1 of 1 gold labels of labels_blank test are blank')


def test_labels_of_the_teacher_are_looked_at_where_they_are_learned(tmp_path, normalising):
  """Whether they can be written, not whether they are right: a teacher may say anything."""
  _register('labels_teacher', {'train': ['yes'], 'validation': ['yes']}, 'text')
  run = _run(tmp_path, 'labels_teacher_teacher_dss', vocabulary=normalising)
  (text,) = _texts(run)
  assert text.startswith('1 of 1 teacher labels of labels_teacher train (100.0%)')
  assert _texts(_run(tmp_path, 'labels_teacher_teacher_dss')) == []


def test_a_label_that_is_not_utf_8_is_refused(tmp_path):
  _register('labels_latin', {'train': [b'caf\xe9'], 'validation': [b'a']})
  with pytest.raises(ValueError, match=r"the label b'caf\\xe9' of labels_latin train is not UTF-8"):
    _texts(_run(tmp_path, 'labels_latin_dss'))


def test_a_plan_looks_too(tmp_path):
  _register('labels_plan', {'train': ['1', '$5'], 'validation': ['1']}, 'equation')
  run = _run(tmp_path / 'run', 'labels_plan_dss')
  texts = {one.name: one.text for one in checks.check(run)[1]}
  assert texts['labels'].startswith('PROBLEM: 1 of 2 gold labels of labels_plan train (50.0%)')


def test_the_labels_of_the_release_can_be_scored(raw_dir):
  """Gold labels of the paper's data sets, by a vocabulary that keeps text."""
  for name, metric in (('svamp', 'equation'), ('cqa', 'text')):
    for split in ('train', 'test'):
      lines = pathlib.Path(raw_dir / name / f'{name}_{split}.json').read_text('utf-8').splitlines()
      rows = [json.loads(line) for line in lines]
      labels = [row['label'] if name == 'svamp' else row['answer'] for row in rows]
      assert report(labels, metric=metric, limits=Limits(200, 64)) is None


TEXTS = strategies.text(strategies.characters(exclude_categories=['Cs']), min_size=1, max_size=60)


@fuzzing.fuzz(TEXTS, strategies.sampled_from(['text', 'equation']))
def test_any_label_is_kept_by_bytes_and_judged_by_its_metric(label, metric):
  with fuzzing.may_refuse():
    found = report([label], metric=metric, limits=Limits(300, 300))
  is_right = metrics.LABEL_CORRECT[metric](label, label)
  assert (found is None) == is_right
  if found is not None:
    assert found.text.isprintable() and 'its metric' in found.text
