"""Properties of the whole network: the same numbers however it is run, packed, cached or split."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dss_jax.models import decoder, t5
from dss_jax.parallel import devices, partitioning

# ---------------------------------------------------------------- parameters


def test_parameters_are_float32_in_the_abstract_shapes(tiny_config, tiny_params):
  for dtype in ('float32', 'bfloat16'):
    shapes, _ = t5.abstract(dataclasses.replace(tiny_config, dtype=dtype))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), tiny_params) == jax.tree.map(
      lambda a: (a.shape, a.dtype), shapes
    )
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))


def test_parameters_depend_on_the_key_and_differ_between_layers(tiny_config, tiny_params):
  init = jax.jit(t5.init, static_argnums=0)
  again, other = init(tiny_config, jax.random.key(0)), init(tiny_config, jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, again, tiny_params)
  assert not np.array_equal(other['embedding'], tiny_params['embedding'])
  query = tiny_params['encoder_layers']['attention']['query']
  assert not np.array_equal(query[0], query[1])


def test_every_parameter_has_a_gradient(tiny_config, tiny_params):
  _, gradients = networks.loss_and_gradients(tiny_config, tiny_params, networks.batch())
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)
    assert gradient.dtype == jnp.float32


@pytest.mark.parametrize(
  'field, value',
  [
    ('mlp_activations', ('swish',)),
    ('remat_policy', 'some'),
    ('dtype', 'float16'),
    ('dropout_rate', 1.0),
    ('dropout_rate', -0.1),
  ],
)
def test_a_wrong_config_names_the_field_and_the_value(tiny_config, field, value):
  with pytest.raises(ValueError, match=field) as error:
    dataclasses.replace(tiny_config, **{field: value})
  assert str(value) in str(error.value)


# ---------------------------------------------------------------- scan and remat


@pytest.fixture(scope='module')
def scanned(tiny_config, tiny_params):
  """Loss and gradients with dropout, layers scanned and nothing recomputed."""
  return networks.loss_and_gradients(
    tiny_config, tiny_params, networks.batch(), networks.row_keys(4)
  )


@pytest.mark.parametrize(
  'changes',
  [
    {'scan_layers': False},
    {'scan_layers': False, 'remat_policy': 'minimal'},
    {'remat_policy': 'minimal'},
    {'remat_policy': 'full'},
    {'scan_layers': 'auto', 'remat_policy': 'auto'},
  ],
  ids=str,
)
def test_unrolling_and_recomputing_change_no_numbers(tiny_config, tiny_params, scanned, changes):
  config = dataclasses.replace(tiny_config, **changes)
  actual = networks.loss_and_gradients(config, tiny_params, networks.batch(), networks.row_keys(4))
  networks.assert_trees_near(actual, scanned, 1e-5)


def test_remat_policies_keep_less_for_the_backward_pass(tiny_config, tiny_params):
  """Counted as the bytes of the residuals between the forward and the backward pass."""

  def kept(policy: str) -> int:
    config = dataclasses.replace(tiny_config, remat_policy=policy)

    def residuals(params):
      return jax.vjp(lambda params: t5.bind(config, params)(*networks.batch()), params)[1]

    leaves = jax.tree.leaves(jax.eval_shape(residuals, tiny_params))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

  assert kept('full') < kept('minimal') < kept('none')


@pytest.mark.parametrize('policy', ['minimal', 'full'])
def test_the_stacks_keep_no_activations_of_the_same_shape(
  tiny_config, tiny_params, policy, monkeypatch
):
  """XLA for TPUs would fill such arrays with zeros: 10 of 85 ms of an update of Base, scanned."""
  monkeypatch.setattr(devices, 'flattens_matmul', lambda: False)  # as on TPUs
  config = dataclasses.replace(tiny_config, remat_policy=policy)
  apply = lambda params: t5.bind(config, params)(*networks.batch())  # noqa: E731
  jaxpr = jax.make_jaxpr(lambda params: jax.vjp(apply, params))(tiny_params)
  encoder, decoder = (
    {out.aval.shape for out in one.outvars[one.params['num_carry'] :] if out.aval.ndim > 3}
    for one in jaxpr.eqns if one.primitive.name == 'scan'
  )  # fmt: skip
  assert encoder and decoder
  assert not encoder & decoder


# ---------------------------------------------------------------- padding and packing


def test_padding_changes_no_logits(tiny_config, tiny_params):
  inputs, input_segments, shifted, segments = networks.batch()
  wider = [np.pad(a, ((0, 0), (0, 5))) for a in (inputs, input_segments, shifted, segments)]
  logits = networks.logits(tiny_config, tiny_params, inputs, input_segments, shifted, segments)
  padded = networks.logits(tiny_config, tiny_params, *wider)[:, : shifted.shape[1]]
  real = segments > 0
  np.testing.assert_allclose(padded[real], logits[real], atol=1e-5)


def _pack(rows: list[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
  """One row of tokens that follow each other, and which segment each belongs to, from 1."""
  tokens = np.concatenate(rows)
  segments = np.concatenate([np.full(len(row), i + 1) for i, row in enumerate(rows)])
  pad = (0, width - len(tokens))
  return np.pad(tokens, pad)[None].astype(np.int32), np.pad(segments, pad)[None].astype(np.int32)


def _packed(inputs: list[np.ndarray], targets: list[np.ndarray]):
  shifted = [np.concatenate([[0], row[:-1]]) for row in targets]
  return (*_pack(inputs, 24), *_pack(shifted, 18))


def test_packed_rows_equal_the_same_sequences_alone(tiny_config, tiny_params):
  inputs = [networks.tokens(i, n)[0] for i, n in enumerate((9, 4, 6))]
  targets = [networks.tokens(10 + i, n)[0] for i, n in enumerate((5, 7, 2))]
  packed = _packed(inputs, targets)
  logits = networks.logits(tiny_config, tiny_params, *packed)[0]
  alone_inputs, alone_targets = np.zeros((3, 9), np.int32), np.zeros((3, 7), np.int32)
  for i in range(3):
    alone_inputs[i, : len(inputs[i])], alone_targets[i, : len(targets[i])] = inputs[i], targets[i]
  alone = networks.logits(
    tiny_config,
    tiny_params,
    alone_inputs,
    (alone_inputs > 0).astype(np.int32),
    networks.shifted(alone_targets),
    (alone_targets > 0).astype(np.int32),
  )
  for i in range(3):
    np.testing.assert_allclose(
      logits[packed[3][0] == i + 1], alone[i, : len(targets[i])], atol=1e-5, err_msg=f'segment {i}'
    )


@pytest.mark.parametrize('changed', ['inputs', 'targets'])
def test_nothing_leaks_between_packed_sequences(tiny_config, tiny_params, changed):
  inputs = [networks.tokens(i, 7)[0] for i in range(3)]
  targets = [networks.tokens(10 + i, 5)[0] for i in range(3)]
  before = _packed(inputs, targets)
  {'inputs': inputs, 'targets': targets}[changed][1] = networks.tokens(
    99, 7 if changed == 'inputs' else 5
  )[0]
  after = _packed(inputs, targets)
  segments = before[3][0]
  one, other = (
    np.asarray(networks.logits(tiny_config, tiny_params, *b)[0]) for b in (before, after)
  )
  np.testing.assert_array_equal(
    one[(segments > 0) & (segments != 2)], other[(segments > 0) & (segments != 2)]
  )
  assert np.abs(one[segments == 2] - other[segments == 2]).max() > 1e-3


def test_a_target_position_does_not_see_later_ones(tiny_config, tiny_params):
  inputs, input_segments, shifted, segments = networks.batch()
  changed = shifted.at[:, 4:].set(jnp.where(shifted[:, 4:] > 0, 5, 0))
  one = networks.logits(tiny_config, tiny_params, inputs, input_segments, shifted, segments)
  other = networks.logits(tiny_config, tiny_params, inputs, input_segments, changed, segments)
  np.testing.assert_array_equal(one[:, :4], other[:, :4])
  assert np.abs(one[0, 4:] - other[0, 4:]).max() > 1e-3


# ---------------------------------------------------------------- decoding with a cache


@functools.partial(jax.jit, static_argnums=(0, 5))
def _decoded(config, params, inputs, segments, tokens, beams):
  """Logits [rows, steps, vocab] of feeding `tokens` [rows, steps] one by one through the cache."""
  network = t5.bind(config, params)
  decode = decoder.prepare(network)
  cache = decode.init_cache(network.encode(inputs, segments), segments > 0, tokens.shape[1], beams)

  def step(cache, column):
    logits, cache = decode.step(column, cache)
    return cache, logits

  _, logits = jax.lax.scan(step, cache, tokens.T)
  return logits.transpose(1, 0, 2)


@pytest.mark.parametrize('unrolled', [False, True])
@pytest.mark.parametrize(
  'beams, tied, own_biases', [(1, True, False), (3, False, False), (2, False, True)]
)
def test_cached_decoding_equals_teacher_forcing_at_every_step(
  tiny_config, beams, tied, own_biases, unrolled
):
  config = dataclasses.replace(
    tiny_config,
    mlp_activations=('relu',) if tied else ('gelu', 'linear'),
    logits_via_embedding=tied,
    num_decoder_layers=3,
    relative_bias_per_layer=own_biases,
  )
  params = networks.params(config, 3)
  inputs = networks.tokens(0, 12, 7)
  segments = (inputs > 0).astype(np.int32)
  # Longer than the exact buckets (16), and other tokens in every beam of one input.
  tokens = networks.shifted(networks.tokens(1, *[21] * (2 * beams)))
  # The devices of a mesh are known; decoding for CPUs has its layers unrolled.
  mesh = partitioning.make_mesh(partitioning.MeshConfig(1, 1, 1), jax.devices()[:1])
  with jax.set_mesh(mesh) if unrolled else contextlib.nullcontext():
    stepwise = _decoded(config, params, inputs, segments, tokens, beams)
  at_once = networks.logits(
    config,
    params,
    np.repeat(inputs, beams, axis=0),
    np.repeat(segments, beams, axis=0),
    tokens,
    np.ones_like(tokens),
  )
  np.testing.assert_allclose(stepwise, at_once, atol=2e-5 * np.abs(at_once).max())


def test_the_cache_counts_its_tokens_and_keeps_the_encoder_once(tiny_config, tiny_params):

  @jax.jit
  def empty_and_after_one_step(params):
    decode = decoder.prepare(t5.bind(tiny_config, params))
    cache = decode.init_cache(jnp.ones((2, 7, 16)), jnp.ones((2, 7), bool), length=5, beams=3)
    return cache, *decode.step(jnp.zeros(6, jnp.int32), cache)

  cache, logits, after = empty_and_after_one_step(tiny_params)
  for kv in (*cache.self_kv, *after.self_kv):
    assert kv.shape == (2, 6, 2, 8, 5)
  for kv in cache.cross_kv:
    assert kv.shape == (2, 2, 2, 8, 7)
  assert logits.shape == (6, networks.VOCAB) and logits.dtype == jnp.float32
  assert cache.position == 0 and after.position == 1
  for kv in after.self_kv:
    assert (kv[..., 0] != 0).any() and (kv[..., 1:] == 0).all()


# ---------------------------------------------------------------- bfloat16


def test_bfloat16_stays_near_float32_and_its_logits_are_float32(tiny_config, tiny_params):
  config = dataclasses.replace(tiny_config, dtype='bfloat16')
  exact, rounded = (
    networks.logits(c, tiny_params, *networks.batch()) for c in (tiny_config, config)
  )
  assert exact.dtype == rounded.dtype == jnp.float32
  real = networks.batch()[3] > 0
  difference = np.abs(np.asarray(rounded - exact))[real]
  assert 0 < difference.max() < 0.05 * np.abs(exact).max()
  encode = jax.eval_shape(lambda p: t5.bind(config, p).encode(*networks.batch()[:2]), tiny_params)
  assert encode.dtype == jnp.bfloat16


def test_bfloat16_gradients_are_float32_and_near(tiny_config, tiny_params):
  config = dataclasses.replace(tiny_config, dtype='bfloat16')
  loss, gradients = networks.loss_and_gradients(config, tiny_params, networks.batch())
  _, exact = networks.loss_and_gradients(tiny_config, tiny_params, networks.batch())
  assert loss.dtype == jnp.float32
  assert all(gradient.dtype == jnp.float32 for gradient in jax.tree.leaves(gradients))
  norm = lambda tree: np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))  # noqa: E731
  assert 0 < norm(jax.tree.map(jnp.subtract, gradients, exact)) < 0.05 * norm(exact)


def test_bfloat16_decoding_equals_its_own_teacher_forcing(tiny_config, tiny_params):
  config = dataclasses.replace(tiny_config, dtype='bfloat16')
  inputs, tokens = networks.tokens(0, 12, 7), networks.shifted(networks.tokens(1, 9, 9))
  segments = (inputs > 0).astype(np.int32)
  stepwise = _decoded(config, tiny_params, inputs, segments, tokens, 1)
  at_once = networks.logits(config, tiny_params, inputs, segments, tokens, np.ones_like(tokens))
  np.testing.assert_allclose(stepwise, at_once, atol=0.03 * np.abs(at_once).max())
