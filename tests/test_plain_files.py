"""What is no plain file is told before it is opened, by every reader of others' files."""

import os
import shutil
import socket

import pytest
from etils import epath

from dss_jax.checkpoints import checksums
from dss_jax.checkpoints.t5x import t5x, t5x_files
from dss_jax.commands import export_weights
from dss_jax.datasets import rows
from dss_jax.runs import pretrained
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import json_form, plain_files
from dss_jax.settings.errors import ConfigError
from dss_jax.tasks import vocabulary

WORDS = {
  'missing': 'missing',
  'link': 'a link to nowhere, which does not exist',
  'below': 'missing',
  'folder': 'a folder',
  'pipe': 'a device, a pipe or a socket',
  'socket': 'a device, a pipe or a socket',
  'device': 'a device, a pipe or a socket',
}


@pytest.fixture
def odd(tmp_path, monkeypatch):
  """A folder with one file of each kind."""
  monkeypatch.chdir(tmp_path)  # the name of a socket is short
  (tmp_path / 'link').symlink_to('nowhere')
  (tmp_path / 'plain').write_text('four')
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'device').symlink_to('/dev/zero')
  os.mkfifo(tmp_path / 'pipe')
  with socket.socket(socket.AF_UNIX) as made:
    made.bind('socket')
    yield tmp_path


@pytest.mark.parametrize(
  'read',
  [
    lambda path: RunFolder(path).load_settings(),
    lambda path: export_weights._read(epath.Path(path), 'best', with_state=False),
    pretrained.open_weights,
    lambda path: pretrained.open_weights(path, 'hf'),
    lambda path: pretrained.open_weights(path, 't5x'),
  ],
)
@pytest.mark.parametrize('path', ['link', 'link/below'])
def test_a_folder_that_is_a_link_to_nothing_is_told(odd, read, path):
  with pytest.raises(ConfigError, match=r'link is a link to nowhere, which does not exist\.$'):
    read(path)


def test_what_exists(odd):
  found = ['plain', 'folder', 'pipe', 'device']
  assert [name for name in [*found, 'missing', 'plain/below'] if plain_files.exists(name)] == found


@pytest.mark.parametrize('kind', WORDS)
def test_what_is_no_plain_file_is_told(odd, kind):
  path = odd / ('plain/below' if kind == 'below' else kind)
  assert plain_files.problem(path) == WORDS[kind]
  for read in (plain_files.size, plain_files.read):
    with pytest.raises(ValueError) as caught:
      read(path, 'numbers')
    assert str(caught.value) == f'{path} is {WORDS[kind]}; expected a file with numbers.'


def test_a_plain_file_is_read_up_to_a_size(odd):
  assert plain_files.size(odd / 'plain', 'text') == 4
  assert plain_files.read(odd / 'plain', 'text', most=4) == b'four'
  with pytest.raises(ValueError, match=r'plain has 4 bytes; expected text of at most 3 bytes\.'):
    plain_files.read(odd / 'plain', 'text', most=3)


READERS = {
  'text': json_form.read_text,
  'completions': rows.read_json,
  'vocabulary': vocabulary.load_vocabulary,
  'T5X index': t5x_files._read_index,
  'T5X config.gin': t5x._text_of,
}


@pytest.mark.parametrize('kind', ['pipe', 'socket', 'device'])
@pytest.mark.parametrize('reader', READERS)
def test_no_reader_waits_for_what_never_ends(odd, reader, kind):
  path = str(odd / kind) if reader == 'vocabulary' else plain_files.epath.Path(odd / kind)
  with pytest.raises(ValueError, match=f'{kind} is a device, a pipe or a socket; expected'):
    READERS[reader](path)


def test_a_run_folders_own_files_are_looked_at_too(odd):
  folder = RunFolder(odd / 'folder')
  for file in (folder.settings_file, folder.gin_file, folder.metrics_file, folder.path / '.lock'):
    shutil.copyfile(odd / 'plain', file)
    file.unlink()
    os.mkfifo(file)
  lock = folder.lock()
  for read in (folder.load_values, folder.load_gin, folder.metric_rows, lock.__enter__):
    with pytest.raises(ValueError, match='is a device, a pipe or a socket'):
      read()


@pytest.mark.parametrize('noted', [True, False])
def test_a_pipe_in_a_checkpoint_is_damage(odd, noted):
  folder = plain_files.epath.Path(odd / 'folder')
  for name in ('params', 'params/array', '_CHECKPOINT_METADATA'):
    path = folder / name
    if name == 'params':
      path.mkdir()
      continue
    path.write_text('x')
    if noted:
      checksums.write(folder, 4)
    path.unlink()
    os.mkfifo(path)
    text = f'its file {name} is a device, a pipe or a socket'
    assert checksums.damage(folder, 4, ['params']) == text
    path.unlink()
    path.write_text('x')
