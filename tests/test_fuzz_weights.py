"""Any bytes in place of weights, their settings or their vocabulary: weights, or one sentence."""

import functools
import json
import pathlib
import shutil
import tempfile

import fuzzing
import hf_checkpoints
import msgpack
import numpy as np
import pytest
from etils import epath
from hypothesis import strategies as st

from dss_jax.checkpoints import transfer
from dss_jax.checkpoints.hf import added_tokens, flax_msgpack, hf_config, hf_files, huggingface
from dss_jax.checkpoints.t5x import t5x, t5x_files
from dss_jax.datasets import embedded_arithmetic
from dss_jax.models.t5 import T5Config
from dss_jax.tasks import vocabulary

SETTINGS = hf_checkpoints.FAMILIES['T5 1.1']
TENSORS = {
  'shared.weight': np.arange(12, dtype=np.float32).reshape(3, 4),
  'final_layer_norm.weight': np.ones(2, 'f4'),
}
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, 2, 4, 8, 1 << 31, 1 << 63, 1e400])
JSON = st.recursive(
  st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
  lambda value: (
    st.lists(value, max_size=4) | st.dictionaries(st.text(max_size=8), value, max_size=4)
  ),
  max_leaves=12,
)
SPLICES = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 8), st.binary(max_size=8)),
                   min_size=1, max_size=4)  # fmt: skip


def spliced(content: bytes, splices) -> bytes:
  """The content with some bytes cut out and others put in, at places within it."""
  for at, cut, put in splices:
    at %= len(content) + 1
    content = content[:at] + put + content[at + cut :]
  return content


@functools.cache
def written(form: str) -> bytes:
  """A valid file of weights in a format."""
  with tempfile.TemporaryDirectory() as folder:
    hf_checkpoints.write(pathlib.Path(folder), SETTINGS, TENSORS, form)
    names = {'safetensors': '*.safetensors', 'msgpack': '*.msgpack', 'bin': '*.bin'}
    return next(pathlib.Path(folder).glob(names[form])).read_bytes()


def has_its_shape(tensor) -> bool:
  """Whether a tensor reads as it says; a file of some kB cannot hold a large one."""
  if np.prod(tensor.shape, dtype=float) >= 1e6:
    return True
  return tensor.read((slice(None),) * len(tensor.shape)).shape == tensor.shape


def opens(open_file, content: bytes, name: str) -> bool:
  """Whether a file is refused, or all tensors in it are what it says."""
  with fuzzing.file_of(content, name) as path:
    return bool(fuzzing.outcome(lambda: all(map(has_its_shape, open_file(path).values()))))


def folder_reader(path: pathlib.Path):
  return hf_files.open_weights(path.parent)


# ---------------------------------------------------------------- files of weights


@fuzzing.fuzz(SPLICES)
def test_a_damaged_safetensors(splices):
  assert opens(folder_reader, spliced(written('safetensors'), splices), hf_files.SAFETENSORS)


@fuzzing.fuzz(
  st.dictionaries(
    st.text(max_size=8),
    JSON
    | st.fixed_dictionaries(
      {
        'dtype': st.sampled_from(['F32', 'F16', 'BF16', 'F64', 'I8', 'F8_E4M3', 'X']),
        'shape': st.lists(NUMBERS, max_size=5),
        'data_offsets': st.lists(NUMBERS, max_size=3),
      }
    ),
    max_size=4,
  ),
  st.binary(max_size=40),
)
def test_any_header_of_safetensors(header, data):
  text = json.dumps(header).encode()
  assert opens(folder_reader, len(text).to_bytes(8, 'little') + text + data, hf_files.SAFETENSORS)


@fuzzing.fuzz(SPLICES)
def test_a_damaged_msgpack(splices):
  assert opens(folder_reader, spliced(written('msgpack'), splices), hf_files.MSGPACK)


@fuzzing.fuzz(
  st.binary(max_size=60)
  | st.recursive(
    st.none() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=5) | st.binary(max_size=9)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    lambda value: st.lists(value, max_size=4)
    | st.dictionaries(
      st.sampled_from(['a', '__msgpack_chunked_array__', 'shape', 'chunks', '0', '1']), value
    ),
  ).map(msgpack.packb)
)  # fmt: skip
def test_any_msgpack(content):
  assert opens(flax_msgpack.open_arrays, content, 'file')
  assert opens(
    lambda path: t5x_files.open_checkpoint(epath.Path(path.parent)), content, t5x_files.INDEX
  )


@fuzzing.fuzz(SPLICES)
def test_a_damaged_bin(splices):
  pytest.importorskip('torch')
  assert opens(folder_reader, spliced(written('bin'), splices), hf_files.BIN)


@fuzzing.fuzz(JSON | st.dictionaries(st.just('weight_map'), JSON, min_size=1))
def test_any_index_of_shards(content):
  text = json.dumps(content).encode()
  assert opens(folder_reader, text, f'{hf_files.SAFETENSORS}{hf_files.INDEX}')


# ---------------------------------------------------------------- settings and vocabularies


@fuzzing.fuzz(st.dictionaries(st.sampled_from([*SETTINGS, 'tie_word_embeddings', 'pruned_heads',
                                               'scale_decoder_outputs', 'transformers_version']),
                              JSON, max_size=4))  # fmt: skip
def test_any_settings_of_hugging_face(changes):
  def check():
    network = hf_config.network_of({**SETTINGS, **changes}, 'it')
    transfer.check('it', network, huggingface.recipe, {})

  assert isinstance(fuzzing.outcome(check), fuzzing.Refused), 'its tensors are missing'


@fuzzing.fuzz(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_config_json(content):
  with fuzzing.file_of(content, hf_config.CONFIG) as path:
    network = fuzzing.outcome(lambda: hf_config.network_of(hf_config.read_json(path), 'it'))
  assert isinstance(network, T5Config | fuzzing.Refused)


@fuzzing.fuzz(
  st.sampled_from(added_tokens.FILES),
  JSON
  | st.dictionaries(
    st.sampled_from(
      ['added_tokens', 'added_tokens_decoder', 'additional_special_tokens', 'a_token']
    ),
    JSON,
  ),
)
def test_any_tokenizer_file(name, content):
  with fuzzing.file_of(json.dumps(content).encode(), name) as path, fuzzing.may_refuse():
    notes = added_tokens.note(path.parent, 'bytes')
    assert ''.join(notes).isprintable()


@functools.cache
def sentencepiece_model() -> bytes:
  return pathlib.Path(embedded_arithmetic.VOCABULARY_PATH).read_bytes()


@fuzzing.fuzz(SPLICES | st.binary(max_size=60))
def test_any_vocabulary(change):
  damaged = change if isinstance(change, bytes) else spliced(sentencepiece_model(), change)
  with fuzzing.file_of(damaged, 'spiece.model') as path:
    ids = fuzzing.outcome(lambda: vocabulary.load_vocabulary(str(path)).encode('3 apples'))
  assert isinstance(ids, fuzzing.Refused) or all(isinstance(number, int) for number in ids)


# ---------------------------------------------------------------- T5X


@functools.cache
def t5x_checkpoint() -> pathlib.Path:
  """A valid checkpoint, for the whole session."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='fuzz-t5x-'))
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  t5x_files.write(epath.Path(folder / 'checkpoint_1'), [('target/a', array)], {'state/step': array})
  return folder / 'checkpoint_1'


@pytest.fixture(scope='module', autouse=True)
def removed():
  yield
  if t5x_checkpoint.cache_info().currsize:
    shutil.rmtree(t5x_checkpoint().parent)


def opens_t5x(name: str, content: bytes) -> bool:
  """Whether a checkpoint with this file is refused, or read as it says."""
  with tempfile.TemporaryDirectory() as folder:
    copy = shutil.copytree(t5x_checkpoint(), pathlib.Path(folder) / 'checkpoint_1')
    (copy / name).write_bytes(content)
    read = fuzzing.outcome(lambda: all(map(is_transferred, opened(copy).items())))
    network = fuzzing.outcome(lambda: t5x.open_pretrained(str(copy)))
  return bool(read) and isinstance(network, fuzzing.Refused)  # it has none of a network's tensors


def opened(folder):
  return t5x_files.open_checkpoint(epath.Path(folder))


def is_transferred(named) -> bool:
  """Whether a small tensor arrives in its shape."""
  name, tensor = named
  if np.prod(tensor.shape, dtype=float) > 1e6:
    return True
  leaf = transfer.Leaf((name,), tuple(range(len(tensor.shape))))
  return transfer.read_all({('a',): leaf}, {name: tensor})['a'].shape == tensor.shape


@fuzzing.fuzz(SPLICES, st.sampled_from([t5x_files.INDEX, 'target.a/.zarray', 'target.a/0.0']))
def test_a_damaged_t5x_checkpoint(splices, name):
  assert opens_t5x(name, spliced((t5x_checkpoint() / name).read_bytes(), splices))


@fuzzing.fuzz(
  st.dictionaries(
    st.sampled_from(
      ['shape', 'chunks', 'dtype', 'compressor', 'order', 'filters', 'fill_value', 'zarr_format']
    ),
    JSON | st.sampled_from(['|O', '<f8', '|S9', '<f2', 'bfloat16', '>f4', '<u2', '|b1', '<c8'])
    | st.lists(st.integers(0, 1 << 62), min_size=2, max_size=2),
  )
)  # fmt: skip
def test_any_metadata_of_zarr(changes):
  metadata = json.loads((t5x_checkpoint() / 'target.a' / '.zarray').read_bytes())
  assert opens_t5x('target.a/.zarray', json.dumps({**metadata, **changes}).encode())


VALUES = st.text(alphabet='([{,"1e-}])\\x \'', max_size=40)


@fuzzing.fuzz(
  st.text(max_size=80) | st.builds(' T5Config.{} = {}'.format, st.text(max_size=9), VALUES)
)
def test_any_gin_beside_a_checkpoint(text):
  assert isinstance(fuzzing.outcome(lambda: t5x._settings(text)), dict)
