"""What a plan looks at besides the compiler: found and right, missing, or not to be looked at."""

import dataclasses
import os
import pathlib

import pytest
import run_folders
from plan_runs import run_config_of
from run_folders import NAME

from dss_jax.data import pipeline
from dss_jax.planning import checks
from dss_jax.runs import run_config

DSS = f'{NAME}_dss'
LENGTHS = {'inputs': 48, 'targets': 24}  # the longest have 37 and 18


@pytest.fixture(autouse=True)
def _registered():
  run_folders.register()


@pytest.fixture(scope='module')
def before(tmp_path_factory):
  """A folder that a run was trained in."""
  return run_folders.make_run(tmp_path_factory.mktemp('plan_checks') / 'before', steps=(1,))


def _run(**settings):
  """A run that names nothing but what is given; the model has no vocab_size."""
  model = dataclasses.replace(run_folders.MODEL, vocab_size=None)
  return run_config_of('base', **{'model': model, **settings})


def _texts(run) -> dict[str, str]:
  return {one.name: one.text for one in checks.check(run)[1]}


def test_what_is_not_named_is_not_looked_at():
  run = _run()
  assert checks.check(run) == (run, [])
  assert checks.with_vocab_size(run, 32128).model.vocab_size == 32128


def test_all_is_well(tmp_path, before):
  run = _run(
    data=pipeline.DataConfig(DSS, LENGTHS, 4),
    vocabulary='bytes',
    model_dir=str(tmp_path / 'new' / 'run'),
    initial_checkpoint_path=before,
  )
  found, results = checks.check(run)
  assert {one.name: one.text for one in results} == dict.fromkeys(
    ('vocabulary', 'data', 'validation data', 'labels', 'checkpoint', 'folder'), 'ok'
  )
  assert all(one.passed for one in results)
  assert found.model.vocab_size == 384  # 256 bytes and the rest, in 128s
  assert checks.with_vocab_size(found, 32128) == found
  assert not os.listdir(tmp_path)  # nothing is left of trying the folder
  # 5 examples of two tasks in rows of 48 inputs: some share a row
  assert 1.0 < checks.examples_per_row(found) <= 5.0


def test_data_without_a_vocabulary_is_neither_right_nor_wrong():
  (result,) = checks.check(_run(data=pipeline.DataConfig(DSS, LENGTHS, 4)))[1]
  assert result.passed is None and 'not checked: it takes a VOCABULARY' in result.text


def test_a_mixture_that_is_not_there_is_told_with_near_names():
  texts = _texts(_run(data=pipeline.DataConfig(f'{NAME}_dsss', LENGTHS, 4), vocabulary='bytes'))
  assert texts['vocabulary'] == 'ok'
  assert texts['data'].startswith('PROBLEM: ') and DSS in texts['data']


def test_lengths_that_cut_the_data_are_told_with_the_setting():
  short = pipeline.DataConfig(DSS, {'inputs': 24, 'targets': 12}, 4)
  run = _run(data=short, vocabulary='bytes', eval=run_config.EvalConfig(period=0))
  text = _texts(run)['data']
  assert 'inputs are cut at 24 tokens' in text and "TASK_FEATURE_LENGTHS['inputs']" in text


def test_a_vocabulary_that_is_not_there_is_told_and_the_data_not_looked_at(tmp_path):
  run = _run(data=pipeline.DataConfig(DSS, LENGTHS, 4), vocabulary=str(tmp_path / 'no.model'))
  texts = _texts(run)
  assert texts['vocabulary'].startswith('PROBLEM: ') and 'no.model' in texts['vocabulary']
  assert texts['data'].startswith('not checked')


def test_a_vocabulary_larger_than_the_network_is_told():
  model = dataclasses.replace(run_folders.MODEL, vocab_size=128)
  assert 'VOCAB_SIZE 128 is smaller' in _texts(_run(model=model, vocabulary='bytes'))['vocabulary']


def test_a_checkpoint_of_another_network_is_told_with_the_difference(before):
  model = dataclasses.replace(run_folders.MODEL, emb_dim=32)
  text = _texts(_run(model=model, initial_checkpoint_path=before))['checkpoint']
  assert text.startswith('PROBLEM: ') and 'emb_dim: 16 -> 32' in text


def test_a_checkpoint_that_is_not_there_is_told(tmp_path):
  text = _texts(_run(initial_checkpoint_path=str(tmp_path / 'nothing')))['checkpoint']
  assert text.startswith('PROBLEM: there is no folder')


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
  (tmp_path / 'file').write_text('')
  text = _texts(_run(model_dir=str(tmp_path / 'file' / 'run')))['folder']
  assert text.startswith('PROBLEM: ') and 'MODEL_DIR' in text
  assert pathlib.Path(tmp_path / 'file').read_text() == ''


def test_a_bucket_is_tried_at_the_very_path(monkeypatch):
  """As a bucket has no folders; here its file system is one that refuses."""
  tried = []

  class Refusing:
    def __init__(self, path):
      tried.append(str(path))

    def expanduser(self):
      return self

    def __truediv__(self, name):
      return self

    def mkdir(self):
      raise PermissionError(13, 'you may not')

  monkeypatch.setattr(checks.epath, 'Path', Refusing)
  text = _texts(_run(model_dir='gs://bucket/run'))['folder']
  assert tried == ['gs://bucket/run']
  assert 'MODEL_DIR gs://bucket/run cannot be written: you may not; choose' in text
