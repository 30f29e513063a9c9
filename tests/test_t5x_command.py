"""`dss t5x`: how T5X's program is started, with one of ours in its place, and with T5X itself.

The tests of T5X's own files are skipped where T5X is not importable.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import gin
import pytest

from dss_jax import cli
from dss_jax.commands import t5x
from dss_jax.settings import gin_files, statements

PROGRAM = '''
"""Reads gin files as T5X's program does, and prints what it was given."""
import json, os, sys
import gin

def train():
  pass

if __name__ == '__main__':
  flags = [flag[2:].split('=', 1) for flag in sys.argv[1:]]
  paths = [value for name, value in flags if name == 'gin_search_paths'][-1].split(',')
  for path in paths:
    gin.add_config_file_search_path(path)
  gin.parse_config_files_and_bindings([value for name, value in flags if name == 'gin_file'], [])
  import __main__
  told = {'argv': sys.argv, 'main': __main__.train is train}
  told['data'] = os.environ.get('TFDS_DATA_DIR')
  told['dataset'] = gin.query_parameter('%DATASET')
  print(json.dumps(told))
  sys.exit(EXIT)
'''


@pytest.fixture
def program(tmp_path, monkeypatch):
  """A folder to work in, where T5X's program is the one above; call it to set its exit code."""
  here = tmp_path / 'here'
  (here / 'datasets').mkdir(parents=True)  # raw data, as README's download makes it
  (here / 'datasets/cqa.txt').touch()
  monkeypatch.chdir(here)
  monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  for name in [name for name in sys.modules if name.split('.')[0] == 't5x']:
    monkeypatch.delitem(sys.modules, name)
  before = list(gin.config._LOCATION_PREFIXES), list(gin.config._FILE_READERS)

  def make(code):
    (tmp_path / 't5x').mkdir()
    (tmp_path / 't5x/__init__.py').touch()
    (tmp_path / 't5x/train.py').write_text(PROGRAM.replace('EXIT', repr(code)))
    importlib.invalidate_caches()
    return here

  yield make
  gin.clear_config()
  gin.config._LOCATION_PREFIXES[:], gin.config._FILE_READERS[:] = before
  for name in ('t5x', 't5x.train'):
    sys.modules.pop(name, None)


def test_t5x_runs_as_the_main_program_and_finds_our_files(program, capsys):
  here = program(None)
  (here / 'theirs').mkdir()
  (here / 'theirs/mine.gin').write_text("X = 'mine'")
  argv = ['--gin_file=datasets/cqa.gin', '--gin_file=mine.gin', '--tfds_data_dir="data"']
  assert t5x.main([*argv, '--gin_search_paths=theirs']) == 0
  told = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert told['argv'][1:-1] == [*argv, '--gin_search_paths=theirs']
  assert told['argv'][-1] == f'--gin_search_paths=theirs,{statements.gin_root()}'
  assert told['dataset'] == 'cqa' and told['main']
  assert told['data'] == str(here / 'data')


@pytest.mark.parametrize(('code', 'ours'), [(0, 0), (None, 0), (1, 2), (3, 3), ('no', 1)])
def test_exit_codes_are_those_of_dss(program, capsys, code, ours):
  """absl ends with 1 for a flag that it does not know, which is a mistake of the command line."""
  program(code)
  assert t5x.main(['--gin_file=datasets/cqa.gin']) == ours
  assert ('no\n' in capsys.readouterr().err) == (code == 'no')


def test_without_t5x_it_says_how_to_install_it(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(t5x.importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'unused')
  monkeypatch.delenv('DSS_TRACEBACK', raising=False)
  assert cli.main(['t5x', '--gin_file=t5x/train.gin']) == 2
  error = capsys.readouterr().err
  assert error.startswith('dss t5x: T5X is not installed') and '`make t5x`' in error
  assert cli.main(['t5x', '--help']) == 0
  assert '--tfds_data_dir' in capsys.readouterr().out


def test_a_local_folder_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert t5x.absolute('runs/a') == str(tmp_path / 'runs/a')
  assert t5x.absolute('gs://b/a') == 'gs://b/a'


def test_other_verbs_refuse_files_for_t5x():
  for file in ('t5x/train.gin', 't5x/models/xxl.gin'):
    with pytest.raises(ValueError, match='is for `dss t5x`'):
      gin_files.parse(['--model_dir=a', f'--gin_file={file}'], 'runs/train.gin')


# ---------------------------------------------------------------- our files, without T5X

OURS = sorted((statements.gin_root() / 't5x').rglob('*.gin'))
# What T5X's own files and the command line define.
ELSEWHERE = {
  'MODEL', 'MODEL_DIR', 'MIXTURE_OR_TASK_MODULE', 'TRAIN_STEPS_RELATIVE', 'gin.REQUIRED'
}  # fmt: skip


def _macros(*names):
  texts = [(statements.gin_root() / name).read_text() for name in names]
  parsed = [one for text in texts for one in statements.of_text(text)[0]]
  return {one.name for one in parsed} - {''}, {name for one in parsed for name in one.macros}


@pytest.mark.parametrize('size', ['tiny', 'small', 'base', 'large', 'xl', 'xxl'])
def test_every_macro_that_train_reads_has_a_value(size):
  defined, read = _macros(f't5x/models/{size}.gin', 't5x/train.gin')
  assert read - defined <= ELSEWHERE
  assert {'METHOD', 'BATCH_SIZE'} & defined == {'METHOD'}  # datasets/ has the other


def test_no_file_of_ours_has_the_name_of_one_of_t5xs():
  names = {str(file.relative_to(statements.gin_root())) for file in OURS}
  assert len(names) == 9
  assert not [name for name in names if name.startswith(('t5x/configs', 't5x/examples'))]


# ---------------------------------------------------------------- our files, with T5X

COMBINATIONS = """
import itertools, json, logging, pathlib, sys
import gin
from t5x import train as program
sys.modules['__main__'].train = program.train
gin.configurable(program.train, module='__main__')
from dss_jax.settings import gin_files, statements
gin_files.read_plainly()
root = statements.gin_root()
for path in (root, pathlib.Path(program.__file__).parent.parent):
  gin.add_config_file_search_path(str(path))
names = lambda folder: sorted(str(f.relative_to(root)) for f in (root / folder).glob('*.gin'))
found = []
datasets, methods = names('datasets'), names('methods')
more = [[], ['t5x/adafactor.gin'], ['t5x/seqio_batches.gin', 't5x/adafactor.gin']]
for size in names('t5x/models'):
  pairs = [*zip(datasets, itertools.cycle(methods)), *zip(itertools.cycle(datasets), methods)]
  for (dataset, method), extra in zip(pairs, itertools.cycle(more)):
    gin.clear_config()
    files = [size, 't5x/train.gin', *extra, dataset, method]
    gin.parse_config_files_and_bindings(files, ['MODEL_DIR = "a"'], finalize_config=True)
    query = lambda name: gin.query_parameter(name)
    found.append({
      'size': size, 'dataset': dataset, 'method': method, 'extra': extra,
      'DATASET': query('%DATASET'), 'METHOD': query('%METHOD'),
      'OPTIMIZER': repr(query('%OPTIMIZER')), 'heads': query('network.T5Config.num_heads'),
      'batches': repr(query('__main__.train.get_dataset_fn')),
    })
print(json.dumps(found))
"""


@pytest.fixture(scope='module')
def combinations():
  """What T5X's gin has after our files in many combinations, read in one process."""
  if importlib.util.find_spec('t5x') is None:
    pytest.skip('needs T5X: `make t5x`')
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '3'}
  line = [sys.executable, '-c', COMBINATIONS]
  done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


def test_sizes_data_sets_and_methods_compose_under_t5x(combinations):
  heads = {'tiny': 4, 'small': 6, 'base': 12, 'large': 16, 'xl': 32, 'xxl': 64}
  for one in combinations:
    assert one['heads'] == heads[pathlib.Path(one['size']).stem]
    assert one['DATASET'] == pathlib.Path(one['dataset']).stem
    is_adafactor = 't5x/adafactor.gin' in one['extra']
    assert ('Adafactor' in one['OPTIMIZER']) == is_adafactor
    assert ('utils.get_dataset' in one['batches']) == ('t5x/seqio_batches.gin' in one['extra'])
  assert {one['METHOD'] for one in combinations} >= {'dss', 'standard', 'teacher_dss'}
