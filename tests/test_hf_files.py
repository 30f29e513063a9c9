"""Weights of every format are read in parts; what is wrong with a file is said at opening."""

import json
import shutil
import struct
import tracemalloc

import flax
import hf_checkpoints
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors
from safetensors import safe_open

from dss_jax.checkpoints import transfer
from dss_jax.checkpoints.hf import flax_msgpack, hf_files, huggingface

CONFIG = huggingface.network_of(hf_checkpoints.FAMILIES['T5 1.1'], 'T5 1.1')
FILES = {
  'safetensors': 'model.safetensors',
  'msgpack': 'flax_model.msgpack',
  'bin': 'pytorch_model.bin',
}
MB = 1 << 20


@pytest.fixture(params=[*FILES])
def form(request):
  """A format; PyTorch's where torch is installed."""
  if request.param == 'bin':
    pytest.importorskip('torch')
  return request.param


def _assert_holds(tensors, expected):
  assert set(tensors) == set(expected)
  for name, tensor in tensors.items():
    whole = tensor.read(tuple(slice(None) for _ in tensor.shape))
    assert tensor.shape == whole.shape == expected[name].shape
    assert tensor.dtype == whole.dtype == expected[name].dtype
    assert whole.tobytes() == np.ascontiguousarray(expected[name]).tobytes()


# ---------------------------------------------------------------- reading


def test_every_format_gives_the_same_tensors(form, tmp_path):
  folder = hf_checkpoints.make(tmp_path, form=form)
  _assert_holds(hf_files.open_weights(folder), hf_checkpoints.state(CONFIG))


def test_a_part_is_that_part_of_the_whole(form, tmp_path):
  tensors = hf_files.open_weights(hf_checkpoints.make(tmp_path, form=form))
  whole = hf_checkpoints.state(CONFIG)
  for name in (
    'shared.weight',
    'lm_head.weight',
    'decoder.block.1.layer.2.DenseReluDense.wo.weight',
  ):
    for index in np.s_[3:9, :], np.s_[:, 2:5], np.s_[4:5, 1:16], np.s_[0:0, :]:
      np.testing.assert_array_equal(tensors[name].read(index), whole[name][index])
  norm = 'encoder.final_layer_norm.weight'
  np.testing.assert_array_equal(tensors[norm].read(np.s_[2:7,]), whole[norm][2:7])


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_narrow_floats_are_read_as_they_are(dtype, form, tmp_path):
  narrow = {
    name: np.asarray(jnp.asarray(tensor).astype(dtype))
    for name, tensor in hf_checkpoints.state(CONFIG).items()
  }
  if form == 'bin':
    torch = pytest.importorskip('torch')
    settings = hf_checkpoints.FAMILIES['T5 1.1']
    hf_checkpoints.write(tmp_path, settings, hf_checkpoints.state(CONFIG), form)
    state = torch.load(tmp_path / FILES[form], weights_only=True)
    state = {name: tensor.to(getattr(torch, dtype)) for name, tensor in state.items()}
    torch.save(state, tmp_path / FILES[form])
  else:
    hf_checkpoints.write(tmp_path, hf_checkpoints.FAMILIES['T5 1.1'], narrow, form)
  _assert_holds(hf_files.open_weights(tmp_path), narrow)


def test_the_chunks_of_a_large_flax_array_are_one_tensor(monkeypatch, tmp_path):
  monkeypatch.setattr(flax.serialization, 'MAX_CHUNK_SIZE', 1000)  # not a multiple of a row
  folder = hf_checkpoints.make(tmp_path, form='msgpack')
  assert b'__msgpack_chunked_array__' in (folder / FILES['msgpack']).read_bytes()
  tensors = hf_files.open_weights(folder)
  whole = hf_checkpoints.state(CONFIG)
  _assert_holds(tensors, whole)
  part = tensors['shared.weight'].read(np.s_[14:33, 3:5])
  np.testing.assert_array_equal(part, whole['shared.weight'][14:33, 3:5])


def test_values_that_are_no_arrays_are_walked_over(tmp_path):
  values = [
    None,
    True,
    False,
    0,
    127,
    128,
    1 << 40,
    -1,
    -32,
    -33,
    -70000,
    -(1 << 40),
    1.5,
    'é' * 40,
  ]
  values += [
    'x' * 300,
    'x' * 70000,
    b'12',
    b'1' * 300,
    list(range(20)),
    {str(i): i for i in range(20)},
  ]
  content = flax.serialization.msgpack_serialize(
    {'values': values, 'array': np.arange(4, dtype='f4')}
  )
  (tmp_path / 'file').write_bytes(content)
  with pytest.raises(ValueError, match='values is not an array'):
    flax_msgpack.open_arrays(tmp_path / 'file')
  only = flax.serialization.msgpack_serialize({'deep': {'array': np.arange(4, dtype='f4')}})
  (tmp_path / 'file').write_bytes(only)
  assert list(flax_msgpack.open_arrays(tmp_path / 'file')) == ['deep/array']


def test_a_part_of_a_tensor_larger_than_memory_costs_only_the_part(tmp_path):
  shape, at = (1 << 26, 1 << 10), 1 << 25  # 256 GiB, of which the disk holds nothing
  path = tmp_path / FILES['safetensors']
  header = {'t': {'dtype': 'F32', 'shape': shape, 'data_offsets': [0, 4 << 36]}}
  text = json.dumps(header).encode()
  with open(path, 'wb') as file:
    file.write(struct.pack('<Q', len(text)) + text)
    file.seek(8 + len(text) + at * 4096)
    file.write(np.arange(1024, dtype='f4').tobytes())
    file.truncate(8 + len(text) + (4 << 36))
  tracemalloc.start()
  tensor = hf_files.open_weights(tmp_path)['t']
  part = tensor.read((slice(at - 1, at + 1), slice(None)))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  np.testing.assert_array_equal(part, [np.zeros(1024), np.arange(1024)])
  assert peak < MB


def test_the_preferred_format_is_read(tmp_path):
  pytest.importorskip('torch')
  for form, value in (('bin', 1.0), ('msgpack', 2.0), ('safetensors', 3.0)):
    tensors = {'shared.weight': np.full((2, 2), value, 'f4')}
    hf_checkpoints.write(tmp_path, {}, tensors, form)
    read = hf_files.open_weights(tmp_path)['shared.weight'].read(np.s_[:, :])
    assert (read == value).all()


def test_a_folder_without_weights_is_named(tmp_path):
  with pytest.raises(ValueError, match='holds no weights: expected one of model'):
    hf_files.open_weights(tmp_path)


def test_a_bin_without_torch_says_what_to_install(monkeypatch, tmp_path):
  (tmp_path / FILES['bin']).write_bytes(b'PK')
  monkeypatch.setattr(hf_files, 'has_torch', lambda: False)
  with pytest.raises(ValueError, match=r'pytorch_model\.bin needs torch to be read: pip install'):
    hf_files.open_weights(tmp_path)


@pytest.mark.torch
def test_a_bin_of_the_time_before_zip_files_is_read(tmp_path):
  torch = pytest.importorskip('torch')
  state = {name: torch.tensor(value) for name, value in hf_checkpoints.state(CONFIG).items()}
  torch.save(state, tmp_path / FILES['bin'], _use_new_zipfile_serialization=False)
  _assert_holds(hf_files.open_weights(tmp_path), hf_checkpoints.state(CONFIG))


@pytest.mark.torch
def test_a_bin_that_would_run_code_is_refused(tmp_path):
  torch = pytest.importorskip('torch')
  ran = tmp_path / 'ran'

  class Malicious:
    def __reduce__(self):
      return ran.touch, ()

  torch.save({'shared.weight': Malicious()}, tmp_path / FILES['bin'])
  with pytest.raises(ValueError, match=r'pytorch_model\.bin .* or holds more than weights'):
    hf_files.open_weights(tmp_path)
  assert not ran.exists()


# ---------------------------------------------------------------- damaged files


@pytest.mark.parametrize('kept', [0, 4, 100, 5000, -1])
def test_a_truncated_file_is_found_when_it_is_opened(form, kept, tmp_path):
  path = hf_checkpoints.make(tmp_path, form=form) / FILES[form]
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(ValueError, match=f'{path}.* (truncated|empty)') as caught:
    hf_files.open_weights(tmp_path)
  assert kept == 0 or str(path.stat().st_size) in str(caught.value)
  assert '\n' not in str(caught.value)


def test_a_truncated_safetensors_says_what_size_it_should_have(tmp_path):
  path = hf_checkpoints.make(tmp_path) / FILES['safetensors']
  whole = path.read_bytes()
  path.write_bytes(whole[:-1000])
  with pytest.raises(
    ValueError, match=f'describes {len(whole)} bytes, but the file has {len(whole) - 1000}'
  ):
    hf_files.open_weights(tmp_path)


def test_bytes_behind_the_end_are_found(tmp_path):
  for form in ('safetensors', 'msgpack'):
    path = hf_checkpoints.make(tmp_path / form, form=form) / FILES[form]
    with open(path, 'ab') as file:
      file.write(b'\x00')
    with pytest.raises(ValueError, match='corrupt'):
      hf_files.open_weights(tmp_path / form)


def test_any_damaged_byte_of_a_header_is_found_or_harmless(tmp_path):
  """No damage gives another exception, and none gives tensors outside the file."""
  generator = np.random.RandomState(0)
  for form, size in (('safetensors', 600), ('msgpack', 60)):
    path = hf_checkpoints.make(tmp_path / form, form=form) / FILES[form]
    whole = path.read_bytes()
    found = 0
    for position in generator.randint(0, size, size=200):
      path.write_bytes(whole[:position] + bytes([generator.randint(256)]) + whole[position + 1 :])
      try:
        tensors = hf_files.open_weights(tmp_path / form)
      except ValueError:
        found += 1
        continue
      for tensor in tensors.values():
        tensor.read(tuple(slice(None) for _ in tensor.shape))
    assert found > 50


@pytest.mark.parametrize(
  ('entry', 'message'),
  [
    (
      {'dtype': 'I64', 'shape': [1], 'data_offsets': [0, 8]},
      'dtype I64; expected one of F32, F16, BF16',
    ),
    ({'dtype': 'F32', 'shape': [3], 'data_offsets': [0, 8]}, 'has 8 bytes, which do not fit'),
    ({'dtype': 'F32', 'shape': [-2], 'data_offsets': [0, -8]}, 'has shape'),
    ({'dtype': 'F32', 'shape': [2], 'data_offsets': [8, 16]}, 'starts at byte 8, not 0'),
    ({'dtype': 'F32', 'shape': [2]}, 'data_offsets'),
    ([1], 'corrupt header'),
  ],
)
def test_a_safetensors_header_that_cannot_be_is_refused(entry, message, tmp_path):
  text = json.dumps({'t': entry}).encode()
  content = struct.pack('<Q', len(text)) + text + bytes(16)
  (tmp_path / FILES['safetensors']).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    hf_files.open_weights(tmp_path)


def test_a_git_lfs_pointer_is_told(tmp_path):
  pointer = 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'
  (tmp_path / FILES['safetensors']).write_text(pointer)
  with pytest.raises(ValueError, match='Git LFS pointer'):
    hf_files.open_weights(tmp_path)


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(tmp_path):
  opened = huggingface.open_pretrained(str(hf_checkpoints.make(tmp_path)))
  path = tmp_path / FILES['safetensors']
  path.write_bytes(path.read_bytes()[:5000])
  with pytest.raises(ValueError, match=r'cannot be read: .*model\.safetensors ended'):
    hf_checkpoints.params_of(opened)


# ---------------------------------------------------------------- shards


def _shards(folder):
  state = hf_checkpoints.state(CONFIG)
  shapes = {name: tensor.shape for name, tensor in state.items()}
  hf_files.write_weights(folder, shapes, iter(state.items()), shard_bytes=20_000)
  return sorted(folder.glob('model-*.safetensors'))


def test_a_missing_shard_is_named(tmp_path):
  shard = _shards(tmp_path)[1]
  shard.unlink()
  with pytest.raises(ValueError, match=f'lacks {shard.name}'):
    hf_files.open_weights(tmp_path)


def test_a_truncated_shard_is_named(tmp_path):
  shard = _shards(tmp_path)[1]
  shard.write_bytes(shard.read_bytes()[:-1])
  with pytest.raises(ValueError, match=f'{shard.name} is truncated'):
    hf_files.open_weights(tmp_path)


def test_an_index_that_does_not_fit_its_shards_is_told(tmp_path):
  shards = _shards(tmp_path)
  shutil.copy(shards[0], shards[1])
  with pytest.raises(ValueError, match=f'in both {shards[0].name} and {shards[1].name}'):
    hf_files.open_weights(tmp_path)
  safetensors.save_file({'other': np.ones(1, 'f4')}, shards[1])
  with pytest.raises(ValueError, match=f'is in {shards[1].name}, which does not hold it'):
    hf_files.open_weights(tmp_path)


@pytest.mark.parametrize('index', ['{', '[]', '{"weight_map": {"t": "../t.safetensors"}}'])
def test_an_index_that_is_none_is_told(index, tmp_path):
  (tmp_path / 'model.safetensors.index.json').write_text(index)
  with pytest.raises(ValueError, match='is not an index of shards'):
    hf_files.open_weights(tmp_path)


def test_flax_shards_are_read(tmp_path):
  """transformers 4 wrote the index with slashes, and nested dicts into the shards."""
  params = list(hf_checkpoints.flax_params(hf_checkpoints.state(CONFIG)).items())
  places = {}
  for number, part in enumerate([params[:20], params[20:]], start=1):
    name = f'flax_model-{number:05d}-of-00002.msgpack'
    tree = transfer.unflatten(dict(part))
    (tmp_path / name).write_bytes(flax.serialization.msgpack_serialize(tree))
    places.update({'/'.join(path): name for path, _ in part})
  (tmp_path / 'flax_model.msgpack.index.json').write_text(json.dumps({'weight_map': places}))
  _assert_holds(hf_files.open_weights(tmp_path), hf_checkpoints.state(CONFIG))


# ---------------------------------------------------------------- writing


def test_shards_are_what_the_safetensors_library_and_transformers_read(tmp_path):
  shards = _shards(tmp_path)
  state = hf_checkpoints.state(CONFIG)
  assert [shard.name for shard in shards] == [
    f'model-{i + 1:05d}-of-{len(shards):05d}.safetensors' for i in range(len(shards))
  ]
  assert len(shards) > 1 and all(shard.stat().st_size < 30_000 for shard in shards)
  index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
  assert index['metadata']['total_size'] == sum(tensor.nbytes for tensor in state.values())
  for shard in shards:
    with safe_open(shard, 'numpy') as file:
      assert file.metadata() == {'format': 'pt'}
      for name in file.keys():  # noqa: SIM118  not a dict
        assert index['weight_map'].pop(name) == shard.name
        assert file.get_tensor(name).tobytes() == state[name].tobytes()
  assert not index['weight_map']
  _assert_holds(hf_files.open_weights(tmp_path), state)


@pytest.mark.torch
def test_transformers_loads_our_shards(tmp_path):
  pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  _shards(tmp_path)
  (tmp_path / 'config.json').write_text(json.dumps(huggingface.config_json(CONFIG)))
  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
  state = {name: value.numpy() for name, value in model.state_dict().items()}
  expected = hf_checkpoints.state(CONFIG)
  assert all(np.array_equal(state[name], expected[name]) for name in expected)


def test_one_array_at_a_time_is_held_while_writing(tmp_path):
  shapes = {f'tensor_{i}': (256, 1024) for i in range(16)}  # 1 MiB each

  def arrays():
    for number, (name, shape) in enumerate(shapes.items()):
      yield name, np.full(shape, number, np.float32)

  tracemalloc.start()
  hf_files.write_weights(tmp_path, shapes, arrays(), shard_bytes=5 * MB)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert len(list(tmp_path.glob('*.safetensors'))) == 4  # of 5 each but the last
  assert peak < 3.5 * MB


@pytest.mark.parametrize('arrays', [[('b', (2,))], [('a', (3,))], [('a', (2,)), ('b', (2,))], []])
def test_other_arrays_than_were_announced_are_refused(arrays, tmp_path):
  given = ((name, np.ones(shape, 'f4')) for name, shape in arrays)
  with pytest.raises(ValueError, match=r'expected the array a|more arrays'):
    hf_files.write_weights(tmp_path, {'a': (2,)}, given)
