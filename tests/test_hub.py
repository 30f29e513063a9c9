"""What the hub has of a model is chosen in order and fetched once; refusals are one sentence."""

import os
import pathlib
import subprocess
import sys

import fake_hub
import hf_checkpoints
import huggingface_hub
import pytest
from huggingface_hub import constants

from dss_jax.checkpoints.hf import hf_files, hub, huggingface
from dss_jax.tasks import vocabulary

MODEL = 'someone/t5-v1_1-tiny'
TOKEN = 'hf_' + 'secret'


@pytest.fixture
def server(monkeypatch, tmp_path):
  """An empty hub, with a cache of its own, in the place of the real one."""
  with fake_hub.serve() as running:
    monkeypatch.setattr(constants, 'ENDPOINT', running.url)
    template = f'{running.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}'
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_PROGRESS_BARS', True)
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    yield running


@pytest.fixture
def unreachable(monkeypatch):
  """Nothing answers, and nothing is tried again."""

  def stop(hub_server):
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr(
      constants,
      'HUGGINGFACE_CO_URL_TEMPLATE',
      'http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}',
    )

  return stop


def _files(folder: pathlib.Path, *forms: str) -> fake_hub.Files:
  """A model's files in these formats."""
  for form in forms:
    hf_checkpoints.make(folder, form=form)
  found = {path.name: path.read_bytes() for path in folder.iterdir()}
  return {**found, 'spiece.model': b'pieces', 'tf_model.h5': b'x', 'README.md': b'x'}


def _shards(folder: pathlib.Path) -> fake_hub.Files:
  config = huggingface.network_of(hf_checkpoints.FAMILIES['T5 1.1'], '')
  state = hf_checkpoints.state(config)
  (hf_checkpoints.make(folder) / 'model.safetensors').unlink()
  shapes = {name: tensor.shape for name, tensor in state.items()}
  hf_files.write_weights(folder, shapes, iter(state.items()), shard_bytes=30_000)
  return _files(folder)


def _assert_whole(opened):
  expected = hf_checkpoints.state(opened.config)['shared.weight']
  assert (hf_checkpoints.params_of(opened)['embedding',] == expected).all()
  assert opened.vocabulary is not None
  assert (pathlib.Path(opened.vocabulary) / 'spiece.model').read_bytes() == b'pieces'


# ---------------------------------------------------------------- order


def test_safetensors_come_before_what_else_there_is(server, tmp_path):
  server.add(MODEL, {**_files(tmp_path / 'a', 'safetensors', 'msgpack'), 'pytorch_model.bin': b'x'})
  server.propose(MODEL, 1, _files(tmp_path / 'b', 'safetensors'), hub.BOT)
  opened = huggingface.open_pretrained(MODEL)
  _assert_whole(opened)
  assert opened.origin == f'Hugging Face {MODEL}' and not opened.notes
  assert server.downloaded() == ['config.json', 'model.safetensors', 'spiece.model']


def test_only_shards_are_fetched_where_there_are_shards(server, tmp_path):
  files = _shards(tmp_path / 'a')
  server.add(MODEL, {**files, 'tokenizer_config.json': b'{}', 'model.fp16.safetensors': b'x'})
  _assert_whole(huggingface.open_pretrained(MODEL))
  shards = [name for name in files if name.startswith('model-')]
  assert len(shards) > 1
  assert server.downloaded() == sorted(
    [*shards, 'model.safetensors.index.json', *('config.json', 'spiece.model'), hub.TOKENIZER]
  )


def test_the_bots_conversion_comes_before_msgpack_and_is_told(server, tmp_path):
  server.add(MODEL, _files(tmp_path / 'a', 'msgpack'))
  server.propose(MODEL, 3, _files(tmp_path / 'b', 'safetensors'), hub.BOT)
  opened = huggingface.open_pretrained(MODEL)
  _assert_whole(opened)
  assert len(opened.notes) == 1 and 'refs/pr/3' in opened.notes[0] and hub.BOT in opened.notes[0]
  assert 'model.safetensors' in server.downloaded()
  assert 'flax_model.msgpack' not in server.downloaded()


@pytest.mark.parametrize(
  ('author', 'status', 'form'),
  [
    ('stranger', 'open', 'safetensors'),
    (hub.BOT, 'closed', 'safetensors'),
    (hub.BOT, 'open', None),
  ],
)
def test_other_pull_requests_are_not_taken(author, status, form, server, tmp_path):
  server.add(MODEL, _files(tmp_path / 'a', 'msgpack'))
  files = _files(tmp_path / 'b', form) if form else {'README.md': b'x'}
  server.propose(MODEL, 1, files, author, status)
  opened = huggingface.open_pretrained(MODEL)
  _assert_whole(opened)
  assert not opened.notes
  assert 'flax_model.msgpack' in server.downloaded()


@pytest.mark.torch
def test_a_bin_is_the_last_choice(server, tmp_path):
  pytest.importorskip('torch')
  server.add(MODEL, _files(tmp_path / 'a', 'bin'))
  _assert_whole(huggingface.open_pretrained(MODEL))
  assert 'pytorch_model.bin' in server.downloaded()


def test_a_bin_without_torch_is_not_even_fetched(server, monkeypatch):
  server.add(MODEL, {'config.json': b'{}', 'pytorch_model.bin': b'x'})
  monkeypatch.setattr(hf_files, 'has_torch', lambda: False)
  with pytest.raises(ValueError, match=f'{MODEL} needs torch to be read: pip install torch'):
    hub.find(MODEL)
  assert not server.downloaded()


def test_a_model_without_weights_for_us_is_refused(server):
  server.add(MODEL, {'config.json': b'{}', 'tf_model.h5': b'x'})
  with pytest.raises(ValueError, match=f'{MODEL} has no weights that can be read'):
    hub.find(MODEL)


def test_a_local_folder_comes_before_the_hub(server, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  hf_checkpoints.make(tmp_path / 't5-small')
  assert hub.find('t5-small').folder == pathlib.Path('t5-small')
  assert not server.asked


# ---------------------------------------------------------------- downloads


def test_what_is_there_is_not_fetched_again(server, tmp_path):
  server.add(MODEL, _files(tmp_path / 'a', 'safetensors'))
  first = hub.find(MODEL).folder
  assert server.downloaded()
  server.asked.clear()
  assert hub.find(MODEL).folder == first
  assert not server.downloaded()


def test_a_download_that_broke_goes_on_where_it_broke(server, monkeypatch, tmp_path):
  monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 1000)
  server.add(MODEL, _files(tmp_path / 'a', 'safetensors'))
  server.cut['model.safetensors'] = 10_000
  _assert_whole(huggingface.open_pretrained(MODEL))
  assert server.ranges['model.safetensors'] == 'bytes=10000-'


def test_a_model_in_the_cache_is_used_offline_and_told(server, unreachable, monkeypatch, tmp_path):
  server.add(MODEL, _files(tmp_path / 'a', 'msgpack'))
  server.propose(MODEL, 3, _files(tmp_path / 'b', 'safetensors'), hub.BOT)
  first = hub.find(MODEL).folder
  unreachable(server)
  found = hub.find(MODEL)
  assert found.folder == first
  assert 'the hub cannot be reached' in found.notes[0]


def test_the_environments_endpoint_and_token_are_used(tmp_path):
  with fake_hub.serve() as server:
    server.add(MODEL, _files(tmp_path / 'a', 'safetensors'))
    code = f'from dss_jax.checkpoints.hf import hub; print(hub.find({MODEL!r}).folder)'
    environment = {**os.environ, 'HF_ENDPOINT': server.url, 'HF_TOKEN': TOKEN}
    environment['HF_HUB_CACHE'] = str(tmp_path / 'cache')
    command = [sys.executable, '-c', code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert (pathlib.Path(result.stdout.strip()) / 'model.safetensors').exists()
    assert f'Bearer {TOKEN}' in server.tokens
    assert TOKEN not in result.stdout + result.stderr


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
  ('status', 'code', 'message'),
  [
    (404, 'RepoNotFound', 'no such model at'),
    (401, 'RepoNotFound', 'no such model at'),  # without a token, the hub does not say which
    (401, None, 'answers 401 .* set HF_TOKEN'),
    (401, 'GatedRepo', 'is gated: accept its terms'),
    (403, 'GatedRepo', 'is gated: accept its terms'),
    (403, None, 'answers 403 .* set HF_TOKEN'),
    (400, None, 'answers 400 .* try again later'),
  ],
)
def test_what_may_not_be_read_is_said_in_one_sentence(status, code, message, server):
  server.refused[MODEL] = status, code
  with pytest.raises(ValueError, match=message) as caught:
    huggingface.open_pretrained(MODEL)
  text = str(caught.value)
  assert MODEL in text and 'local folder' in text and '\n' not in text
  assert TOKEN not in text
  assert f'Bearer {TOKEN}' in server.tokens


def test_without_a_network_a_local_folder_is_asked_for(server, unreachable):
  unreachable(server)
  with pytest.raises(
    ValueError, match=r'hub cannot be reached at .* give a local folder'
  ) as caught:
    hub.find(MODEL)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('asked', ['models', 'discussions'])
def test_a_hub_that_does_not_answer_is_given_up(server, monkeypatch, tmp_path, asked):
  monkeypatch.setattr(hub, 'TIMEOUT_SECONDS', 0.3)
  if asked == 'discussions':
    server.add(MODEL, _files(tmp_path / 'a', 'msgpack'))
    of_bot = hub._conversions
    monkeypatch.setattr(
      hub, '_conversions', lambda *args: setattr(server, 'silent', True) or of_bot(*args)
    )
  server.silent = asked == 'models'
  with pytest.raises(ValueError, match=r'hub cannot be reached at .* give a local folder'):
    hub.find(MODEL)


@pytest.mark.parametrize('page', [b'<html>Hi</html>', b'[]', b'{}', b'{"siblings": [3]}', b'"x"'])
def test_what_is_no_hub_is_said(server, page):
  server.page = page
  with pytest.raises(ValueError, match=r'does not answer as a Hugg|no weights') as caught:
    hub.find(MODEL)
  assert '\n' not in str(caught.value)


def test_offline_by_setting_a_local_folder_is_asked_for(server, monkeypatch):
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  huggingface_hub.close_session()
  with pytest.raises(ValueError, match='HF_HUB_OFFLINE set'):
    hub.find(MODEL)
  monkeypatch.undo()
  huggingface_hub.close_session()


@pytest.mark.parametrize('path', ['/no/such/folder', './t5', 'a/b/c', '~/t5'])
def test_a_path_that_is_no_id_is_never_asked_for(path, server):
  with pytest.raises(ValueError, match='There is no folder'):
    hub.find(path)
  assert not server.asked


@pytest.mark.parametrize('model', ['a--b/c', 'a/b..c', 'a/' + 'b' * 200, 'a/b.git'])
def test_an_id_that_the_hub_does_not_allow_is_refused(model, server):
  with pytest.raises(ValueError, match=r'not a Hugging Face id|no such model'):
    hub.find(model)


def test_a_file_is_not_a_folder(tmp_path):
  (tmp_path / 'model.safetensors').write_bytes(b'')
  with pytest.raises(ValueError, match='give the folder that holds it'):
    hub.find(str(tmp_path / 'model.safetensors'))


def test_vocabularies_are_what_our_tasks_read():
  assert hub.VOCABULARIES == vocabulary.MODEL_NAMES
