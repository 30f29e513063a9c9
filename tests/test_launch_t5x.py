"""`dss launch TARGET -- t5x ARGS`: hosts get T5X, and what cannot work there is refused here."""

import pathlib
import re
import subprocess
import tomllib

import pytest
import yaml

from dss_jax import launch
from dss_jax.launch import job, needed, t5x_checks, t5x_source, tpu_vm

WHERE = ('--name=cqa', '--project=p', '--zone=us-west4-a', '--topology=v4-64', '--bucket=gs://b')
MODEL_DIR = '--gin.MODEL_DIR="gs://b/a"'
DATA = '--tfds_data_dir=gs://b/data'
FILES = (
  't5x', '--gin_file=t5x/models/xxl.gin', '--gin_file=t5x/train.gin',
  '--gin_file=datasets/cqa.gin', '--gin_file=methods/dss.gin',
)  # fmt: skip
WORKS = (*FILES, DATA, MODEL_DIR)


def make(*command) -> job.Job:
  return job.Job('cqa', command or WORKS, 'v4-64', 'gs://b', 'p', 'us-west4-a')


def refused(*argv) -> str:
  with pytest.raises(ValueError) as error:
    launch.main(argv)
  return str(error.value)


# ---------------------------------------------------------------- what hosts do


@pytest.mark.parametrize('target', ['tpu-vm', 'skypilot'])
def test_hosts_of_a_t5x_job_install_t5x_and_run_its_command(target, capsys):
  assert launch.main([target, *WHERE, '--', *WORKS]) == 0
  said = capsys.readouterr().out
  assert '[tpu,t5x]' in said and 'dss_jax.launch.t5x_source' in said
  assert 'gs://b/a' in said and 'methods/dss.gin' in said


def test_hosts_of_other_jobs_do_not(capsys):
  train = ('train', '--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/cqa.gin',
           '--vocabulary=bytes', '--data_dir=gs://b/d', '--model_dir=gs://b/a',
           '--batch_size=32')  # fmt: skip
  assert launch.main(['skypilot', *WHERE, '--', *train]) == 0
  task = yaml.safe_load(capsys.readouterr().out)
  assert '.whl)[tpu]"' in task['setup'] and 't5x' not in task['setup']
  assert make(*train).extra == '[tpu]' and make().extra == '[tpu,t5x]'
  assert job.Job('cqa', ('t5x',)).extra == '[t5x]'  # on a machine without TPUs


@pytest.mark.parametrize(('extra', 'fails'), [('[tpu,t5x]', ''), ('[tpu]', ''), ('[t5x]', 'pip')])
def test_the_start_up_script_installs_the_wheel_and_then_t5x(tmp_path, extra, fails):
  script = (pathlib.Path(tpu_vm.__file__).parent / 'startup.sh').read_text()
  install = script[script.index('install() {') : script.index('again() {')]
  wheel = tmp_path / 'package/dss_jax-1-py3-none-any.whl'
  wheel.parent.mkdir()
  wheel.touch()
  python = tmp_path / 'python'  # makes an environment with itself
  python.write_text(
    f'#!/bin/sh\n[ "$2" = venv ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python"\n'
    f'echo "$@" >> calls\n[ "$2" != "{fails}" ]\n'
  )
  python.chmod(0o755)
  text = f'find_python() {{ echo ./python; }}\nwork=$PWD DSS_EXTRA={extra}\n{install}\ninstall'
  done = subprocess.run(['bash', '-uc', text], cwd=tmp_path, capture_output=True, text=True)
  assert (done.returncode == 0) == (not fails), done.stderr
  _, pip, *rest = (tmp_path / 'calls').read_text().splitlines()
  assert pip.endswith(f'{wheel.name}{extra}')
  is_asked = 't5x' in extra and not fails
  assert rest == (['-m dss_jax.launch.t5x_source --quiet'] if is_asked else [])


# ---------------------------------------------------------------- where T5X comes from


def test_what_t5x_needs_besides_is_what_it_was_tried_with():
  text = (pathlib.Path(__file__).parent.parent / 'pyproject.toml').read_text()
  needs = tomllib.loads(text)['project']['optional-dependencies']['t5x']
  assert needs and all('==' in one for one in needs)


def test_t5x_comes_from_its_commits_or_from_folders(tmp_path):
  found = t5x_source.sources('', tmp_path)
  commits = [re.fullmatch(r'git\+https://github.com/.+/(\w+)@[0-9a-f]{40}', one) for one in found]
  assert [match and match[1] for match in commits] == ['t5x', 'airio', 'jestimator']
  given, copies = tmp_path / 'src', tmp_path / 'copies'
  for name in ('t5x', 'airio', 'jestimator'):
    (given / name / 'build').mkdir(parents=True)
    (given / name / 'setup.py').touch()
  found = t5x_source.sources(str(given), copies)
  assert found == [str(copies / name) for name in ('t5x', 'airio', 'jestimator')]
  assert [path.name for path in (copies / 't5x').iterdir()] == ['setup.py']
  (given / 'airio/setup.py').unlink()
  (given / 'airio/build').rmdir()
  (given / 'airio').rmdir()
  with pytest.raises(ValueError, match=r'there is no .*/airio\. Without T5X_SRC'):
    t5x_source.sources(str(given), tmp_path / 'more')


# ---------------------------------------------------------------- checks


@pytest.mark.parametrize(
  ('argument', 'said'),
  [
    ('--gin.MODEL_DIR="runs/a"', 'is on a machine that will be deleted: give --gin.MODEL_DIR='),
    ('--gin.MODEL_DIR=gs://b/a', 'with texts in quotes'),
    ('--tfds_data_dir=data', "DATA_DIR 'data' is on this machine: give --tfds_data_dir=gs://"),
    ('--gin.INITIAL_CHECKPOINT_PATH="x/checkpoint_1"', "INITIAL_CHECKPOINT_PATH 'x/checkpoint_1'"),
    ('--gin.VOCABULARY="there/is.none"', "VOCABULARY 'there/is.none' is no file below"),
    ('--gin_file=methods/pinto.gin', 'METHOD pinto compares the rows of an example'),
    ('--gin.METHOD="dsss"', 'dsss'),
    ('--gin.NUM_PARTITIONS=3', 'NUM_PARTITIONS 3 does not divide the 32 devices of v4-64'),
    ('--gin.partitioning.PjitPartitioner.num_partitions=3', 'NUM_PARTITIONS 3 does not divide'),
    ('--gin.BATCH_SIZE=20', 'BATCH_SIZE 20 is not a multiple of 8'),
    ('--gin.NUM_MICROBATCHES=2', 'BATCH_SIZE 24 is not a multiple of 16'),
    ('--gin.EVAL_BATCH_SIZE=12', 'EVAL_BATCH_SIZE 12 is not a multiple of 8'),
    ('--gin_file=t5x/trian.gin', 'there is no such file'),
    ('--gin_file=datasets/cqaa.gin', 'those of dss_jax and T5X'),
    ('--multiprocess_gpu', 'DSS_COORDINATOR and its like in the environment'),
  ],
)
def test_what_cannot_work_is_refused_before_anything_is_paid_for(argument, said, monkeypatch):
  monkeypatch.setattr(needed.importlib.util, 'find_spec', lambda name: None)
  if argument == '--gin_file=t5x/trian.gin':
    monkeypatch.setattr(needed, '_has_t5x_file', lambda name: False)
  assert said in refused('skypilot', *WHERE, '--', *WORKS, argument)


def test_what_is_missing_is_said():
  assert 'MODEL_DIR has no value' in refused('skypilot', *WHERE, '--', *FILES, DATA)
  assert 'no prepared cqa' in refused('skypilot', *WHERE, '--', *FILES, MODEL_DIR)


def test_files_and_modules_of_the_working_directory_are_shipped(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine.gin').write_text(
    'from __gin__ import dynamic_registration\nimport my.tasks\nimport seqio\nfrom my import nets\n'
    "include 't5x/examples/t5/t5_1_1/small.gin'\ninclude 'more.gin'\nVOCABULARY = 'my.model'\n"
    'nets.size.width = 3\n'
  )
  (tmp_path / 'more.gin').write_text('BATCH_SIZE = 32\n')
  (tmp_path / 'my.model').touch()
  for name in ('__init__', 'tasks', 'nets', 'unused'):
    (tmp_path / 'my').mkdir(exist_ok=True)
    (tmp_path / f'my/{name}.py').touch()
  found = t5x_checks.check(make(*WORKS, '--gin_file=mine.gin'), (), True)
  assert found == (
    'mine.gin', 'more.gin', 'my.model', 'my/__init__.py', 'my/nets.py', 'my/tasks.py'
  )  # fmt: skip
  gke = ('gke', *WHERE[:-1], '--image=i', '--cluster=c')
  assert 'gke only has the files in --image' in refused(*gke, '--', *WORKS, '--gin_file=mine.gin')
  assert launch.main([*gke, '--', *WORKS]) == 0
  assert 'dss t5x --gin_file=t5x/models/xxl.gin' in capsys.readouterr().out


def test_a_later_statement_counts(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine.gin').write_text('RATE = %LEARNING_RATE\nBATCH_SIZE = 8\nA = %B\nB = %A\n')
  found = t5x_checks.macros_of((*WORKS, '--gin_file=mine.gin', '--gin.BATCH_SIZE=16'))
  assert found['RATE'] == 5e-5 and found['BATCH_SIZE'] == 16 and found['A'] is None
  path = 'gs://t5-data/pretrained_models/t5x/t5_1_1_xxl/checkpoint_1000000'
  assert found['INITIAL_CHECKPOINT_PATH'] == path


def test_t5xs_own_files_are_on_the_hosts_of_both_programs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  name = 't5x/configs/runs/finetune.gin'  # for `dss train` it comes with dss_jax
  assert needed.gin_files([name], [], is_t5x=True) == needed.gin_files([name], []) == set()
