"""Tokens that a Hugging Face folder adds to its vocabulary are named, wherever they are written."""

import json

import hf_checkpoints
import pytest

from dss_jax import cli
from dss_jax.checkpoints.hf import added_tokens, huggingface
from dss_jax.datasets import embedded_arithmetic

SENTINELS = [f'<extra_id_{number}>' for number in range(100)]
WRITTEN = {
  'added_tokens.json': {'<sep>': 32100, '~': 32101, '<extra_id_0>': 32099},
  'special_tokens_map.json': {
    'eos_token': '</s>',
    'sep_token': {'content': '<sep>'},
    'additional_special_tokens': [*SENTINELS, '~'],
  },
  'tokenizer_config.json': {
    'added_tokens_decoder': {'0': {'content': '<pad>'}, '32100': {'content': '<sep>'}},
    'additional_special_tokens': ['~'],
  },
  'tokenizer.json': {
    'added_tokens': [{'id': 0, 'content': '<pad>'}, {'content': '<sep>'}, {'content': '~'}],
    'model': {'vocab': [['<pad>', 0.0]]},
  },
}


@pytest.fixture
def folder(tmp_path):
  settings = {**hf_checkpoints.FAMILIES['T5 1.1'], 'vocab_size': 2048}
  network = huggingface.network_of(settings, 'it')
  hf_checkpoints.write(tmp_path / 'hf', settings, hf_checkpoints.state(network))
  with open(embedded_arithmetic.VOCABULARY_PATH, 'rb') as file:
    (tmp_path / 'hf' / 'spiece.model').write_bytes(file.read())
  return tmp_path / 'hf'


@pytest.mark.parametrize('name', WRITTEN)
def test_every_token_that_is_left_out_is_named(name, folder, tmp_path, capsys):
  (folder / name).write_text(json.dumps(WRITTEN[name]))
  arguments = ['--from=hf', f'--path={folder}', f'--output={tmp_path / "out"}']
  assert cli.main(['import', *arguments]) == 0
  said = capsys.readouterr().err
  assert (
    'warning: 2 token(s) were added to its vocabulary, which are left out here: <sep>, ~.' in said
  )


def test_tokens_of_the_vocabulary_are_not_named(folder):
  known = {'added_tokens.json': {'[label]': 3, **dict.fromkeys(SENTINELS, 4)}}
  known['special_tokens_map.json'] = {'eos_token': '</s>', 'unk_token': {'content': '<unk>'}}
  for name, content in known.items():
    (folder / name).write_text(json.dumps(content))
  assert added_tokens.note(folder, str(folder)) == ()
  assert added_tokens.note(folder, None) == ()


def test_bytes_have_sentinels_and_nothing_else(folder):
  (folder / 'added_tokens.json').write_text(json.dumps({'<extra_id_3>': 262, '<sep>': 384}))
  (note,) = added_tokens.note(folder, 'bytes')
  assert 'warning: 1 token(s)' in note and '<sep>' in note


@pytest.mark.parametrize('content', ['[]', '{', '"x"', '{"a": ' * 9999])
@pytest.mark.parametrize('name', WRITTEN)
def test_a_file_that_is_none_is_named(name, content, folder):
  (folder / name).write_text(content)
  with pytest.raises(ValueError, match=name):
    huggingface.open_pretrained(str(folder))


def test_what_an_export_writes_adds_nothing(folder, tmp_path):
  cli.main(['import', '--from=hf', f'--path={folder}', f'--output={tmp_path / "ours"}'])
  arguments = [f'--checkpoint={tmp_path / "ours"}', f'--output={tmp_path / "out"}']
  assert cli.main(['export', '--to=hf', *arguments]) == 0
  assert huggingface.open_pretrained(str(tmp_path / 'out')).notes == ()
