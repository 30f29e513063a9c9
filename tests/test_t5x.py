"""T5X's weights become ours and ours become T5X's, against checkpoints and logits that T5X itself
made (golden/make_t5x.py); benchmarks/t5x_parity.py does the same with T5X at hand."""

import dataclasses
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from golden import make_t5x

from dss_jax.checkpoints import transfer
from dss_jax.checkpoints.t5x import t5x, t5x_adafactor, t5x_files
from dss_jax.models import t5
from dss_jax.parallel import partitioning

KINDS = ('rows', 'columns', 'full')


@pytest.fixture(scope='module')
def golden(tmp_path_factory):
  """The folder of T5X's checkpoints, and what it computed."""
  folder = tmp_path_factory.mktemp('t5x')
  return folder, make_t5x.unpack(folder)


def _config(case: make_t5x.Case) -> t5.T5Config:
  return t5.T5Config(**make_t5x.config(case), relative_bias_per_layer=case.scanned)


def _params(opened: transfer.Pretrained) -> t5.Params:
  return transfer.read_all(opened.recipe, opened.tensors)


def _whole(folder) -> dict[str, np.ndarray]:
  """Every array of a checkpoint by its name in T5X's state."""
  tensors = t5x_files.open_checkpoint(t5x_files.find(str(folder)))
  return {n: np.asarray(t.read((slice(None),) * len(t.shape))) for n, t in tensors.items()}


def _rewrite(folder, arrays: dict[str, np.ndarray]) -> str:
  weights = {name: array for name, array in arrays.items() if name.startswith('target/')}
  rest = {name: array for name, array in arrays.items() if name not in weights}
  t5x_files.write(epath.Path(folder), weights.items(), rest)
  return str(folder)


# ---------------------------------------------------------------- in


@pytest.mark.parametrize('name', make_t5x.CASES)
def test_logits_equal_those_of_t5x(golden, name):
  folder, results = golden
  case = make_t5x.CASES[name]
  config = _config(case)
  inputs, targets_in, targets = make_t5x.batch(config.vocab_size)
  params = _params(t5x.open_pretrained(str(folder / name)))

  @jax.jit
  def compute(params, inputs, targets_in, targets):
    network = t5.bind(config, params)
    segments = (inputs > 0).astype(jnp.int32)
    encoded = network.encode(inputs, segments)
    return network.decode(encoded, segments, targets_in, (targets > 0).astype(jnp.int32))

  expected = results[f'{name}/logits']
  assert np.abs(expected).max() > 1
  computed = compute(params, inputs, targets_in, targets)[targets > 0][:, make_t5x.LOGITS]
  atol = 1e-5 * np.abs(expected).max()
  np.testing.assert_allclose(computed, expected[targets > 0], rtol=0, atol=atol)


@pytest.mark.parametrize('name', make_t5x.CASES)
def test_the_network_is_read_from_the_shapes(golden, name):
  case = make_t5x.CASES[name]
  opened = t5x.open_pretrained(str(golden[0] / name))
  assert opened.config == dataclasses.replace(_config(case), dtype='bfloat16')
  assert opened.vocabulary is None
  assert f'checkpoint_{make_t5x.STEP}' in opened.origin


@pytest.mark.parametrize('name', ['legacy', 'orbax', 'legacy_1_0'])
def test_weights_are_bit_for_bit_those_that_t5x_stored(golden, name):
  opened = t5x.open_pretrained(str(golden[0] / name))
  arrays = transfer.flatten(_params(opened))
  for theirs, part in transfer.written(opened.recipe, arrays):
    stored = make_t5x.value(theirs, part.shape)
    expected = make_t5x.rounded(stored, make_t5x.CASES[name].dtype)
    np.testing.assert_array_equal(part, expected, err_msg=theirs)


@pytest.mark.parametrize('name', ['legacy_scanned', 'orbax_scanned'])
def test_parts_of_scanned_layers_are_parts_of_the_whole(golden, name):
  opened = t5x.open_pretrained(str(golden[0] / name))
  for path, whole in transfer.flatten(_params(opened)).items():
    index = tuple(slice(size // 3, size // 3 + max(1, size // 2)) for size in whole.shape)
    part = np.empty(whole[index].shape, np.float32)
    transfer.read(opened.recipe[path], opened.tensors, index, part)
    np.testing.assert_array_equal(part, whole[index], err_msg=str(path))


@pytest.mark.parametrize('name', ['orbax', 'legacy_scanned'])
def test_every_device_reads_its_own_part(golden, name):
  opened = t5x.open_pretrained(str(golden[0] / name))
  mesh = partitioning.make_mesh(partitioning.MeshConfig(fsdp=4, tensor=2))
  shapes, axes = t5.abstract(opened.config)
  like = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    shapes,
    partitioning.shardings(mesh, shapes, axes),
  )
  loaded = transfer.load(opened.recipe, opened.tensors, like)
  jax.tree.map(np.testing.assert_array_equal, loaded, _params(opened))
  assert jax.tree.map(lambda leaf: leaf.sharding, loaded) == jax.tree.map(
    lambda leaf: leaf.sharding, like
  )


def test_scanned_kernels_are_those_of_the_layers(golden):
  """By T5X's own axes: [embed, layers, heads, kv], and [heads, layers, kv, embed] of `out`."""
  opened = t5x.open_pretrained(str(golden[0] / 'legacy_scanned'))
  params = _params(opened)['decoder_layers']['cross_attention']
  case = make_t5x.config(make_t5x.CASES['legacy_scanned'])
  embed, layers = case['emb_dim'], case['num_decoder_layers']
  heads, kv = case['num_heads'], case['head_dim']
  prefix = 'target/decoder/decoder/encoder_decoder_attention'
  query = make_t5x.value(f'{prefix}/query/kernel', (embed, layers, heads, kv))
  out = make_t5x.value(f'{prefix}/out/kernel', (heads, layers, kv, embed))
  for layer in range(layers):
    np.testing.assert_array_equal(params['query'][layer], query[:, layer].reshape(embed, -1))
    np.testing.assert_array_equal(params['out'][layer], out[:, layer].reshape(-1, embed))


def test_every_scanned_layer_has_its_own_relative_bias(golden):
  params = _params(t5x.open_pretrained(str(golden[0] / 'legacy_scanned')))
  biases = params['decoder_bias']['embedding']
  name = 'target/decoder/decoder/relpos_bias/rel_embedding'
  np.testing.assert_array_equal(biases, make_t5x.value(name, (2, 2, 32)).swapaxes(0, 1))
  assert np.abs(biases[0] - biases[1]).max() > 1


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda a: {n: v for n, v in a.items() if 'wi_1' not in n}, 'missing: target/encoder/layers_0'),
    (lambda a: a | {'target/decoder/gate': a['target/decoder/decoder_norm/scale']}, 'left over'),
    (
      lambda a: a | {'target/decoder/decoder_norm/scale': np.ones(3, np.float32)},
      r'of another shape: target/decoder/decoder_norm/scale \(3,\), expected \(16,\)',
    ),
    (
      lambda a: {n: v for n, v in a.items() if 'layers_0/mlp' not in n},
      'expected target/encoder/layers_0/mlp/wo/kernel',
    ),
    (lambda a: {n: v for n, v in a.items() if 'token' not in n}, 'expected target/token_embedder'),
  ],
)
def test_a_missing_extra_or_misshapen_tensor_is_named(golden, tmp_path, change, message):
  arrays = _whole(golden[0] / 'legacy_1_0')
  second = {n.replace('/wi/', '/wi_1/'): v for n, v in arrays.items() if '/wi/' in n}
  gated = {n.replace('/wi/', '/wi_0/'): v for n, v in arrays.items()} | second
  path = _rewrite(tmp_path / 'checkpoint_1', change(gated))
  with pytest.raises(ValueError, match=message):
    t5x.open_pretrained(path)


def test_a_folder_without_a_checkpoint_is_an_error(tmp_path):
  assert not t5x.is_checkpoint(str(tmp_path))
  with pytest.raises(ValueError, match=r'holds no finished T5X checkpoint: expected a folder'):
    t5x.open_pretrained(str(tmp_path))


# ---------------------------------------------------------------- what lies beside the weights


@pytest.fixture
def beside(golden, tmp_path):
  """A model_dir with a T5 1.0, to lay something beside."""
  shutil.copytree(golden[0] / 'legacy_1_0', tmp_path / 'model')
  return tmp_path / 'model'


GIN = """
from __gin__ import dynamic_registration
DROPOUT_RATE = 0.0
network.T5Config:
  vocab_size = 32  # a comment
  emb_dim = {emb_dim}
  dropout_rate = %DROPOUT_RATE
  mlp_activations = {activations}
utils.SaveCheckpointConfig:
  emb_dim = 5
"""


def test_a_config_gin_that_agrees_is_taken(beside):
  (beside / 'config.gin').write_text(GIN.format(emb_dim=16, activations="('relu',)"))
  assert t5x.open_pretrained(str(beside)).config.emb_dim == 16


@pytest.mark.parametrize(
  'text, message',
  [
    (GIN.format(emb_dim=17, activations="('relu',)"), 'T5Config.emb_dim = 17, but .* have 16'),
    ('minimal/network.T5Config.head_dim = 7\n', 'T5Config.head_dim = 7, but the weights have 6'),
    (GIN.format(emb_dim=16, activations="('gelu', 'linear')"), 'mlp_activations .*, but the weigh'),
    (GIN.format(emb_dim=16, activations="('silu',)"), r"not \('silu',\)"),
  ],
)
def test_a_config_gin_that_disagrees_is_an_error(beside, text, message):
  folder = beside / f'checkpoint_{make_t5x.STEP}'
  (folder / 'config.gin').write_text(text)
  with pytest.raises(ValueError, match=message):
    t5x.open_pretrained(str(folder))


def test_model_info_is_compared(beside):
  count = sum(
    np.prod(tensor.shape)
    for name, tensor in t5x.open_pretrained(str(beside)).tensors.items()
    if name.startswith('target/')
  )
  info = beside / 'model-info.txt'
  info.write_text(f'Variable ...\nTotal number of parameters: {count}\n')
  t5x.open_pretrained(str(beside))
  info.write_text('Total number of parameters: 7\n')
  with pytest.raises(ValueError, match=f'says 7 parameters, but the checkpoint has {count}'):
    t5x.open_pretrained(str(beside))


def test_a_vocabulary_beside_the_checkpoint_comes_along(beside):
  (beside / 'spiece.model').write_bytes(b'pieces')
  assert t5x.open_pretrained(str(beside)).vocabulary == str(beside / 'spiece.model')


# ---------------------------------------------------------------- out


def _written(folder, opened, moments=None) -> transfer.Pretrained:
  params = transfer.flatten(_params(opened))
  t5x.write(str(folder), opened.config, params, step=7, moments=moments)
  return t5x.open_pretrained(str(folder))


@pytest.mark.parametrize('name', make_t5x.CASES)
def test_what_is_written_is_read_back_bit_for_bit(golden, tmp_path, name):
  opened = t5x.open_pretrained(str(golden[0] / name))
  again = _written(tmp_path / 'checkpoint_7', opened)
  assert again.config == opened.config
  assert (again.moments is None) == (name == 'orbax_scanned')
  assert again.moments is None or again.moments.step == 7
  before, after = transfer.flatten(_params(opened)), transfer.flatten(_params(again))
  assert before.keys() == after.keys()
  for path, array in before.items():
    np.testing.assert_array_equal(after[path], array, err_msg=str(path))


@pytest.mark.parametrize('name', ['legacy', 'legacy_scanned'])
def test_weights_and_adafactors_state_come_back_as_t5x_wrote_them(golden, tmp_path, name):
  """Every array of T5X's state, by its name, bit for bit."""
  opened = t5x.open_pretrained(str(golden[0] / name))
  parts = {k: transfer.read_all(getattr(opened.moments, k), opened.tensors) for k in KINDS}
  assert all(parts.values())
  _written(tmp_path / 'checkpoint_7', opened, {'step': opened.moments.step, **parts})
  theirs, ours = _whole(golden[0] / name), _whole(tmp_path)
  assert ours.keys() == theirs.keys()
  for array_name, array in theirs.items():
    assert ours[array_name].dtype == array.dtype
    np.testing.assert_array_equal(ours[array_name], array, err_msg=array_name)


@pytest.mark.parametrize('name', ['legacy', 'legacy_scanned'])
def test_a_fresh_state_has_the_names_shapes_and_types_of_t5x(golden, tmp_path, name):
  _written(tmp_path / 'checkpoint_7', t5x.open_pretrained(str(golden[0] / name)))
  theirs, ours = _whole(golden[0] / name), _whole(tmp_path)
  described = [{n: (a.shape, a.dtype) for n, a in arrays.items()} for arrays in (ours, theirs)]
  assert described[0] == described[1]


def test_a_fresh_state_of_scanned_layers_is_factored_at_any_size(golden, tmp_path):
  _written(tmp_path / 'checkpoint_7', t5x.open_pretrained(str(golden[0] / 'orbax_scanned')))
  state = 'state/param_states/decoder/decoder/encoder_decoder_attention/out/kernel'
  shapes = {n.removeprefix(f'{state}/'): array.shape for n, array in _whole(tmp_path).items()}
  assert [shapes[kind] for kind in ('v_row', 'v_col', 'v', 'm')] == [(2, 16), (2, 2, 6), (1,), (1,)]


@pytest.mark.parametrize('name', ['legacy', 'legacy_scanned'])
def test_moments_are_those_of_the_layers_and_axes(golden, name):
  """Of a layer's kernel [128, 160] the rows are the means of its 128 inputs."""
  opened = t5x.open_pretrained(str(golden[0] / name))
  rows = transfer.read_all(opened.moments.rows, opened.tensors)
  columns = transfer.read_all(opened.moments.columns, opened.tensors)
  states = 'state/param_states/decoder'
  for layer in range(2):
    wi, wo = (columns['decoder_layers']['mlp'][part][layer] for part in ('wi_0', 'wo'))
    if name == 'legacy':
      path = f'{states}/layers_{layer}/mlp'
      expected = [make_t5x.value(f'{path}/{p}/kernel/v_col', (160,)) for p in ('wi_0', 'wo')]
    else:
      path = f'{states}/decoder/mlp'
      expected = [
        make_t5x.value(f'{path}/wi_0/kernel/v_col', (2, 160))[layer],
        make_t5x.value(f'{path}/wo/kernel/v_col', (160, 2))[:, layer],
      ]
      place = f'{states}/decoder/self_attention'
      out = make_t5x.value(f'{place}/out/kernel/v_col', (2, 2, 72))[:, layer].reshape(144)
      key = make_t5x.value(f'{place}/key/kernel/v_row', (128, 2))[:, layer]
      attention = columns['decoder_layers']['self_attention']['out'][layer]
      np.testing.assert_array_equal(attention, out)
      np.testing.assert_array_equal(rows['decoder_layers']['self_attention']['key'][layer], key)
    np.testing.assert_array_equal(wi, expected[0])
    np.testing.assert_array_equal(wo, expected[1])


@pytest.mark.parametrize('heads, swapped', [(1, ['key', 'out']), (2, ['out']), (3, [])])
def test_rows_of_scanned_layers_are_along_the_shorter_axis_as_in_optax(heads, swapped):
  """T5X's v_row is along `embed`, here 256; optax's rows along the first of two as long."""
  config = t5.T5Config(
    vocab_size=256, emb_dim=256, num_heads=heads, head_dim=128, mlp_dim=300,
    num_encoder_layers=1, num_decoder_layers=1, relative_bias_per_layer=True,
  )  # fmt: skip
  where = t5x_adafactor._places(config, t5x.recipe(config), 0)
  for part in ('key', 'out'):
    path = ('decoder_layers', 'cross_attention', part)
    for recipe, kind in ((where.rows, 'v_row'), (where.columns, 'v_col')):
      other = {'v_row': 'v_col', 'v_col': 'v_row'}[kind] if part in swapped else kind
      assert recipe[path].names[0].endswith(f'{part}/kernel/{other}')


# ---------------------------------------------------------------- a state that is not taken


def test_the_state_of_small_scanned_layers_is_left_out_and_said_so(golden, tmp_path):
  """T5X factors it and optax does not."""
  opened = _written(tmp_path, t5x.open_pretrained(str(golden[0] / 'orbax_scanned')))
  assert opened.moments is None
  assert 'optimizer state is left out: T5X factors scanned layers' in opened.notes[0]


def test_a_checkpoint_without_a_state_has_none(golden):
  opened = t5x.open_pretrained(str(golden[0] / 'legacy_1_0'))
  assert opened.moments is None
  assert opened.notes == ()


@pytest.mark.parametrize(
  'kind, shape, message, step',
  [
    ('v', 1, r'encoder_norm/scale/v \(128,\) for Adafactor, not \(1,\)', None),
    ('m', 128, 'the momentum of its optimizer is left out', 7),
  ],
)
def test_a_state_of_another_optimizer_is_left_out_and_said_so(
  golden, tmp_path, kind, shape, message, step
):
  _written(tmp_path / 'checkpoint_7', t5x.open_pretrained(str(golden[0] / 'legacy')))
  arrays = _whole(tmp_path / 'checkpoint_7')
  arrays[f'state/param_states/encoder/encoder_norm/scale/{kind}'] = np.zeros(shape, np.float32)
  _rewrite(tmp_path / 'checkpoint_8', arrays)
  opened = t5x.open_pretrained(str(tmp_path))
  assert (opened.moments and opened.moments.step) == step
  assert re.search(message, opened.notes[0])


def test_a_state_that_is_not_adafactors_is_left_out_and_said_so(golden, tmp_path):
  arrays = _whole(golden[0] / 'legacy_1_0') | {'state/0/mu/x': np.zeros(3, np.float32)}
  opened = t5x.open_pretrained(_rewrite(tmp_path / 'checkpoint_8', arrays))
  assert opened.moments is None
  assert "it has state/0/mu/x, so it is not Adafactor's" in opened.notes[0]
