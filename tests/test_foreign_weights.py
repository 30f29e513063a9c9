"""Weights of strangers: what a file is if it is no checkpoint, in words; costs that are bounded."""

import json
import os
import shutil
import struct
import tracemalloc

import hf_checkpoints
import ml_dtypes
import msgpack
import numpy as np
import pytest
from etils import epath
from flax import serialization
from golden import make_t5x

from dss_jax import cli
from dss_jax.checkpoints import foreign_files, transfer
from dss_jax.checkpoints.hf import flax_msgpack, hf_files, huggingface
from dss_jax.checkpoints.t5x import t5x, t5x_files

SETTINGS = hf_checkpoints.FAMILIES['T5 1.1']
CONFIG = huggingface.network_of(SETTINGS, 'T5 1.1')
WEIGHTS = 'model.safetensors'
WI = 'encoder.block.1.layer.1.DenseReluDense.wi_0.weight'
MB = 1 << 20


def imported(source, output, program='hf') -> int:
  return cli.main(
    ['import', f'--from={program}', f'--path={source}', f'--output={output}', '--vocabulary=bytes']
  )


def safetensors_of(header: dict | bytes, data: bytes = b'', size: int | None = None) -> bytes:
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack('<Q', len(text) if size is None else size) + text + data


# ---------------------------------------------------------------- no numbers


@pytest.mark.parametrize('form', ['safetensors', 'msgpack', 'bin'])
@pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
def test_one_value_that_is_no_number_is_refused_and_nothing_stays(form, value, tmp_path, capsys):
  if form == 'bin':
    pytest.importorskip('torch')
  state = hf_checkpoints.state(CONFIG)
  state[WI][3, 2] = float(value)
  hf_checkpoints.write(tmp_path / 'hf', SETTINGS, state, form)
  assert imported(tmp_path / 'hf', tmp_path / 'out') == 2
  assert f'{WI} holds NaN or infinity' in capsys.readouterr().err
  assert os.listdir(tmp_path) == ['hf']


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_are_checked_too(dtype):
  array = np.ones((3, 4), dtype)
  assert transfer.is_finite(array)
  array[2, 1] = np.nan
  assert not transfer.is_finite(array) and not transfer.is_finite(array.T)


@pytest.fixture(scope='module')
def golden(tmp_path_factory):
  folder = tmp_path_factory.mktemp('t5x')
  make_t5x.unpack(folder)
  return folder


@pytest.mark.parametrize('kind', ['target/', 'state/param_states/'])
def test_t5x_and_its_moments_are_refused_and_nothing_stays(kind, golden, tmp_path, capsys):
  folder = shutil.copytree(golden / 'legacy', tmp_path / 't5x') / f'checkpoint_{make_t5x.STEP}'
  index = serialization.msgpack_restore((folder / 'checkpoint').read_bytes())
  opened = t5x.open_pretrained(str(folder))
  used = [leaf for part in (opened.recipe, opened.moments.full) for leaf in part.values()]
  names = {name for leaf in used for name in leaf.names if name.startswith(kind)}
  name = min(names & {n for n, t in opened.tensors.items() if len(t.shape) == 1})
  array = np.array(opened.tensors[name].read((slice(None),)), np.float32)
  array[1] = np.inf
  node = index['optimizer']
  *parents, last = name.split('/')
  for parent in parents:
    node = node[parent]
  node[last] = array
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(index))
  assert imported(folder, tmp_path / 'out', 't5x') == 2
  assert f'{name} holds NaN or infinity' in capsys.readouterr().err
  assert os.listdir(tmp_path) == ['t5x']


# ---------------------------------------------------------------- odd files


@pytest.mark.parametrize('name', [WEIGHTS, 'config.json', f'{WEIGHTS}.index.json'])
@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (lambda path: path.symlink_to('/nowhere/x'), 'is a link to /nowhere/x, which does not exist'),
    (lambda path: path.mkdir(), 'is a folder; expected a file'),
    (lambda path: path.write_bytes(b''), 'is empty; expected'),
    (lambda path: os.mkfifo(path), 'is a device, a pipe or a socket; expected'),
  ],
)
def test_what_a_file_is_is_said_in_words(name, make, words, tmp_path):
  hf_checkpoints.make(tmp_path)
  if name.endswith('.index.json'):
    (tmp_path / WEIGHTS).unlink()
  else:
    (tmp_path / name).unlink()
  make(tmp_path / name)
  with pytest.raises(ValueError, match=rf'{name} {words}'):
    huggingface.open_pretrained(str(tmp_path))


@pytest.mark.parametrize(
  ('dtype', 'size', 'words'),
  [
    ('F64', 8, '64-bit floats'),
    ('I8', 1, '8-bit integers'),
    ('F8_E4M3', 1, '8-bit floats'),
    ('BOOL', 1, 'truth values'),
    ('I64', 8, '64-bit integers'),
  ],
)
def test_numbers_of_another_type_are_named(dtype, size, words, tmp_path):
  header = {'a.weight': {'dtype': dtype, 'shape': [2], 'data_offsets': [0, 2 * size]}}
  (tmp_path / WEIGHTS).write_bytes(safetensors_of(header, bytes(2 * size)))
  with pytest.raises(ValueError, match=f'holds a.weight as {words}, dtype {dtype}; expected') as it:
    hf_files.open_weights(tmp_path)
  assert 'save_pretrained' in str(it.value) and 'corrupt' not in str(it.value)


def test_t5x_numbers_of_another_type_are_named(golden, tmp_path):
  folder = shutil.copytree(golden / 'legacy', tmp_path / 't5x') / f'checkpoint_{make_t5x.STEP}'
  index = serialization.msgpack_restore((folder / 'checkpoint').read_bytes())
  norm = index['optimizer']['target']['encoder']['encoder_norm']
  norm['scale'] = np.ones(16, np.int8)
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(index))
  with pytest.raises(ValueError, match='target/encoder/encoder_norm/scale as int8; expected'):
    t5x.open_pretrained(str(folder))


# ---------------------------------------------------------------- hostile files


def _peak_of(call) -> int:
  """Bytes that a call needs, which must be refused."""
  tracemalloc.start()
  with pytest.raises(ValueError, match=r'expected|more than|nested'):
    call()
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  return peak


def test_a_header_of_600_mb_is_not_read(tmp_path):
  with open(tmp_path / WEIGHTS, 'wb') as file:
    file.write(safetensors_of(b'{', size=600 * MB))
    file.truncate(700 * MB)  # of which the disk holds nothing
  assert _peak_of(lambda: hf_files.open_weights(tmp_path)) < MB


@pytest.mark.parametrize('content', [b'\x80', b'\x90', b'\xc0'])
def test_millions_of_small_msgpack_values_are_not_kept(content, tmp_path):
  many = b'\xdd' + struct.pack('>I', 4 * MB) + content * (4 * MB)
  (tmp_path / 'file').write_bytes(many)
  assert _peak_of(lambda: flax_msgpack.open_arrays(tmp_path / 'file')) < 40 * MB
  (tmp_path / 'checkpoint').write_bytes(many)
  assert _peak_of(lambda: t5x_files.open_checkpoint(epath.Path(tmp_path))) < 60 * MB


@pytest.mark.parametrize('extension', [1, 2, 3])
def test_millions_of_values_within_an_extension_are_not_kept(extension, tmp_path):
  maps = b'\xdd' + struct.pack('>I', 150_000) + b'\x80' * 150_000
  arrays = {str(n): msgpack.ExtType(extension, b'\x93' + maps + b'\xc0\xc0') for n in range(30)}
  (tmp_path / 'file').write_bytes(msgpack.packb(arrays))
  assert _peak_of(lambda: flax_msgpack.open_arrays(tmp_path / 'file')) < 40 * MB
  (tmp_path / 'checkpoint').write_bytes(msgpack.packb({'optimizer': {'target': arrays}}))
  assert _peak_of(lambda: t5x_files.open_checkpoint(epath.Path(tmp_path))) < 60 * MB


@pytest.mark.parametrize('content', [b'\x93\x91\x01\xa7float32\xc4\x04abcd\xc0', b'\x93\x91'])
def test_an_extension_holds_one_value(content, tmp_path):
  (tmp_path / 'file').write_bytes(msgpack.packb({'a': msgpack.ExtType(1, content), 'b': 1}))
  with pytest.raises(ValueError, match=r'corrupt or not a Flax model: .*(one value|left)'):
    flax_msgpack.open_arrays(tmp_path / 'file')


@pytest.mark.parametrize('text', ['[' * 100_000, '{"a":' * 100_000])
def test_json_that_is_nested_deeply_is_refused(text, tmp_path):
  hf_checkpoints.make(tmp_path / 'hf')
  (tmp_path / 'hf' / 'config.json').write_text(text)
  with pytest.raises(ValueError, match='nested too deeply'):
    huggingface.open_pretrained(str(tmp_path / 'hf'))
  (tmp_path / WEIGHTS).write_bytes(safetensors_of(text.encode()))
  with pytest.raises(ValueError, match='corrupt header, which is not JSON that can be read'):
    hf_files.open_weights(tmp_path)
  with pytest.raises(ValueError, match='of at most'):
    foreign_files.read_json(tmp_path / WEIGHTS, 'an index', most=10)


@pytest.mark.parametrize(
  'header',
  [
    {'a': {'dtype': 'F32', 'shape': [1 << 33, 1 << 33, 0], 'data_offsets': [0, 4]}},
    {'a': {'dtype': 'F32', 'shape': [1 << 62, 4], 'data_offsets': [0, 1 << 66]}},
    {'a': {'dtype': 'F32', 'shape': [True], 'data_offsets': [0, 4]}},
    {'a': {'dtype': 'F32', 'shape': [1] * 4000, 'data_offsets': [0, 4]}},
    {
      'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]},
      'b': {'dtype': 'F32', 'shape': [2], 'data_offsets': [4, 12]},
    },
    {'a': {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}},
    {'a\x1b[31m' * 999: {'dtype': ['F32'], 'shape': [2], 'data_offsets': [0, 8]}},
  ],
)
def test_places_outside_or_over_each_other_are_refused_in_one_line(header, tmp_path):
  (tmp_path / WEIGHTS).write_bytes(safetensors_of(header, bytes(12)))
  with pytest.raises(ValueError, match='corrupt') as caught:
    hf_files.open_weights(tmp_path)
  assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize('place', ['../x', '/etc/passwd', '..', '.', '', 'a/b', 5, None, ['x']])
def test_an_index_names_files_of_its_own_folder(place, tmp_path):
  (tmp_path / f'{WEIGHTS}.index.json').write_text(json.dumps({'weight_map': {'t': place}}))
  with pytest.raises(ValueError, match=r'is not an index of shards: .* is no file of its folder'):
    hf_files.open_weights(tmp_path)


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(tmp_path):
  (tmp_path / 'model').mkdir()
  header = {'t': {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}}
  (tmp_path / 'secret').write_bytes(safetensors_of(header, bytes(4)))
  (tmp_path / 'model' / 'shard').symlink_to('../secret')
  (tmp_path / 'model' / f'{WEIGHTS}.index.json').write_text('{"weight_map": {"t": "shard"}}')
  with pytest.raises(ValueError, match=r'shard, which .* is a link out of its folder, to .*secret'):
    hf_files.open_weights(tmp_path / 'model')
  # The hub's cache has every file so.
  cache = tmp_path / 'snapshots' / 'main'
  shutil.copytree(tmp_path / 'model', cache, symlinks=True)
  (tmp_path / 'blobs').mkdir()
  (tmp_path / 'secret').rename(tmp_path / 'blobs' / 'abc')
  (cache / 'shard').unlink()
  (cache / 'shard').symlink_to('../../blobs/abc')
  assert set(hf_files.open_weights(cache)) == {'t'}


@pytest.mark.parametrize(
  'changes',
  [
    {'num_layers': 10**9},
    {'vocab_size': 10**30},
    {'architectures': {}, 'model_type': None},
    {'architectures': 5, 'model_type': None},
    {'model_type': ['t5']},
    {'feed_forward_proj': {}},
    {'tie_word_embeddings': []},
    {'tie_word_embeddings': True, 'model_type': 'mt5', 'transformers_version': 'x'},
    {'d_model': 1e400},
  ],
)
def test_settings_of_other_types_and_sizes_are_refused(changes, tmp_path):
  hf_checkpoints.make(tmp_path)
  (tmp_path / 'config.json').write_text(json.dumps({**SETTINGS, **changes}))
  with pytest.raises(ValueError, match=r'\.$'):
    huggingface.open_pretrained(str(tmp_path))


@pytest.mark.parametrize(
  ('spec', 'words'),
  [
    ({'driver': 'zarr', 'kvstore': {'path': '../../secret'}}, 'expected a path below the folder'),
    ({'driver': 'n5', 'kvstore': {'path': 'a'}}, 'driver n5; expected zarr or zarr3'),
    ({'driver': 'zarr', 'kvstore': {'driver': 'http', 'base_url': 'http://x'}}, 'a path below'),
    ({'driver': 'zarr', 'kvstore': 'http://x'}, 'not an index of T5X'),
    ('PLACEHOLDER://../x', 'expected a path below the folder'),
    ('text', 'is str, not numbers'),
    (msgpack.ExtType(77, b'x'), 'is ExtType, not numbers'),
  ],
)
def test_an_index_of_t5x_names_arrays_below_its_folder(spec, words, tmp_path):
  leaf = {**spec, 'metadata': {}} if isinstance(spec, dict) else spec
  content = msgpack.packb({'optimizer': {'target': {'a': leaf}}})
  (tmp_path / 'checkpoint').write_bytes(content)
  with pytest.raises(ValueError, match=words):
    t5x_files.open_checkpoint(epath.Path(tmp_path))


@pytest.mark.parametrize(
  'metadata',
  [
    {'dtype': '|O'},
    {'dtype': '<f4', 'shape': [1 << 62, 1 << 62]},
    {'chunks': [1 << 20, 1 << 20]},
    {'filters': [{'id': 'pickle'}]},
    {'compressor': {'id': 'x'}},
  ],
)
def test_metadata_of_zarr_that_is_hostile_is_refused(metadata, tmp_path):
  t5x_files.write(epath.Path(tmp_path), [('target/a', np.ones((2, 3), np.float32))], {})
  file = tmp_path / 'target.a' / '.zarray'
  file.write_text(json.dumps({**json.loads(file.read_text()), **metadata}))
  with pytest.raises(ValueError, match=r'target/a in .* cannot be opened: '):
    t5x_files.open_checkpoint(epath.Path(tmp_path))


def test_a_torch_that_runs_code_of_a_bin_is_refused(tmp_path, monkeypatch):
  torch = pytest.importorskip('torch')
  folder = hf_checkpoints.make(tmp_path, form='bin')
  monkeypatch.setattr(torch, '__version__', '2.5.1+cpu')
  with pytest.raises(
    ValueError, match=r"is not read: torch 2\.5\.1\+cpu .*pip install 'torch>=2\.6'"
  ):
    hf_files.open_weights(folder)
