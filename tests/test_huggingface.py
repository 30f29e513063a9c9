"""The network computes what Hugging Face's T5 computes, and whole checkpoints go both ways: live
where torch is installed, and always against golden files (golden/make_t5.py, golden/make_hf.py)."""

import dataclasses
import functools

import hf_checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import make_hf, make_t5
from safetensors import numpy as safetensors

from dss_jax.checkpoints import transfer
from dss_jax.checkpoints.hf import huggingface
from dss_jax.models import t5

GRADIENT = 'gradient/'


@pytest.fixture(autouse=True)
def _optimized():
  """Compiled as a user's program is, unlike the other tests (see conftest.py)."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


def _config(version: str, **changes) -> t5.T5Config:
  sizes = make_t5.SIZES
  return t5.T5Config(
    vocab_size=sizes['vocab_size'],
    emb_dim=sizes['d_model'],
    num_heads=sizes['num_heads'],
    head_dim=sizes['d_kv'],
    mlp_dim=sizes['d_ff'],
    num_encoder_layers=sizes['num_layers'],
    num_decoder_layers=make_t5.DECODER_LAYERS,
    mlp_activations=('gelu', 'linear') if version == '1_1' else ('relu',),
    logits_via_embedding=version == '1_0',
    dtype='float32',
    **changes,
  )


@functools.partial(jax.jit, static_argnums=0)
def _computed(config, params, inputs, targets):
  """The encoder's output, logits, loss and gradients of the same batch."""
  segments, weights = (inputs > 0).astype(jnp.int32), targets > 0
  shifted = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]

  def loss(params):
    network = t5.bind(config, params)
    encoded = network.encode(inputs, segments)
    logits = network.decode(encoded, segments, shifted, weights.astype(jnp.int32))
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(weights, log_p, 0.0)) / weights.sum(dtype=jnp.float32), (
      encoded,
      logits,
    )

  (value, (encoded, logits)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
  return {'encoded': encoded, 'logits': logits, 'loss': value, 'gradients': gradients}


def _assert_near(actual, expected, what: str):
  """Equal to 1e-5 of the largest expected entry."""
  scale = np.abs(expected).max()
  assert scale > 0, f'{what} is zero everywhere: the comparison would show nothing'
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * scale, err_msg=what)


def _assert_computes(version: str, reference):
  config = _config(version)
  theirs = {k.removeprefix(GRADIENT): v for k, v in reference.items() if k.startswith(GRADIENT)}
  weights = make_t5.weights({name: value.shape for name, value in theirs.items()})
  params = huggingface.params_from_state_dict(weights, config)
  computed = _computed(config, params, reference['inputs'], reference['targets'])

  real_inputs, real_targets = reference['inputs'] > 0, reference['targets'] > 0
  _assert_near(computed['encoded'][real_inputs], reference['encoded'][real_inputs], 'encoded')
  _assert_near(computed['logits'][real_targets], reference['logits'][real_targets], 'logits')
  _assert_near(computed['loss'], reference['loss'], 'loss')
  expected = huggingface.params_from_state_dict(theirs, config)
  gradients = jax.tree_util.tree_leaves_with_path(computed['gradients'])
  assert len(gradients) == len(jax.tree.leaves(expected))
  for (path, gradient), reference_gradient in zip(
    gradients, jax.tree.leaves(expected), strict=True
  ):
    _assert_near(gradient, reference_gradient, jax.tree_util.keystr(path))


@pytest.mark.parametrize('version', make_t5.VERSIONS)
def test_logits_loss_and_gradients_equal_the_golden_files(version):
  with np.load(make_t5.FOLDER / f't5_{version}.npz') as golden:
    _assert_computes(version, dict(golden))


@pytest.mark.torch
@pytest.mark.parametrize('version', make_t5.VERSIONS)
def test_logits_loss_and_gradients_equal_transformers(version):
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  _assert_computes(version, make_t5.reference(version))


@pytest.mark.torch
@pytest.mark.parametrize('version', make_t5.VERSIONS)
def test_golden_files_are_what_transformers_computes_now(version):
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  now = make_t5.reference(version)
  with np.load(make_t5.FOLDER / f't5_{version}.npz') as golden:
    assert set(golden) == set(now)
    for name in golden:
      scale = np.abs(now[name]).max()
      np.testing.assert_allclose(golden[name], now[name], rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize('version', make_t5.VERSIONS)
def test_the_table_of_names_covers_every_parameter(version):
  """Each of our weights is filled from exactly one tensor, in our shape, and no tensor is left."""
  config = _config(version)
  with np.load(make_t5.FOLDER / f't5_{version}.npz') as golden:
    names = {k.removeprefix(GRADIENT): golden[k].shape for k in golden if k.startswith(GRADIENT)}
  used = [name for leaf in huggingface.recipe(config).values() for name in leaf.names]
  assert sorted(used) == sorted(names)
  params = huggingface.params_from_state_dict(make_t5.weights(names), config)
  shapes, _ = t5.abstract(config)
  assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))


def test_a_missing_tensor_is_named():
  with pytest.raises(ValueError, match=r'missing: shared\.weight'):
    huggingface.params_from_state_dict({}, _config('1_1'))


# ---------------------------------------------------------------- whole checkpoints


def _arrays(batch):
  return {name: jnp.asarray(value) for name, value in batch.items()}


def _logits(config, params, inputs, given):
  """Logits of our network in float32; nothing is padding."""
  return _computed_logits(
    dataclasses.replace(config, dtype='float32'), transfer.unflatten(params), inputs, given
  )


@functools.partial(jax.jit, static_argnums=0)
def _computed_logits(config, params, inputs, given):
  return t5.bind(config, params)(inputs, jnp.ones_like(inputs), given, jnp.ones_like(given))


@pytest.mark.parametrize('form', make_hf.FORMS)
def test_golden_checkpoints_compute_what_they_computed_where_they_were_made(form):
  opened = huggingface.open_pretrained(str(make_hf.FOLDER / form))
  computed = _logits(opened.config, hf_checkpoints.params_of(opened), **_arrays(make_hf.batch()))
  _assert_near(computed, np.load(make_hf.FOLDER / form / 'logits.npy'), form)
  assert opened.vocabulary is None and not opened.notes


def test_a_bfloat16_checkpoint_is_cast_exactly():
  opened = huggingface.open_pretrained(str(make_hf.FOLDER / 't5_1_1_bf16'))
  rounded = {
    name: np.asarray(jnp.asarray(tensor).astype(jnp.bfloat16).astype(jnp.float32))
    for name, tensor in hf_checkpoints.state(opened.config).items()
  }
  expected = transfer.flatten(huggingface.params_from_state_dict(rounded, opened.config))
  params = hf_checkpoints.params_of(opened)
  assert {tensor.dtype for tensor in opened.tensors.values()} == {np.dtype(jnp.bfloat16)}
  assert all(params[path].dtype == np.float32 for path in expected)
  assert all(np.array_equal(params[path], expected[path]) for path in expected)


@pytest.mark.parametrize('family', hf_checkpoints.FAMILIES)
def test_every_family_comes_back_bit_for_bit(family, tmp_path):
  source = hf_checkpoints.make(tmp_path / 'theirs', family)
  opened = huggingface.open_pretrained(str(source))
  written = tmp_path / 'ours'
  written.mkdir()
  huggingface.write(written, opened.config, hf_checkpoints.params_of(opened))
  expected = safetensors.load_file(source / 'model.safetensors')
  there = safetensors.load_file(written / 'model.safetensors')
  assert set(there) == set(expected)
  assert all(there[name].tobytes() == expected[name].tobytes() for name in expected)
  assert huggingface.open_pretrained(str(written)).config == opened.config


@pytest.mark.torch
@pytest.mark.parametrize('form', ['safetensors', 'shards', 'bin'])
@pytest.mark.parametrize('family', ['T5 1.0', 'T5 1.1', 'Flan-T5', 'mT5', 'ByT5'])
def test_what_transformers_saves_computes_the_same(family, form, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  source = hf_checkpoints.make(tmp_path / 'source', family)
  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(source).eval()
  model.save_pretrained(tmp_path, max_shard_size='9KB' if form == 'shards' else '5GB')
  assert (tmp_path / 'model.safetensors').exists() == (form != 'shards')
  if form == 'bin':
    (tmp_path / 'model.safetensors').unlink()
    torch.save(model.state_dict(), tmp_path / 'pytorch_model.bin')  # with copies of the embedding
  given = {name: torch.tensor(value, dtype=torch.long) for name, value in make_hf.batch().items()}
  with torch.no_grad():
    output = model(input_ids=given['inputs'], decoder_input_ids=given['given'])
  opened = huggingface.open_pretrained(str(tmp_path))
  computed = _logits(opened.config, hf_checkpoints.params_of(opened), **_arrays(make_hf.batch()))
  _assert_near(computed, output.logits.numpy(), family)


@pytest.mark.torch
@pytest.mark.parametrize('family', ['T5 1.0', 'T5 1.1', 'ByT5'])
def test_transformers_loads_what_we_write(family, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  config = huggingface.network_of(hf_checkpoints.FAMILIES[family], family)
  tensors = hf_checkpoints.state(config)
  params = transfer.flatten(huggingface.params_from_state_dict(tensors, config))
  huggingface.write(tmp_path, config, params)
  model, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
    tmp_path, output_loading_info=True
  )
  assert not any(info.values()), info
  state = {name: value.numpy() for name, value in model.state_dict().items()}
  assert all(np.array_equal(state[name], tensors[name]) for name in tensors)
  given = {name: torch.tensor(value, dtype=torch.long) for name, value in make_hf.batch().items()}
  with torch.no_grad():
    output = model.eval()(input_ids=given['inputs'], decoder_input_ids=given['given'])
  _assert_near(_logits(config, params, **_arrays(make_hf.batch())), output.logits.numpy(), family)
  generation = model.generation_config
  assert (generation.decoder_start_token_id, generation.pad_token_id) == (0, 0)
  assert generation.eos_token_id == 1


@pytest.mark.torch
@pytest.mark.parametrize('tied', [False, True])
def test_umt5_computes_what_transformers_computes_both_ways(tied, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  settings = {**hf_checkpoints.FAMILIES['umT5'], 'tie_word_embeddings': tied}
  tensors = hf_checkpoints.state(huggingface.network_of(settings, 'umT5'))
  assert ('lm_head.weight' in tensors) != tied
  hf_checkpoints.write(tmp_path / 'theirs', settings, tensors)
  opened = huggingface.open_pretrained(str(tmp_path / 'theirs'))
  (tmp_path / 'ours').mkdir()
  params = hf_checkpoints.params_of(opened)
  huggingface.write(tmp_path / 'ours', opened.config, params)
  computed = _logits(opened.config, params, **_arrays(make_hf.batch()))
  given = {name: torch.tensor(value, dtype=torch.long) for name, value in make_hf.batch().items()}
  for name in ('theirs', 'ours'):
    model, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
      tmp_path / name, output_loading_info=True
    )
    assert type(model).__name__ == 'UMT5ForConditionalGeneration'
    assert not any(info.values()), info
    model.config.tie_word_embeddings = tied  # which version 5 takes for true, and then scales
    with torch.no_grad():
      output = model.eval()(input_ids=given['inputs'], decoder_input_ids=given['given'])
    _assert_near(computed, output.logits.numpy(), name)
  model.save_pretrained(tmp_path / 'again')
  again = hf_checkpoints.params_of(huggingface.open_pretrained(str(tmp_path / 'again')))
  assert all(np.array_equal(again[path], params[path]) for path in params)
  if not tied:
    model.config.tie_word_embeddings = True
    model.save_pretrained(tmp_path / 'lost')
    with pytest.raises(ValueError, match=r'lm_head.* and shared.*, both should be'):
      huggingface.open_pretrained(str(tmp_path / 'lost'))


def test_a_sharded_parameter_is_read_as_the_devices_hold_it(tmp_path):
  opened = huggingface.open_pretrained(str(hf_checkpoints.make(tmp_path)))
  mesh = jax.make_mesh((2,), ('model',), axis_types=(jax.sharding.AxisType.Auto,))
  whole = hf_checkpoints.params_of(opened)
  path = ('encoder_layers', 'attention', 'query')
  for axes in [(None, None, 'model'), (None, 'model'), ('model',)]:
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    like = {path: jax.ShapeDtypeStruct(whole[path].shape, np.float32, sharding=sharding)}
    part = transfer.flatten(transfer.load(opened.recipe, opened.tensors, transfer.unflatten(like)))
    assert part[path].sharding == sharding
    np.testing.assert_array_equal(part[path], whole[path])


# ---------------------------------------------------------------- copies, leftovers, misfits


def _opened_with(folder, family: str, change, settings=None):
  config = huggingface.network_of(hf_checkpoints.FAMILIES[family], family)
  tensors = hf_checkpoints.state(config)
  change(tensors)
  hf_checkpoints.write(folder, settings or hf_checkpoints.FAMILIES[family], tensors)
  return huggingface.open_pretrained(str(folder))


@pytest.mark.parametrize('without_shared', [False, True])
def test_copies_of_the_embedding_are_one_tensor(without_shared, tmp_path):
  def change(tensors):
    for name in ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight', 'lm_head.weight'):
      tensors[name] = tensors['shared.weight'].copy()
    if without_shared:
      del tensors['shared.weight']

  opened = _opened_with(tmp_path, 'T5 1.0', change)
  params = hf_checkpoints.params_of(opened)
  expected = hf_checkpoints.state(opened.config)['shared.weight']
  np.testing.assert_array_equal(params['embedding',], expected)
  assert ('logits_kernel',) not in params


@pytest.mark.parametrize('name', ['encoder.embed_tokens.weight', 'lm_head.weight'])
def test_a_copy_that_is_none_is_refused(name, tmp_path):
  def change(tensors):
    tensors[name] = tensors['shared.weight'].copy()
    tensors[name][-1, -1] += 1

  with pytest.raises(ValueError, match=f'holds {name} and shared.weight .*, both should be copies'):
    _opened_with(tmp_path, 'T5 1.0', change)


def test_logits_that_transformers_5_tied_without_scaling_are_the_embedding(tmp_path):
  settings = {
    **hf_checkpoints.FAMILIES['T5 1.1'],
    'tie_word_embeddings': True,
    'scale_decoder_outputs': False,
  }
  opened = _opened_with(tmp_path, 'T5 1.1', lambda t: t.pop('lm_head.weight'), settings)
  params = hf_checkpoints.params_of(opened)
  np.testing.assert_array_equal(params['logits_kernel',], params['embedding',].T)
  assert 'lm_head.weight is a copy' in opened.notes[0]


def test_the_leftover_of_old_files_is_told(tmp_path):
  name = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
  opened = _opened_with(tmp_path, 'T5 1.0', lambda t: t.update({name: np.ones((32, 3), 'f4')}))
  assert len(opened.notes) == 1 and name in opened.notes[0]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda t: t.pop('decoder.final_layer_norm.weight'), 'missing: decoder.final_layer_norm'),
    (lambda t: t.update(extra=np.ones(3, 'f4')), 'left over: extra'),
    (
      lambda t: t.update({'shared.weight': np.ones((41, 16), 'f4')}),
      r'of another shape: shared.weight \(41, 16\), expected \(40, 16\)',
    ),
  ],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    _opened_with(tmp_path, 'T5 1.1', change)


@pytest.mark.parametrize('family', ['T5 1.0', 'umT5'])
def test_the_family_that_would_have_fitted_is_named(family, tmp_path):
  config = huggingface.network_of(hf_checkpoints.FAMILIES[family], '')
  tensors = hf_checkpoints.state(config)
  hf_checkpoints.write(tmp_path, hf_checkpoints.FAMILIES['T5 1.1'], tensors)
  with pytest.raises(ValueError, match=rf'They are the tensors of {family}\.'):
    huggingface.open_pretrained(str(tmp_path))


# ---------------------------------------------------------------- vocabulary


def test_the_folder_is_the_vocabulary_where_it_holds_one(tmp_path):
  folder = hf_checkpoints.make(tmp_path)
  assert huggingface.open_pretrained(str(folder)).vocabulary is None
  (folder / 'spiece.model').write_bytes(b'pieces')
  assert huggingface.open_pretrained(str(folder)).vocabulary == str(folder)


def test_byt5_reads_bytes(tmp_path):
  folder = hf_checkpoints.make(tmp_path, 'ByT5')
  assert huggingface.open_pretrained(str(folder)).vocabulary == 'bytes'
