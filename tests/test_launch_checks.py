"""A paid job that cannot work is refused here: paths, configuration, and the forms of a cloud."""

import os

import fake_hub
import fuzzing
import pytest
from hypothesis import strategies

from dss_jax import launch
from dss_jax.launch import checks, job, tpu_vm
from dss_jax.launch.job import Job
from dss_jax.settings import arguments

WHERE = {
  'name': 'cqa', 'bucket': 'gs://b/jobs', 'project': 'my-project', 'zone': 'us-west4-a',
  'topology': 'v5e-8',
}  # fmt: skip
SETTINGS = {
  'vocabulary': 'gs://b/spiece.model', 'data_dir': 'gs://b/data', 'model_dir': 'gs://b/cqa',
}  # fmt: skip
FILES = ('--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/cqa.gin')


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  """An empty working directory, and a hub without models."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv(tpu_vm.ENDPOINT, raising=False)
  checks._check_hub.cache_clear()
  with fake_hub.serve() as hub:
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', hub.url)
    monkeypatch.setattr('huggingface_hub.hf_api.constants.ENDPOINT', hub.url)
    hub.add('google/t5-v1_1-base', {'config.json': b'{}'})
    yield tmp_path


def command(*more: str, **settings) -> list[str]:
  given = {**SETTINGS, **settings}
  return ['train', *FILES, *(f'--{n}={v}' for n, v in given.items() if v is not None), *more]


def run(line: list[str], target: str = 'tpu-vm', **where) -> None:
  """Prints what would be done."""
  more = {'image': 'i', 'cluster': 'c'} if target == 'gke' else {}
  flags = [f'--{name}={value}' for name, value in {**WHERE, **more, **where}.items()]
  assert launch.main([target, *flags, '--', *line]) == 0


def refused(line: list[str], target: str = 'tpu-vm', **where) -> str:
  with pytest.raises((ValueError, ImportError)) as error:
    run(line, target, **where)
  return str(error.value)


@pytest.mark.parametrize('target', ['tpu-vm', 'skypilot', 'gke'])
def test_a_job_that_can_work_is_accepted(target, capsys):
  run(command(), target)
  run(command(initial_checkpoint_path='google/t5-v1_1-base'), target)
  run(command('--gin_file=models/pretrained.gin', vocabulary=None,
              initial_checkpoint_path='gs://b/run'), target)  # fmt: skip
  run(['evaluate', '--model_dir=gs://b/cqa', '--output=gs://b/answers.jsonl'], target)
  run(['predict', '--input=Is it?', '--model_dir=gs://b/cqa'], target)
  run(['compare', *command()[1:], '--methods=standard,dss'], target)
  run(['prepare', '--dataset=cqa', '--url', '--data_dir=gs://b/data'], target)
  run(['vocab', '--task=cqa_dss', '--output=gs://b/a.model', '--data_dir=gs://b/data'], target)
  run(['import', '--from=hf', '--path=gs://b/hf', '--output=gs://b/weights'], target)
  run(['export', '--to=hf', '--checkpoint=gs://b/cqa', '--output=gs://b/hf', '--step=12'], target)
  printed = capsys.readouterr().out
  for argument in ('google/t5-v1_1-base', 'gs://b/answers.jsonl', 'standard,dss', 'gs://b/a.model',
                   'gs://b/weights', '--step=12'):  # fmt: skip
    assert argument in printed, 'the job is shown as it would be submitted'


PATHS = {
  'vocabulary': ('nope.model', '/tmp/x/mine.model', '~/mine.model', 'gs:/b/x', 'gs//b/x', 's3://b/x',
                 'gs://Bucket/x', '../x.model', 'file:///tmp/x'),
  'initial_checkpoint_path': ('runs/a', '/tmp/x', '~/x', 'a/b/c', './a', 'gs:/b'),
  'data_dir': ('data', '/tmp/data', '~/tensorflow_datasets', 'gs:b'),
  'model_dir': ('runs/a', '/tmp/a', '~/a', 'gs:/b', 'gs//b', 'gs://', 'GS://b'),
}  # fmt: skip


@pytest.mark.parametrize('target', ['tpu-vm', 'skypilot', 'gke'])
@pytest.mark.parametrize(('name', 'value'), [(n, v) for n, vs in PATHS.items() for v in vs])
def test_a_path_that_the_hosts_do_not_have_is_refused(name, value, target):
  for text in (f'--{name}={value}', f"--gin.{name.upper()}='{value}'"):
    said = refused([*command(), text], target)
    assert name.upper() in said and value in said
    assert f'--{name}=gs://' in said or 'gs://BUCKET/PATH' in said


def test_paths_in_gin_files_count_too(here):
  binding = (
    'from __gin__ import dynamic_registration\nfrom dss_jax.runs import run_config\n'
    "run_config.RunConfig.vocabulary = 'nope.model'"
  )
  for text, given in (
    ("VOCABULARY = 'nope.model'", None),
    ("MINE = 'nope.model'\nVOCABULARY = %MINE", None),
    (binding, 'gs://b/spiece.model'),
  ):
    (here / 'mine.gin').write_text(text)
    said = refused(command('--gin_file=mine.gin', vocabulary=given))
    assert "VOCABULARY 'nope.model': there is no such file" in said
  (here / 'mine.gin').write_text("MODEL_DIR = 'runs/a'")
  said = refused(command('--gin_file=mine.gin', model_dir=None))
  assert "MODEL_DIR 'runs/a' is on a machine that will be deleted" in said


def test_what_is_here_is_uploaded_or_must_be_named(here, capsys):
  (here / 'data').mkdir()
  (here / 'data/rows').write_text('x')
  assert "'data' is a folder of this machine" in refused(command(data_dir='data'))
  assert 'uploaded by --file=data' in refused(command(initial_checkpoint_path='data'))
  capsys.readouterr()
  run(command(data_dir='data'), file='data')
  assert 'files/data/rows' in capsys.readouterr().out
  (here / 'mine.model').write_text('no vocabulary')
  assert 'mine.model is not a SentencePiece model' in refused(command(vocabulary='mine.model'))
  assert 'is not on the hosts' in refused(command(vocabulary='mine.model'), 'gke')
  (here / 'mine.gin').write_text("VOCABULARY = 'embedded'")
  run(command('--gin_file=mine.gin', vocabulary=None))
  assert 'files/mine.gin' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('argument', 'said'),
  [
    ('--train_steps=ten', "TRAIN_STEPS is of type int, not 'ten'"),
    ('--nonsense=3', 'does not read the macro NONSENSE'),
    ('--batch_size=12', 'is not a multiple of data x fsdp = 8'),
    ('--mesh_fsdp=3', 'must multiply to the 8 devices'),
    ('--num_microbatches=5', 'does not divide BATCH_SIZE'),
    ('--gin_file=nope.gin', "--gin_file='nope.gin': there is no such file"),
    ('--gin.NAME', '--gin.NAME needs a value'),
    ('--module=mine.tasks', "there is no 'mine/tasks.py'"),
    ('--module=json', 'the hosts have only dss_jax'),
    ('--mixture_or_task_name=nothing', "task or mixture 'nothing' does not exist"),
    ('--method=nothing', 'nothing'),
    ('--dataset=nothing', "'nothing_dss' does not exist"),
    ('--eval_split=nothing', "'nothing' does not exist"),
    ('--train_split=nothing', "'nothing' does not exist"),
    ('--eval_batch_size=12', 'EVAL_BATCH_SIZE 12 is not a multiple'),
    ('--model_dir=None', 'MODEL_DIR'),
    ('train', "not 'train'"),
  ],
)
def test_any_mistake_of_configuration_is_found_before_paying(argument, said):
  assert said in refused(command(argument))


PRETRAINED = [
  'train', '--gin_file=models/pretrained.gin', '--gin_file=datasets/cqa.gin',
  '--data_dir=gs://b/data', '--model_dir=gs://b/cqa',
]  # fmt: skip


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ([], 'takes the network of INITIAL_CHECKPOINT_PATH'),
    (['--initial_checkpoint_path=gs://b/t5', '--dataset=nope'], "'nope_dss' does not exist"),
    (['--initial_checkpoint_path=gs://b/t5', '--batch_size=12'], 'is not a multiple of'),
    (['--initial_checkpoint_path=gs://b/t5', '--eval_split=nope'], "'nope' does not exist"),
    (['--initial_checkpoint_path=gs://b/t5', '--optimizer=nope'], 'nope'),
    (['--initial_checkpoint_path=gs://b/t5', '--vocabulary=nope.model'], 'there is no such file'),
  ],
)
def test_all_but_the_network_is_checked_where_the_weights_are_in_a_bucket(arguments, said):
  run([*PRETRAINED, '--initial_checkpoint_path=gs://b/t5'])
  assert said in refused([*PRETRAINED, *arguments])


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    (['export', '--to=nope', '--checkpoint=gs://b/a', '--output=gs://b/c'], "choice: 'nope'"),
    (['export', '--to=hf', '--checkpoint=gs://b/a'], 'required: --output'),
    (['export', '--to=hf', '--checkpoint=gs://b/a', '--out=gs://b/c'], 'required: --output'),
    (['import', '--path=gs://b/a', '--output=gs://b/c'], 'required: --from'),
    (['vocab', '--task=embedded_dss', '--output=gs://b/c', '--size=8k'], "more, got '8k'"),
    (['vocab', '--task=embedded_dss', '--outp=gs://b/c'], 'required: --output'),
    (['prepare', '--dataset=cqa', '--data_dir=gs://b'], '--raw_dir --url is required'),
    (['prepare', '--dataset=cqa', '--data_dir=gs://b', '--url', 'x', 'y'], 'arguments: y'),
  ],
)
def test_flags_are_those_that_the_verb_takes(line, said, capsys):
  with pytest.raises(SystemExit) as end:
    run(line)
  assert end.value.code == 2
  assert said in capsys.readouterr().err


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    (['export', '--to=hf', '--checkpoint=gs://b/a', '--output=gs://b/c', '--step=x'], 'STEP is'),
    (['vocab', '--task=nope_dss', '--output=gs://b/c'], "'nope_dss' does not exist"),
    (['vocab', '--task=cqa_dss', '--output=gs://b/c'], 'the hosts have no prepared cqa'),
    (['vocab', '--task=embedded_dss', '--output=gs://b/c', '--size=9'], '--size=9 does not hold'),
    (['prepare', '--dataset=nope', '--url', '--data_dir=gs://b'], "no data set 'nope'"),
    (['prepare', '--dataset=cqa', '--url=ftp://x', '--data_dir=gs://b'], '--url must begin with'),
    (['prepare', '--dataset=cqa', '--url', '--sha256=1', '--data_dir=gs://b'], '64 hexadecimal'),
    (['evaluate', '--model_dir=gs://b/a', '--step=abc'], "STEP is 'best', 'latest' or the number"),
    (['evaluate', '--model_dir=gs://b/a', '--batch_size=12'], 'BATCH_SIZE 12 is not a multiple'),
    (['evaluate', '--model_dir=gs://b/a', '--task=cqa_label', '--split=x'], "'x' does not exist"),
    (['predict', '--model_dir=gs://b/a', '--input=Is it?', '--step=-1'], 'not -1'),
    (['predict', '--model_dir=gs://b/a', '--input=Is it?', '--mesh_fsdp=3'], 'must multiply to'),
    (
      ['compare', *command()[1:], '--methods=standard,dss', '--compare_split=x'],
      "'x' does not exist",
    ),
  ],
)
def test_what_the_verb_would_refuse_without_reading_anything_is_refused(line, said):
  assert said in refused(line)


def test_files_of_a_users_data_set_are_uploaded_or_refused(here, capsys):
  (here / 'own_rows.py').write_text(
    'from dss_jax.tasks import files, register_dataset\n'
    "register_dataset('own_rows', files.source('my/{split}.jsonl'))\n"
    "register_dataset('own_rows_here', files.source('/my/{split}.jsonl'))\n"
    "register_dataset('own_rows_there', files.source('gs://b/{split}.jsonl'))\n"
  )
  own = lambda name, *more: command('--module=own_rows', f'--dataset={name}', *more, data_dir=None)  # noqa: E731
  said = refused(own('own_rows'))
  assert "the data file 'my/train.jsonl' of your module is not on the hosts" in said
  (here / 'my').mkdir()
  (here / 'my/train.jsonl').write_text('{}')
  assert "'my/validation.jsonl' of your module" in refused(own('own_rows'))
  run(own('own_rows', '--eval_period=0'))
  (here / 'my/test.jsonl').write_text('{}')
  capsys.readouterr()
  run(['vocab', '--task=own_rows_dss', '--module=own_rows', '--output=gs://b/a.model'])
  assert 'files/my/train.jsonl' in capsys.readouterr().out
  run(['evaluate', '--model_dir=gs://b/a', '--module=own_rows'])
  assert 'files/my/test.jsonl' in capsys.readouterr().out
  assert "'/my/train.jsonl' of your module" in refused(own('own_rows_here'))
  run(own('own_rows_there'))


def test_a_module_of_the_working_directory_is_uploaded_and_imported(here, capsys):
  (here / 'mine_for_checks.py').write_text('from dss_jax.tasks import nothing')
  assert 'cannot import name' in refused(command('--module=mine_for_checks'))
  (here / 'mine_for_checks.py').write_text('')
  run(command('--module=mine_for_checks'))
  assert 'files/mine_for_checks.py' in capsys.readouterr().out


def test_prepared_data_must_be_where_the_hosts_find_it(monkeypatch, capsys):
  assert 'the hosts have no prepared cqa' in refused(command(data_dir=None))
  run(['train', '--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/embedded.gin',
       '--model_dir=gs://b/a', '--batch_size=16'])  # fmt: skip
  monkeypatch.setenv('TFDS_DATA_DIR', '/tmp/data')
  assert '--env=TFDS_DATA_DIR is not on the hosts' in refused(
    command(data_dir=None), env='TFDS_DATA_DIR'
  )
  monkeypatch.setenv('TFDS_DATA_DIR', 'gs://b/data')
  run(command(data_dir=None), env='TFDS_DATA_DIR')


def test_compared_methods_are_known_or_uploaded(here, capsys):
  line = ['compare', *command()[1:], '--methods=standard,mine']
  assert 'mine' in refused(line)
  (here / 'methods').mkdir()
  (here / 'methods/mine.gin').write_text("METHOD = 'standard'")
  run(line)
  assert 'files/methods/mine.gin' in capsys.readouterr().out


def test_files_of_a_grid_are_uploaded_and_a_sweep_has_one_host(here, capsys):
  (here / 'small.gin').write_text('TRAIN_STEPS = 5')
  line = ['sweep', *command()[1:], '--methods=standard,few_shot_cot']
  run([*line, "--grid={'GIN_FILE': ('small.gin',)}"])
  assert 'files/small.gin' in capsys.readouterr().out
  assert 'nope.gin' in refused([*line, "--grid={'GIN_FILE': ('nope.gin',)}"])


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    (
      ['evaluate', '--model_dir=gs://b/a', '--output=answers.jsonl'],
      "OUTPUT 'answers.jsonl' is on",
    ),
    (['predict', '--model_dir=gs://b/a', '--input=q.jsonl'], "INPUT 'q.jsonl': there is no such"),
    (['predict', '--model_dir=gs://b/a', '--input=nope.csv'], "INPUT 'nope.csv': there is no such"),
    (['predict', '--model_dir=gs://b/a', '--input=/abs/q.csv'], 'is not on the hosts'),
    (['predict', '--model_dir=gs://b/a', '--input', '-'], '--input=- is this terminal'),
    (['prepare', '--dataset=cqa', '--url'], 'give --data_dir=gs://'),
    (['prepare', '--dataset=cqa', '--url=file:///x', '--data_dir=gs://b'], 'file of this machine'),
    (['prepare', '--dataset=cqa', '--raw_dir=raw', '--data_dir=gs://b'], "RAW_DIR 'raw' is not on"),
    (['prepare', '--dataset=cqa', '--raw_dir=gs://b/raw', '--data_dir=gs://b'], 'give --url=https'),
    (
      ['prepare', '--dataset=cqa', '--url', '--teacher_outputs=out', '--data_dir=gs://b'],
      "TEACHER_OUTPUTS 'out' is not on",
    ),
    (['vocab', '--task=cqa_dss', '--output=a.model'], "OUTPUT 'a.model' is on a machine"),
    (
      ['import', '--from=hf', '--path=weights/a', '--output=gs://b/a'],
      "PATH 'weights/a' is no folder",
    ),
    (
      ['export', '--to=hf', '--checkpoint=runs/a', '--output=gs://b/a'],
      "CHECKPOINT 'runs/a': there",
    ),
  ],
)
def test_other_verbs_lose_nothing_either(line, said):
  assert said in refused(line)


TEXTS = strategies.text(max_size=300) | strategies.text('gs:/.~ab\x1b', max_size=12)
NAMES = ('VOCABULARY', 'DATA_DIR', 'MODEL_DIR', 'INPUT_FILE', 'RAW_DIR', arguments.MODULE)


@fuzzing.fuzz(strategies.sampled_from(NAMES), TEXTS)
def test_any_path_is_accepted_or_refused(name, text):
  with fuzzing.may_refuse():
    files = job.files_to_ship(('train', f'--{name}={text}'))
    checks._check_paths('train', [(name, text)], files, True)
    harmless = not text or text.lower() == 'none' or text[0] in '@%'
    assert (
      harmless
      or text.startswith('gs://')
      or (name, text) in checks.SHIPPED
      or (os.path.exists(text) or text.split('.')[0] == 'dss_jax')
    )


@fuzzing.fuzz(strategies.sampled_from(['bucket', 'project', 'zone', 'service_account']), TEXTS)
def test_any_name_is_accepted_or_refused(name, text):
  with fuzzing.may_refuse():
    one = Job(command=('train',), **{**WHERE, name: text})
    job.check_remote(one)
    assert text.isascii() or name == 'service_account' or text[0] == '/'


def test_an_input_may_be_longer_than_a_files_name(capsys):
  question = 'How many? ' * 100
  run(['predict', '--model_dir=gs://b/a', f'--input={question}'])
  assert question in capsys.readouterr().out


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    *(('bucket', text) for text in ('b/jobs', 'gs:/b', 'gs//b', 'gs://', 'gs:///b', 'GS://b',
                                    's3://b', 'gs://Jobs/a', 'gs://b/a b', 'gs://b/*', '/tmp/b',
                                    'gs://b/../c', 'gs://-b', 'gs://b//c')),
    *(('zone', text) for text in ('us-west4', 'us-west4-', 'US-west4-a', 'west', 'us-west4-a/x')),
    *(('project', text) for text in ('My-Project', 'p_1', 'my project', '-p', 'projects/p')),
    ('service_account', 'me'),
    ('topology', 'n2-standard-8'), ('topology', 'v5e-7'), ('topology', 'cpu'),
    ('name', 'CQA'), ('name', 'c.q'), ('restarts', '-1'), ('retries', '-1'),
    ('env', 'A B'), ('env', '1A'), ('env', 'A-B'), ('env', 'NOT_SET_ANYWHERE'),
    ('env', 'GOOGLE_APPLICATION_CREDENTIALS'),
  ],
)  # fmt: skip
def test_what_the_cloud_would_refuse_is_refused_here(name, value, monkeypatch):
  monkeypatch.setenv('GOOGLE_APPLICATION_CREDENTIALS', '/home/me/key.json')
  said = refused(command(), **{name: value})
  assert f'--{name}' in said or 'topology' in said


@pytest.mark.parametrize(
  ('name', 'value'), [('zone', 'us'), ('project', 'P'), ('cluster', 'C_1'), ('image', 'a b'),
                      ('topology', 'cpu'), ('topology', 'v3-8')],
)  # fmt: skip
def test_gke_has_forms_of_its_own(name, value, capsys):
  assert f'--{name}' in refused(command(), 'gke', **{name: value})
  run(command(), 'gke', zone='us-west4')  # a regional cluster


def test_the_hub_must_know_an_id_that_is_no_folder(monkeypatch):
  assert 'has no such model' in refused(command(initial_checkpoint_path='google/nothing'))
  monkeypatch.setattr('huggingface_hub.hf_api.constants.ENDPOINT', 'http://127.0.0.1:9')
  checks._check_hub.cache_clear()
  said = refused(command(initial_checkpoint_path='google/t5-v1_1-small'))
  assert 'cannot be asked' in said and '--initial_checkpoint_path=gs://' in said


def test_the_checks_change_neither_path_nor_environment():
  import sys

  before = list(sys.path), dict(os.environ)
  checks.check(Job(command=tuple(command()), **WHERE))
  assert (list(sys.path), dict(os.environ)) == before
