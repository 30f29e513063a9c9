"""T5X's layouts on disk: which checkpoint is taken, older forms of the index, and broken files."""

import os
import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
from etils import epath
from flax import serialization
from golden import make_t5x

from dss_jax.checkpoints import transfer
from dss_jax.checkpoints.t5x import t5x_files

ARRAY = np.arange(24, dtype=np.float32).reshape(6, 4)
NAME = 'target/encoder/encoder_norm/scale'
PLACE = NAME.replace('/', '.')


@pytest.fixture(scope='module')
def golden(tmp_path_factory):
  """The folder of checkpoints that T5X wrote."""
  folder = tmp_path_factory.mktemp('t5x')
  make_t5x.unpack(folder)
  return folder


@pytest.fixture
def checkpoint(tmp_path) -> pathlib.Path:
  """A checkpoint of one array in its own files and one in the index."""
  folder = tmp_path / 'model' / 'checkpoint_3'
  t5x_files.write(epath.Path(folder), [(NAME, ARRAY)], {'state/step': np.asarray(3, np.int32)})
  return folder


def _read(folder, name: str = NAME) -> np.ndarray:
  tensor = t5x_files.open_checkpoint(epath.Path(folder))[name]
  array = np.asarray(tensor.read((slice(None),) * len(tensor.shape)))
  assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
  return array


def _index(folder) -> dict:
  return serialization.msgpack_restore((folder / 'checkpoint').read_bytes())


def _write_index(folder, index: dict) -> None:
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(index))


# ---------------------------------------------------------------- which


def test_the_latest_finished_checkpoint_is_found(checkpoint):
  model = checkpoint.parent
  for name in ('checkpoint_20', 'checkpoint_100.tmp-1700000000', 'checkpoint_x', 'logs'):
    t5x_files.write(epath.Path(model / name), [], {'state/step': np.asarray(0, np.int32)})
  (model / 'checkpoint_300').mkdir()  # nothing in it yet
  found = [t5x_files.find(str(path)) for path in (model, checkpoint, checkpoint / 'checkpoint')]
  assert [os.fspath(path) for path in found] == [
    str(model / 'checkpoint_20'),
    str(checkpoint),
    str(checkpoint),
  ]


def test_where_there_is_none_none_is_found(tmp_path):
  assert t5x_files.find(str(tmp_path)) is None
  assert t5x_files.find(str(tmp_path / 'missing')) is None
  assert t5x_files.find(str(tmp_path / 'missing' / 'checkpoint')) is None


@pytest.mark.parametrize('name', make_t5x.CASES)
def test_what_t5x_wrote_is_found(golden, name):
  expected = golden / name / f'checkpoint_{make_t5x.STEP}'
  assert os.fspath(t5x_files.find(str(golden / name))) == str(expected)
  assert _read(expected, 'state/step') == make_t5x.STEP


def test_folders_of_object_stores_are_given_to_tensorstore_with_their_bucket():
  place = t5x_files._kvstore(epath.Path('gs://bucket/models/checkpoint_1'), 'a/')
  assert place == {'driver': 'gcs', 'bucket': 'bucket', 'path': 'models/checkpoint_1/a/'}


# ---------------------------------------------------------------- forms


def test_arrays_are_read_in_parts_and_written_in_parts(tmp_path, monkeypatch):
  monkeypatch.setattr(t5x_files, 'CHUNK_BYTES', 2 * ARRAY[0].nbytes)
  t5x_files.write(epath.Path(tmp_path / 'a'), [(NAME, ARRAY)], {})
  assert {'0.0', '1.0', '2.0'} < {file.name for file in (tmp_path / 'a' / PLACE).iterdir()}
  os.remove(tmp_path / 'a' / PLACE / '2.0')  # what is not asked for is not read
  tensor = t5x_files.open_checkpoint(epath.Path(tmp_path / 'a'))[NAME]
  np.testing.assert_array_equal(tensor.read((slice(1, 3), slice(2, None))), ARRAY[1:3, 2:])


def test_an_array_of_nothing_but_zeros_is_not_taken_for_a_lost_one(tmp_path):
  t5x_files.write(epath.Path(tmp_path), [(NAME, np.zeros((2, 3), np.float32))], {})
  np.testing.assert_array_equal(_read(tmp_path), np.zeros((2, 3)))


def test_an_index_without_versions_has_the_state_at_the_top(checkpoint):
  _write_index(checkpoint, _index(checkpoint)['optimizer'])
  np.testing.assert_array_equal(_read(checkpoint), ARRAY)


def test_arrays_may_all_be_in_the_index(tmp_path):
  t5x_files.write(epath.Path(tmp_path), [], {NAME: ARRAY})
  np.testing.assert_array_equal(_read(tmp_path), ARRAY)


@pytest.mark.parametrize('driver', ['file', 'gfile', 'gcs'])
@pytest.mark.parametrize('path_is_outside', [False, True])
def test_paths_are_relative_whatever_file_system_they_were_written_to(
  checkpoint, driver, path_is_outside
):
  index = _index(checkpoint)
  spec = index['optimizer']['target']['encoder']['encoder_norm']['scale']
  place = {'driver': driver, 'bucket': 't5x-dummy-bucket', 'path': spec['kvstore']['path']}
  if path_is_outside:  # tensorstore before 0.1.14
    spec['path'] = place.pop('path').rstrip('/')
  spec['kvstore'] = place
  _write_index(checkpoint, index)
  np.testing.assert_array_equal(_read(checkpoint), ARRAY)


def test_bfloat16_is_read_also_where_it_was_stored_as_uint16(tmp_path):
  half = ARRAY.astype(ml_dtypes.bfloat16)
  for version, stored in {2: half.view(np.uint16), 3: half}.items():
    folder = tmp_path / str(version)
    t5x_files.write(epath.Path(folder), [(NAME, stored)], {})
    assert _read(folder).dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(_read(folder), half)


def test_early_orbax_names_its_arrays_in_the_index(checkpoint):
  """As in T5X's testdata/tiny_orbax: PLACEHOLDER://name, and small values themselves."""
  state = checkpoint.parent / 'checkpoint_4' / 'state'
  state.mkdir(parents=True)
  (checkpoint / PLACE).rename(state / PLACE)
  scale = {'scale': f'PLACEHOLDER://{PLACE}'}
  tree = {'target': {'encoder': {'encoder_norm': scale}}, 'state': {'step': np.int32(4)}, 'm': None}
  _write_index(state, tree)
  found = t5x_files.find(str(checkpoint.parent))
  assert set(t5x_files.open_checkpoint(found)) == {NAME, 'state/step'}
  np.testing.assert_array_equal(_read(found), ARRAY)
  assert _read(found, 'state/step') == 4


@pytest.mark.parametrize('driver', ['zarr', 'zarr3'])
def test_orbax_without_one_store_has_a_folder_for_each_array(tmp_path, driver):
  state = tmp_path / 'checkpoint_1' / 'state'
  place = {'driver': 'file', 'path': f'{state}/{PLACE}/'}
  spec = {'driver': driver, 'kvstore': place, 'dtype': 'float32'}
  spec['metadata'] = {'shape': [6, 4]}
  ts.open(spec, create=True).result().write(ARRAY).result()
  (state / '_METADATA').write_text('{}')
  np.testing.assert_array_equal(_read(t5x_files.find(str(tmp_path))), ARRAY)


# ---------------------------------------------------------------- broken


def _part(folder, name: str = NAME) -> np.ndarray:
  """The array as all others read it: through a recipe."""
  tensors = t5x_files.open_checkpoint(epath.Path(folder))
  out = np.empty(tensors[name].shape, np.float32)
  leaf = transfer.Leaf((name,), tuple(range(out.ndim)))
  transfer.read(leaf, tensors, (slice(None),) * out.ndim, out)
  return out


def test_a_lost_file_is_an_error_and_not_zeros(checkpoint):
  os.remove(checkpoint / PLACE / '0.0')
  with pytest.raises(ValueError, match=rf'{NAME} cannot be read: .*{PLACE}/0.0'):
    _part(checkpoint)


def test_a_truncated_file_is_an_error(checkpoint):
  file = checkpoint / PLACE / '0.0'
  file.write_bytes(file.read_bytes()[:-7])
  with pytest.raises(ValueError, match=rf'{NAME} cannot be read: .*{PLACE}/0.0'):
    _part(checkpoint)


def test_a_lost_array_is_an_error(checkpoint):
  os.remove(checkpoint / PLACE / '.zarray')
  with pytest.raises(ValueError, match=rf'{NAME} in .*checkpoint_3 cannot be opened: .*zarray'):
    t5x_files.open_checkpoint(epath.Path(checkpoint))


@pytest.mark.parametrize('keep', [0, 1, 40, -3])
def test_a_truncated_index_is_an_error(checkpoint, keep):
  index = checkpoint / 'checkpoint'
  index.write_bytes(index.read_bytes()[:keep])
  with pytest.raises(ValueError, match=r'checkpoint_3/checkpoint is truncated or not an index'):
    t5x_files.open_checkpoint(epath.Path(checkpoint))


def test_a_tensorflow_checkpoint_is_named_as_such(checkpoint):
  (checkpoint / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-0"')
  with pytest.raises(ValueError, match='to a TensorFlow checkpoint; first convert it with T5X'):
    t5x_files.open_checkpoint(epath.Path(checkpoint))


def _orbax_copy(golden, tmp_path) -> pathlib.Path:
  copy = pathlib.Path(shutil.copytree(golden / 'orbax', tmp_path / 'orbax'))
  return copy / f'checkpoint_{make_t5x.STEP}'


def test_a_lost_or_truncated_file_of_orbax_is_an_error(golden, tmp_path):
  folder = _orbax_copy(golden, tmp_path)
  data = next((folder / 'state' / 'd').iterdir())
  whole = data.read_bytes()
  data.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match=data.name):
    _part(folder, 'target/token_embedder/embedding')
  os.remove(data)
  with pytest.raises(ValueError, match=data.name):
    _part(folder, 'target/token_embedder/embedding')


def test_a_truncated_manifest_of_orbax_is_an_error(golden, tmp_path):
  folder = _orbax_copy(golden, tmp_path)
  manifest = folder / 'state' / 'manifest.ocdbt'
  manifest.write_bytes(manifest.read_bytes()[:-9])
  with pytest.raises(ValueError, match=r'state cannot be opened: .*manifest.ocdbt'):
    t5x_files.open_checkpoint(epath.Path(folder))
