"""Programs of others load an exported student with their defaults, and say what we say."""

import dataclasses
import importlib.util
import pathlib

import numpy as np
import pytest
import run_folders
from run_folders import NAME

from dss_jax import cli
from dss_jax.inference import evaluator
from dss_jax.runs import student
from dss_jax.tasks import registration

MODELS = {
  'T5 1.0': {'mlp_activations': ('relu',), 'logits_via_embedding': True},
  'T5 1.1': {},
  'umT5': {'relative_bias_per_layer': True},
}


def _benchmark(name: str):
  """A module of benchmarks/, which is no package."""
  path = pathlib.Path(__file__).parent.parent / 'benchmarks' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(params=MODELS)
def run(request, tmp_path):
  """A run of an untrained network of a family."""
  model = dataclasses.replace(run_folders.MODEL, **MODELS[request.param])
  return run_folders.make_run(tmp_path / 'run', steps=(1,), model=model)


@pytest.fixture
def exported(run, tmp_path):
  output = tmp_path / 'exported'
  assert cli.main(['export', '--to=hf', f'--checkpoint={run}', f'--output={output}']) == 0
  return output


@pytest.mark.torch
def test_neighbours_say_our_greedy_labels(run, exported, tmp_path):
  """transformers without arguments, and CTranslate2 as its own converter converts it."""
  pytest.importorskip('torch', reason='CTranslate2 and transformers read weights with torch')
  transformers = pytest.importorskip('transformers')
  pytest.importorskip('ctranslate2', reason='ctranslate2 is not installed')
  loaded = student.load(student.StudentConfig(run, batch_size=8))
  task = f'{NAME}_label'
  examples = evaluator.load_examples(task, 'test')
  decoder = loaded.decoder(registration.row_of(task))
  ours = decoder(loaded.params, examples).tokens
  inputs = list(examples.texts['inputs_pretokenized'])
  ct2_parity = _benchmark('ct2_parity')
  translator = ct2_parity.convert(exported, tmp_path / 'ct2')
  length = decoder.decoding.max_length
  np.testing.assert_array_equal(ct2_parity.greedy(translator, exported, inputs, length), ours)

  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(exported).eval()
  asked = transformers.AutoTokenizer.from_pretrained(exported)(inputs[:1], return_tensors='pt')
  longest = 1 + run_folders.LENGTHS['targets']
  tokens = model.generate(**asked).numpy()
  assert tokens.shape == (1, longest) or (tokens[:, -1] == 1).all()
  np.testing.assert_array_equal(tokens[0, 1 : 1 + length], ours[0])
  assert model.generate(**asked, max_length=4).shape == (1, 4)
  assert model.generate(**asked, max_new_tokens=longest + 9).shape == (1, longest + 10)
