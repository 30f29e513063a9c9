"""`dss export`: what it writes is what the checkpoint holds, and other programs say what we say."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import hf_checkpoints
import numpy as np
import pytest
import run_folders
from run_folders import INPUTS, NAME

from dss_jax import cli
from dss_jax.checkpoints import adafactor, transfer
from dss_jax.checkpoints.hf import huggingface
from dss_jax.checkpoints.t5x import t5x
from dss_jax.commands import predict, t5x_texts
from dss_jax.inference import evaluator
from dss_jax.inference.decoding import EOS_ID, Decoding
from dss_jax.models import t5
from dss_jax.models.t5 import T5Config
from dss_jax.parallel import partitioning
from dss_jax.runs import student
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import json_form
from dss_jax.tasks import registration, vocabulary
from dss_jax.training import train_state

OWN_BIASES = dataclasses.replace(run_folders.MODEL, relative_bias_per_layer=True)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return run_folders.make_run(tmp_path_factory.mktemp('export') / 'run')


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
  output = tmp_path_factory.mktemp('exported') / 'student'
  assert export(run, output) == 0
  return output


def export(checkpoint, output, program='hf', *more) -> int:
  return cli.main(['export', f'--to={program}', f'--checkpoint={checkpoint}', f'--output={output}',
                   *more])  # fmt: skip


def params_of(folder, step) -> dict[transfer.Path, np.ndarray]:
  """The parameters of a step, read by the manager alone."""
  model = json.loads((pathlib.Path(folder) / 'config.json').read_text())['model']
  like = partitioning.on_host(t5.abstract(json_form.from_dict(T5Config, model))[0])
  with RunFolder(folder).read_checkpoints() as saved:
    params = saved.restore_params(step, like)
  return {path: np.asarray(leaf) for path, leaf in transfer.flatten(params).items()}


def assert_same(opened: transfer.Pretrained, params) -> None:
  theirs = transfer.flatten(transfer.read_all(opened.recipe, opened.tensors))
  assert set(theirs) == set(params)
  for path, array in params.items():
    np.testing.assert_array_equal(theirs[path], array, err_msg=str(path))


# ---------------------------------------------------------------- what is written


def test_the_best_checkpoint_is_written_for_hugging_face(run, tmp_path, capsys):
  assert export(run, tmp_path / 'student') == 0
  summary = json.loads(capsys.readouterr().out.splitlines()[-1])
  opened = huggingface.open_pretrained(str(tmp_path / 'student'))
  params = params_of(run, 1)
  assert_same(opened, params)
  assert summary['step'] == 1 and summary['tensors'] == len(opened.tensors)
  assert summary['bytes'] == sum(array.nbytes for array in params.values())
  assert summary['tokenizer_texts'] > 100 and summary['tokenizer_different'] == 0
  assert opened.vocabulary == 'bytes'
  assert [path.name for path in tmp_path.iterdir()] == ['student']
  assert {path.name for path in (tmp_path / 'student').iterdir()} == {
    'README.md', 'config.json', 'generation_config.json', 'model.safetensors', 'tokenizer.json',
    'tokenizer_config.json',
  }  # fmt: skip


def test_a_step_is_chosen(run, tmp_path):
  assert export(run, tmp_path / 'latest', 'hf', '--step=latest') == 0
  assert export(run, tmp_path / '2', 'hf', '--step=2') == 0
  for name in ('latest', '2'):
    assert_same(huggingface.open_pretrained(str(tmp_path / name)), params_of(run, 2))


@pytest.mark.parametrize(
  ('program', 'family'),
  [('hf', 'T5 1.0'), ('hf', 'ByT5'), ('hf', 'umT5')]
  + [('t5x', 'T5 1.0'), ('t5x', 'T5 1.1'), ('t5x', 'umT5')],
)
def test_imported_weights_go_out_as_they_came_in(tmp_path, program, family):
  source = hf_checkpoints.make(tmp_path / 'source', family)
  bytes_ = '--vocabulary=bytes'
  if family != 'ByT5':  # whose rows are enough for bytes
    settings = {**hf_checkpoints.FAMILIES[family], 'vocab_size': 384}
    network = huggingface.network_of(settings, family)
    hf_checkpoints.write(source, settings, hf_checkpoints.state(network))
  arguments = ['--from=hf', f'--path={source}', f'--output={tmp_path / "ours"}', bytes_]
  assert cli.main(['import', *arguments]) == 0
  assert export(tmp_path / 'ours', tmp_path / 'out', program) == 0
  first = huggingface.open_pretrained(str(source))
  place = tmp_path / 'out' / ('checkpoint_0' if program == 't5x' else '')
  again = {'hf': huggingface, 't5x': t5x}[program].open_pretrained(str(place))
  assert_same(again, hf_checkpoints_arrays(first))


def hf_checkpoints_arrays(opened) -> dict[transfer.Path, np.ndarray]:
  return transfer.flatten(transfer.read_all(opened.recipe, opened.tensors))


def test_t5x_gets_the_state_of_adafactor_the_network_and_the_vocabulary(tmp_path, capsys):
  run = run_folders.make_run(tmp_path / 'run', optimizer='adafactor', steps=(2,), best=2)
  assert export(run, tmp_path / 'out', 't5x') == 0
  assert json.loads(capsys.readouterr().out.splitlines()[-1])['optimizer_state'] == 'Adafactor'
  opened = t5x.open_pretrained(str(tmp_path / 'out' / 'checkpoint_2'))
  assert_same(opened, params_of(run, 2))
  assert opened.moments is not None
  for kind in adafactor.KINDS:
    recipe = getattr(opened.moments, kind)
    arrays = transfer.read_all(recipe, opened.tensors)
    assert all(np.all(array >= 0) for array in transfer.flatten(arrays).values())
  gin = (tmp_path / 'out' / 'model.gin').read_text()
  assert "include 't5x/examples/t5/t5_1_1/base.gin'" in gin
  assert '  emb_dim = 16\n' in gin and 'seqio.ByteVocabulary()' in gin
  readme = (tmp_path / 'out' / 'README.md').read_text()
  assert f'INITIAL_CHECKPOINT_PATH="\'{tmp_path}/out/checkpoint_2\'"' in readme


def test_t5x_gets_the_state_of_adamw_and_how_to_restore_it(run, tmp_path, capsys):
  assert export(run, tmp_path / 'out', 't5x') == 0
  assert json.loads(capsys.readouterr().out.splitlines()[-1])['optimizer_state'] == 'AdamW'
  opened = t5x.open_pretrained(str(tmp_path / 'out' / 'checkpoint_1'))
  assert opened.moments is not None and opened.moments._fields == ('step', 'mu', 'nu')
  gin = (tmp_path / 'out' / 'model.gin').read_text()
  assert 'OPTIMIZER = @optimizers.chain()' in gin and 'optax.constant_schedule.value = 5e-05' in gin
  assert 'the state of AdamW' in (tmp_path / 'out' / 'README.md').read_text()


def test_t5x_gets_a_relative_bias_of_every_layer_in_its_scalable_t5(tmp_path, capsys):
  made = {'optimizer': 'adafactor', 'steps': (2,), 'best': 2, 'model': OWN_BIASES}
  run = run_folders.make_run(tmp_path / 'run', **made)
  assert export(run, tmp_path / 'out', 't5x') == 0
  captured = capsys.readouterr()
  assert json.loads(captured.out.splitlines()[-1])['optimizer_state'] is None
  assert "Adafactor's state is left out: T5X factors layers smaller than 128" in captured.err
  assert_same(t5x.open_pretrained(str(tmp_path / 'out' / 'checkpoint_2')), params_of(run, 2))
  gin = (tmp_path / 'out' / 'model.gin').read_text()
  assert "include 't5x/examples/scalable_t5/t5_1_1/base.gin'" in gin
  assert 'from t5x.examples.scalable_t5 import network\n' in gin
  assert "fresh optimizer's state" in (tmp_path / 'out' / 'README.md').read_text()


def test_t5x_is_told_where_the_vocabulary_is_and_of_its_sentinels(tmp_path):
  loaded = vocabulary.load_vocabulary('embedded_arithmetic')
  gin = t5x_texts.gin(run_folders.MODEL, loaded, tmp_path / 'spiece.model', None)
  assert f"  sentencepiece_model_file = '{tmp_path}/spiece.model'\n  extra_ids = 100\n" in gin


# ---------------------------------------------------------------- what is refused


def test_a_folder_with_files_is_not_touched(run, tmp_path, capsys):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'thesis.txt').write_text('mine')
  assert export(run, tmp_path / 'out') == 2
  assert 'is not empty' in capsys.readouterr().err
  assert [path.name for path in tmp_path.rglob('*')] == ['out', 'thesis.txt']


def test_an_empty_folder_is_filled(run, tmp_path):
  (tmp_path / 'out').mkdir()
  assert export(run, tmp_path / 'out') == 0
  assert (tmp_path / 'out' / 'model.safetensors').exists()


@pytest.mark.parametrize(
  ('checkpoint', 'more', 'message'),
  [
    ('nowhere', (), 'holds no config.json with a model; CHECKPOINT is a folder that `dss train`'),
    ('foreign', (), 'holds no config.json with a model; CHECKPOINT'),
    (None, ('--step=7',), r'one of \[1, 2\], not 7'),
  ],
)
def test_what_is_no_checkpoint_leaves_nothing(run, tmp_path, capsys, checkpoint, more, message):
  hf_checkpoints.make(tmp_path / 'foreign')
  path = run if checkpoint is None else tmp_path / checkpoint
  assert export(path, tmp_path / 'out', 'hf', *more) == 2
  assert re.search(message, capsys.readouterr().err)
  assert [path.name for path in tmp_path.iterdir()] == ['foreign']


def test_weights_without_a_vocabulary_are_not_written_for_transformers(tmp_path, capsys):
  source = hf_checkpoints.make(tmp_path / 'source', 'T5 1.1')
  assert cli.main(['import', '--from=hf', f'--path={source}', f'--output={tmp_path / "w"}']) == 0
  assert export(tmp_path / 'w', tmp_path / 'out') == 2
  assert 'has no vocabulary' in capsys.readouterr().err
  assert export(tmp_path / 'w', tmp_path / 'out', 't5x') == 0
  assert 'VOCABULARY' not in (tmp_path / 'out' / 'model.gin').read_text()


@pytest.mark.parametrize('program', ['hf', 't5x'])
def test_a_student_that_holds_nan_is_not_exported(tmp_path, capsys, monkeypatch, program):
  create = train_state.create

  def with_nan(*args, **settings):
    state = create(*args, **settings)
    scale = state.params['encoder_norm']['scale']
    state.params['encoder_norm']['scale'] = scale.at[3].set(np.nan)
    return state

  monkeypatch.setattr(train_state, 'create', with_nan)
  run = run_folders.make_run(tmp_path / 'run', steps=(1,))
  assert export(run, tmp_path / 'out', program) == 2
  assert 'encoder_norm/scale of' in (said := capsys.readouterr().err)
  assert 'step 1, holds NaN or infinity' in said and '--step names another' in said
  assert [path.name for path in tmp_path.iterdir()] == ['run']


@pytest.mark.parametrize(('program', 'module'), [('hf', huggingface), ('t5x', t5x)])
def test_what_does_not_read_back_as_written_is_an_error(
  run, tmp_path, capsys, monkeypatch, program, module
):
  write = module.write

  def damaged(folder, model, params, *more):
    first = next(iter(params))
    write(folder, model, {**params, first: np.asarray(params[first]) + 1}, *more)

  monkeypatch.setattr(module, 'write', damaged)
  assert export(run, tmp_path / 'out', program) == 2
  assert 'does not read back as it was written' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- transformers says what we say


@pytest.mark.torch
@pytest.mark.parametrize('task', [f'{NAME}_label', f'{NAME}_rationale'])
@pytest.mark.parametrize(
  ('decoding', 'settings'),
  [(Decoding('greedy'), {'num_beams': 1}), (Decoding('beam', beams=3), {'num_beams': 3})],
)
def test_transformers_generates_our_outputs(run, exported, task, decoding, settings):
  _assert_generates(run, exported, task, decoding, settings)


@pytest.mark.torch
def test_transformers_generates_our_outputs_of_an_umt5(tmp_path):
  run = run_folders.make_run(tmp_path / 'run', steps=(1,), model=OWN_BIASES)
  assert export(run, tmp_path / 'out') == 0
  task = f'{NAME}_label'
  _assert_generates(run, tmp_path / 'out', task, Decoding('greedy'), {'num_beams': 1})
  _assert_generates(run, tmp_path / 'out', task, Decoding('beam', beams=3), {'num_beams': 3})


def _assert_generates(run, exported, task, decoding, settings):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  loaded = student.load(student.StudentConfig(run, decoding=decoding, batch_size=8))
  examples = evaluator.load_examples(task, 'test')
  decoder = loaded.decoder(registration.row_of(task))
  ours = decoder(loaded.params, examples).tokens

  tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(exported).eval()
  if model.config.model_type == 'umt5' and decoding.method == 'beam':
    model.config.tie_word_embeddings = False  # see docs/weights.md
  texts = list(examples.texts['inputs_pretokenized'])
  batch = tokenizer(texts, return_tensors='pt', padding=True, truncation=True)
  length = decoder.decoding.max_length
  with torch.no_grad():
    outputs = model.generate(**batch, max_new_tokens=length, do_sample=False, **settings)
  tokens = outputs.numpy()[:, 1:]
  tokens = np.where(np.cumsum(tokens == EOS_ID, axis=1) > (tokens == EOS_ID), 0, tokens)
  np.testing.assert_array_equal(np.pad(tokens, ((0, 0), (0, length - tokens.shape[1]))), ours)
  assert tokenizer.batch_decode(outputs, skip_special_tokens=True) == [
    evaluator.to_text(row, loaded.vocabulary) for row in ours
  ]


@pytest.mark.torch
def test_the_cards_snippet_prints_what_predict_says(run, exported):
  pytest.importorskip('torch')
  card = (exported / 'README.md').read_text()
  snippet = re.search(r'```python\n(.*?)```', card, re.DOTALL)[1]
  assert repr(INPUTS[0]) in snippet
  environment = {**os.environ, 'PYTHONIOENCODING': 'utf-8', 'HF_HUB_OFFLINE': '1'}
  said = subprocess.run(
    [sys.executable, '-c', snippet], cwd=exported, env=environment, capture_output=True, check=False
  )
  assert said.returncode == 0, said.stderr.decode()
  [answer] = predict.predict(student.StudentConfig(run, batch_size=8), [INPUTS[0]])
  assert said.stdout.decode() == f'{answer["label"]}\n{answer["rationale"]}\n'


def test_a_run_that_has_no_tasks_any_more_is_exported_all_the_same(run, tmp_path):
  """Its module is gone, but its weights and settings are there."""
  path = tmp_path / 'run'
  path.mkdir()
  (path / 'checkpoints').symlink_to(pathlib.Path(run) / 'checkpoints')
  settings = RunFolder(run).load_values()
  settings['data']['mixture_or_task_name'] = 'mine_dss'
  RunFolder(path).save_values({**settings, 'module': 'a_module_that_is_gone'})
  assert export(path, tmp_path / 'out') == 0
  card = (tmp_path / 'out' / 'README.md').read_text()
  assert 'The data was not there when this card was written' in card
  assert '| method | distilling step by step' in card
