"""What a run refuses before its first step, and what it notes in its folder."""

import contextlib
import dataclasses
import types

import pytest
from small_runs import config_of, small_data  # noqa: F401  a fixture

from dss_jax import methods
from dss_jax.data import pipeline
from dss_jax.datasets import embedded
from dss_jax.models import t5
from dss_jax.runs import memory, run_config, training_loop, training_setup
from dss_jax.runs.run_config import EvalConfig
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import topologies
from dss_jax.training.optimizers import OptimizerConfig


def test_a_start_that_holds_no_run_is_refused(tmp_path):
  with pytest.raises(ValueError, match='there is no folder'):
    training_loop.train(
      config_of(tmp_path / 'a', initial_checkpoint_path=str(tmp_path / 'nowhere'))
    )


def test_settings_of_a_folder_without_a_checkpoint_bind_nobody(tmp_path):
  for seed in (0, 5):
    with contextlib.ExitStack() as stack:
      training_setup.set_up(config_of(tmp_path, seed=seed), stack)
  assert RunFolder(tmp_path).load_settings().seed == 5


@pytest.mark.parametrize(
  ('name', 'refused'),
  [('4', True), ('4.tmp', True), ('4.orbax-checkpoint-tmp', False), ('notes', False)],
)
def test_what_may_be_a_checkpoint_is_not_passed_over(tmp_path, name, refused):
  folder = RunFolder(tmp_path)
  folder.checkpoints_folder.mkdir()
  (folder.checkpoints_folder / name).write_text('')
  if not refused:
    training_setup._check_leftovers(folder)
    return
  with pytest.raises(ValueError, match=f'checkpoints holds {name}, which is no finished checkpoi'):
    training_setup._check_leftovers(folder)


def test_a_training_whose_checkpoints_are_gone_is_told(tmp_path, capsys):
  folder = RunFolder(tmp_path)
  folder.save_settings(config_of(tmp_path))  # SAVE_PERIOD is 3
  folder.append_metric_row({'step': 6, 'kind': 'train'})
  training_setup._check_leftovers(folder)
  assert 'that logged its step 6 starts again from step 1' in capsys.readouterr().err
  folder.append_metric_row({'step': 7, 'kind': 'train'})
  with pytest.raises(ValueError, match=r'metrics\.jsonl goes to step 7, but .* has no checkpoint'):
    training_setup._check_leftovers(folder)
  (folder.checkpoints_folder / '3').mkdir(parents=True)
  training_setup._check_leftovers(folder)


def test_a_batch_that_the_mesh_does_not_divide_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'BATCH_SIZE / NUM_MICROBATCHES 4 is not a multiple'):
    training_loop.train(config_of(tmp_path, num_microbatches=2))
  assert not (tmp_path / 'config.json').exists()


def test_an_unknown_task_is_refused_with_near_names(tmp_path):
  config = pipeline.DataConfig('embeded_dss', {'inputs': 96, 'targets': 64}, batch_size=8)
  with pytest.raises(ValueError, match=r'embeded_dss.*embedded_dss'):
    training_loop.train(config_of(tmp_path, data=config))


def test_truncation_is_told(tmp_path, capsys):
  config = pipeline.DataConfig(
    'embedded_arithmetic_dss', {'inputs': 96, 'targets': 16}, batch_size=8
  )
  training_loop.train(config_of(tmp_path, data=config, train_steps=1, eval=EvalConfig(period=0),
                      optimizer=OptimizerConfig(schedule='constant')))  # fmt: skip
  assert 'are cut at 16 tokens' in capsys.readouterr().err


def run_of_groups(folder, method='pinto', batch_size=6, pack=False, **changes):
  """A run of a method whose loss needs all rows of an example, 3 of `pinto`."""
  lengths = {'inputs': 96, 'targets': 64}
  data = pipeline.DataConfig(f'embedded_{method}', lengths, batch_size, pack=pack)
  return config_of(folder, data=data, vocabulary='embedded', method=methods.get(method), **changes)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'pack': True}, r'METHOD pinto compares rows of an example.*set PACK = False'),
    ({'batch_size': 8}, r'BATCH_SIZE 8 counts rows.*is 3 of them.*such as 24 for 8 examples'),
    ({'num_microbatches': 3}, r'each of NUM_MICROBATCHES 3: expected a multiple of 9'),
    ({}, r'BATCH_SIZE / NUM_MICROBATCHES / 3 rows of an example 2 is not a multiple of .* = 8'),
    ({'method': 'mutual_information', 'batch_size': 7}, 'is 2 of them'),
  ],
)
def test_a_batch_that_would_split_the_rows_of_an_example_is_refused(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    training_loop.train(run_of_groups(tmp_path, **changes))


def test_a_mark_that_has_other_tokens_between_words_is_refused(tmp_path, monkeypatch):
  run = run_of_groups(tmp_path)
  assert run_config.set_up_tasks(run).objective.group == 3
  encode = {'[rationale]': [5], 'a': [3], 'a [rationale] a': [3, 6, 7, 3]}.__getitem__
  fake = types.SimpleNamespace(encode=encode)
  monkeypatch.setattr('dss_jax.tasks.vocabulary.load_vocabulary', lambda spec: fake)
  with pytest.raises(ValueError, match=r"other tokens for '\[rationale\]' between two words"):
    _ = dataclasses.replace(run, vocabulary='fake').objective


def test_a_student_of_choices_is_trained_and_validated(tmp_path):
  """A device has one whole example; validation scores its three choices."""
  run = run_of_groups(
    tmp_path, batch_size=24, train_steps=2, eval=EvalConfig(period=2, num_examples=8, batch_size=8),
    optimizer=OptimizerConfig(schedule='constant'),
  )  # fmt: skip
  training_loop.train(run)
  rows = list(RunFolder(tmp_path).metric_rows())
  assert [row['label/rows'] for row in rows if row['kind'] == 'train'] == [8, 8]
  assert rows[-1]['perturbed/loss'] > 0 and 0 <= rows[-1]['accuracy'] <= 1
  assert RunFolder(tmp_path).load_settings().choices == embedded.CHOICES


@pytest.mark.parametrize('chip', ['v5e-8', None])
def test_training_has_the_layers_that_are_chosen_for_its_chip(tmp_path, monkeypatch, capsys, chip):
  """T5 1.1 Base on devices that call themselves those of a v5e; nothing of it is trained."""
  machine = chip and topologies.topology(chip)
  monkeypatch.setattr(topologies, 'of_device_kind', lambda kind: machine)
  monkeypatch.setattr(memory, 'available_bytes', lambda: None)
  base = t5.T5Config(32128, 768, 12, 64, 2048, 12, 12, scan_layers='auto', remat_policy='auto')
  with contextlib.ExitStack() as stack:
    run = config_of(tmp_path, model=base, train_steps=10**7)
    setup = training_setup.set_up(run, stack)
  said = capsys.readouterr().err
  found = setup.run.model.scan_layers, setup.run.model.remat_policy
  if chip:
    assert found == (False, 'none') and 'layers are unrolled, REMAT_POLICY none: ' in said
  else:
    assert found == (True, 'full') and 'layers are' not in said
  saved = RunFolder(tmp_path).load_settings().model
  assert (saved.scan_layers, saved.remat_policy) == ('auto', 'auto')  # another chip chooses anew
