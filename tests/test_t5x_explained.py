"""`dss train --explain_t5x`: what becomes of each line of T5X's gin files; none is ignored.

With T5X_SRC, a folder that holds a checkout `t5x`, T5X's own files are read too.
"""

import os
import pathlib

import gin
import pytest
from t5x_texts import FINETUNE, IMPORTS, RUN_FILE, SCHEDULED

from dss_jax.settings import gin_files, statements, t5x_explained, t5x_names, t5x_translation


@pytest.fixture(autouse=True)
def _clean():
  yield
  gin.clear_config()
  gin.config._LOCATION_PREFIXES[:] = ['']


def test_every_line_is_explained(tmp_path):
  file = tmp_path / 'theirs.gin'
  text = (
    'import my.tasks\nBATCH_SIZE = 4\nBATCH_SIZE = 8\ntrainer.Trainer.num_microbatches = 2\n'
    'USE_CACHED_TASKS = True\noptax.clip.max_delta = 1.0\nXYZZY = 1\nMINE = 3\n'
    'train/utils.DatasetConfig.batch_size = %MINE\n'
  )
  file.write_text(IMPORTS + text)
  *lines, total = t5x_explained.explain([f'--gin_file={file}'], RUN_FILE)
  assert [line.split(':')[1] for line in lines] == [
    str(number) for number, line in enumerate((IMPORTS + text).splitlines(), 1)
  ]
  became = [line.partition(' -> ')[2] for line in lines[-9:]]
  assert became[0] == "translated to MIXTURE_OR_TASK_MODULE = 'my.tasks'"
  assert became[1].startswith('overridden by ') and became[1].endswith('by itself the same here')
  assert became[2].endswith(
    'theirs.gin:20, train/utils.DatasetConfig.batch_size; by itself the same here'
  )
  assert became[3] == 'translated to NUM_MICROBATCHES = 2'
  assert became[4].startswith('needs nothing: ') and became[5].startswith(
    'refused; here: CLIP_NORM'
  )
  assert became[6] == 'refused; here: nothing reads it'
  assert became[7].endswith('theirs.gin:20 reads it')
  assert became[8] == 'translated to BATCH_SIZE = 3'
  assert total.startswith('8 statements: ')


@pytest.fixture
def explained(tmp_path):
  """What becomes of each line of a text, and the last line."""

  def explain(text):
    file = tmp_path / 'theirs.gin'
    file.write_text(IMPORTS + text)
    *lines, total = t5x_explained.explain([f'--gin_file={file}'], RUN_FILE)
    became = [line.partition(' -> ')[2] for line in lines[len(IMPORTS.splitlines()) :]]
    return [one.replace(f'{file}:', '') for one in became], total.replace(f'{file}:', '')

  return explain


def test_it_is_explained_which_of_two_settings_counts(explained):
  became, total = explained(
    'utils.create_learning_rate_scheduler.base_learning_rate = 0.001\nLEARNING_RATE = 0.5\n'
    'train/utils.DatasetConfig.batch_size = 8\nBATCH_SIZE = 32\n'
    'SAVE_PERIOD = 3\nutils.SaveCheckpointConfig.period = 9\n'
  )
  assert became == [
    'overridden by 13; by itself translated to LEARNING_RATE = 0.001',
    'the same here',
    'translated to BATCH_SIZE = 8',
    'overridden by 14, train/utils.DatasetConfig.batch_size; by itself the same here',
    'overridden by 17, utils.SaveCheckpointConfig.period; by itself the same here',
    'translated to SAVE_PERIOD = 9',
  ]
  assert total == ('6 statements: 3 overridden, 2 translated, 1 the same here; none is ignored')


def test_what_t5x_has_by_default_is_explained(explained):
  became, _ = explained(f'{SCHEDULED}\nutils.create_learning_rate_scheduler.warmup_steps = 7\n')
  assert 'LEARNING_RATE = 0.5' in became[0] and 'WARMUP' not in became[0]
  assert became[1] == 'translated to WARMUP_STEPS = 7'


def test_a_statement_that_changes_nothing_is_found_by_trial(explained, monkeypatch):
  """An entry of the table that looks at no value, and does not say so, is a statement ignored."""
  text = 'train_script.train.eval_steps = 3\nMINE = 4\ntrain_script.train.eval_steps = %MINE\n'
  assert explained(text)[1].endswith('; none is ignored')
  text = text.replace('eval_steps', 'run_eval_before_training').replace('4', 'False')
  ignoring = {**t5x_names.RULES, 'train.run_eval_before_training': lambda value: (
    t5x_names.nothing('nobody looks'))}  # fmt: skip
  assert explained(text)[1].endswith('; none is ignored')
  monkeypatch.setattr(t5x_names, 'RULES', ignoring)
  assert explained(text)[1].endswith('; 2 ignored: 13, 14')


def test_the_flag_is_taken_out_of_the_command_line():
  assert t5x_explained.of(['--gin_file=a']) is None
  assert t5x_explained.of(['--explain_t5x=x', '--gin_file=a']) == ['--gin_file=a', '--gin_file=x']
  assert t5x_explained.of(['--explain_t5x', 'x']) == ['--gin_file=x']


# ---------------------------------------------------------------- T5X's own files


@pytest.fixture(scope='module')
def t5x_src() -> pathlib.Path:
  """A checkout of T5X."""
  checkout = pathlib.Path(os.environ.get('T5X_SRC', 'nowhere'), 't5x')
  if not (checkout / 't5x/configs/runs').is_dir():
    pytest.skip('needs T5X: set T5X_SRC to a folder that holds a checkout t5x')
  return checkout


def _files(folder):
  """T5X's gin files, without those that include a file which T5X has not published."""
  found = [*folder.glob('t5x/configs/**/*.gin'), *folder.glob('t5x/examples/**/*.gin')]
  lacks = ('pretrain_deterministic.gin', 'pretraining_common.gin')
  return sorted(file for file in found if not any(name in file.read_text() for name in lacks))


def test_no_line_of_t5xs_files_is_ignored_or_unknown(t5x_src):
  files = _files(t5x_src)
  assert len(files) >= 70
  for file in files:
    arguments = [f'--gin_search_paths={t5x_src}', f'--gin_file={file}']
    lines = list(t5x_explained.explain(arguments, RUN_FILE))
    assert lines[-1].endswith(t5x_explained.NONE_IGNORED)
    told = {tuple(line.split(':')[:2]) for line in lines}
    own = statements.of_text(file.read_text(), str(file))[0]
    assert {(str(file), str(one.line)) for one in own} <= told
    unknown = [line for line in lines if t5x_translation.UNKNOWN in line]
    assert not unknown and not [line for line in lines if 'nothing reads it' in line]


@pytest.mark.parametrize('kind', ['finetune', 'pretrain'])
@pytest.mark.parametrize('model', ['t5_1_1/tiny', 't5_1_1/small', 't5_1_1/xl', 't5_1_0/11B'])
def test_our_namesakes_of_t5xs_files_are_what_those_become(t5x_src, tmp_path, kind, model):
  file = tmp_path / 'mine.gin'
  text = FINETUNE.replace('t5_1_1/small', model).replace('finetune', kind)
  file.write_text(f'{IMPORTS}{text}DROPOUT_RATE = 0.1\n')
  runs = []
  for paths in ([], [f'--gin_search_paths={t5x_src}']):
    gin_files.parse([*paths, f'--gin_file={file}', '--batch_size=64'], RUN_FILE)
    runs.append(gin_files.configured('run_config.RunConfig'))
  assert runs[0] == runs[1]
