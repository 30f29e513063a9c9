"""The network computes what Hugging Face's T5 computes: live where torch is installed, and always
against golden files (made by golden/make_t5.py)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import make_t5

from dss_jax.checkpoints import huggingface
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
    return -jnp.sum(log_p * weights) / jnp.sum(weights), (encoded, logits)

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
