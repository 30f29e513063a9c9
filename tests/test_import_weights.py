"""`dss import`: what it writes is what it read, and nothing half-made stays."""

import json
import shutil

import hf_checkpoints
import jax
import numpy as np
import pytest
from golden import make_t5x

from dss_jax import cli
from dss_jax.checkpoints import manager, transfer
from dss_jax.checkpoints.hf import huggingface
from dss_jax.checkpoints.t5x import t5x
from dss_jax.datasets import embedded_arithmetic
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.runs import pretrained


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sources')
  make_t5x.unpack(folder)
  hf_checkpoints.make(folder / 'hf', 'ByT5')
  return folder


def _import(source, output, program, *more):
  return cli.main(['import', f'--from={program}', f'--path={source}', f'--output={output}', *more])


def _params(folder):
  weights = pretrained.open_weights(str(folder))
  return weights, weights.load(partitioning.on_host(t5.abstract(weights.config)[0]))


def test_a_hugging_face_folder_becomes_a_checkpoint_of_ours(sources, tmp_path, capsys):
  assert _import(sources / 'hf', tmp_path / 'out', 'hf') == 0
  summary = json.loads(capsys.readouterr().out.splitlines()[-1])
  opened = huggingface.open_pretrained(str(sources / 'hf'))
  weights, params = _params(tmp_path / 'out')
  theirs = transfer.read_all(opened.recipe, opened.tensors)
  jax.tree.map(np.testing.assert_array_equal, params, theirs)
  assert weights.config == opened.config and weights.vocabulary == 'bytes'
  assert weights.load_moments is None and summary['optimizer_state'] is None
  assert summary['parameters'] == sum(array.size for array in jax.tree.leaves(theirs))
  assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_a_t5x_checkpoint_comes_with_adafactors_state_and_a_vocabulary(sources, tmp_path):
  vocabulary = f'--vocabulary={hf_checkpoints_vocabulary(tmp_path)}'
  assert _import(sources / 'legacy', tmp_path / 'out', 't5x', vocabulary) == 0
  opened = t5x.open_pretrained(str(sources / 'legacy'))
  weights, params = _params(tmp_path / 'out')
  jax.tree.map(
    np.testing.assert_array_equal, params, transfer.read_all(opened.recipe, opened.tensors)
  )
  moments = weights.load_moments()
  assert int(moments['step']) == make_t5x.STEP
  for kind in ('rows', 'columns', 'full'):
    theirs = transfer.read_all(getattr(opened.moments, kind), opened.tensors)
    jax.tree.map(np.testing.assert_array_equal, moments[kind], theirs)
  assert weights.vocabulary == str(tmp_path / 'out' / 'spiece.model')


def hf_checkpoints_vocabulary(folder):
  """A SentencePiece model of 28 pieces, small enough for the embedding of the golden files."""
  import sentencepiece

  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['a bc d', 'e f a b c'] * 4), model_prefix=str(folder / 'small'),
    vocab_size=10, model_type='char', pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    hard_vocab_limit=False,
  )  # fmt: skip
  (folder / 'small.vocab').unlink()
  return folder / 'small.model'


def test_an_output_that_exists_is_not_touched(sources, tmp_path, capsys):
  (tmp_path / 'out').mkdir()
  assert _import(sources / 'hf', tmp_path / 'out', 'hf') == 2
  assert 'exists already; name a new folder' in capsys.readouterr().err
  assert not list((tmp_path / 'out').iterdir())


def test_a_source_that_is_cut_off_leaves_nothing(sources, tmp_path, capsys):
  shutil.copytree(sources / 'hf', tmp_path / 'hf')
  file = tmp_path / 'hf' / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:-10])
  assert _import(tmp_path / 'hf', tmp_path / 'out', 'hf') == 2
  assert 'model.safetensors' in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ['hf']


def test_a_vocabulary_that_is_too_large_leaves_nothing(sources, tmp_path, capsys):
  vocabulary = f'--vocabulary={embedded_arithmetic.VOCABULARY_PATH}'
  assert _import(sources / 'orbax_scanned', tmp_path / 'out', 't5x', vocabulary) == 2
  assert 'ids, more than the' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_what_does_not_read_back_as_written_is_an_error(sources, tmp_path, capsys, monkeypatch):
  save = manager.save_weights

  def damaged(folder, params, moments):
    params['encoder_norm'] = {'scale': params['encoder_norm']['scale'] + 1.0}
    save(folder, dict(params), moments)
    params['encoder_norm'] = {'scale': params['encoder_norm']['scale'] - 1.0}

  monkeypatch.setattr(manager, 'save_weights', damaged)
  assert _import(sources / 'hf', tmp_path / 'out', 'hf') == 2
  assert 'does not read back as it was written' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())
