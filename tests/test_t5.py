"""Properties of the whole network: the same numbers however it is run, packed, cached or split."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax.models import t5

VOCAB = 64


def _tokens(seed: int, *lengths: int, width: int | None = None) -> np.ndarray:
  """Random tokens 2..63, one row for each length, padded with 0 to `width`."""
  random = np.random.default_rng(seed)
  rows = np.zeros((len(lengths), width or max(lengths)), np.int32)
  for row, length in zip(rows, lengths, strict=True):
    row[:length] = random.integers(2, VOCAB, length)
  return rows


def _shifted(targets):
  return np.pad(targets, ((0, 0), (1, 0)))[:, :-1]


def _batch(seed: int = 0) -> tuple[jax.Array, ...]:
  """Arguments of the network: inputs, segments, targets shifted right, segments."""
  inputs, targets = _tokens(seed, 12, 7, 3, 9), _tokens(seed + 1, 6, 8, 2, 5)
  batch = inputs, (inputs > 0), _shifted(targets), (targets > 0)
  return tuple(jnp.asarray(array, jnp.int32) for array in batch)


def _params(config: t5.T5Config, seed: int) -> t5.Params:
  """Parameters drawn by numpy, which is faster than compiling `t5.init` for one more config."""
  random = np.random.default_rng(seed)

  def draw(shape):
    noise = random.normal(size=shape.shape, scale=shape.shape[-2] ** -0.5)
    return jnp.asarray(noise, jnp.float32)

  is_norm = lambda path: 'norm' in jax.tree_util.keystr(path)  # noqa: E731
  return jax.tree_util.tree_map_with_path(
    lambda path, shape: jnp.ones(shape.shape) if is_norm(path) else draw(shape),
    t5.abstract(config)[0],
  )


@functools.partial(jax.jit, static_argnums=0)
def _logits(config, params, *batch):
  return t5.bind(config, params)(*batch)


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_gradients(config, params, batch, row_keys=None):
  """A loss in which every real target position counts differently."""

  def loss(params):
    logits = t5.bind(config, params)(*batch, row_keys)
    weights = (batch[3] > 0) * jnp.arange(1, batch[3].shape[1] + 1)
    return jnp.sum(jnp.sin(logits).mean(-1) * weights)

  return jax.value_and_grad(loss)(params)


def _assert_trees_near(actual, expected, tolerance: float):
  for (path, leaf), other in zip(
    jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
  ):
    scale = np.abs(other).max()
    np.testing.assert_allclose(
      leaf, other, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path)
    )


def _row_keys(batch: int, seed: int = 0):
  return jax.random.split(jax.random.key(seed), batch)


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
  _, gradients = _loss_and_gradients(tiny_config, tiny_params, _batch())
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
  return _loss_and_gradients(tiny_config, tiny_params, _batch(), _row_keys(4))


@pytest.mark.parametrize(
  'changes',
  [
    {'scan_layers': False},
    {'remat_policy': 'minimal'},
    {'remat_policy': 'full'},
  ],
  ids=str,
)
def test_unrolling_and_recomputing_change_no_numbers(tiny_config, tiny_params, scanned, changes):
  config = dataclasses.replace(tiny_config, **changes)
  actual = _loss_and_gradients(config, tiny_params, _batch(), _row_keys(4))
  _assert_trees_near(actual, scanned, 1e-5)


def test_remat_policies_keep_less_for_the_backward_pass(tiny_config, tiny_params):
  """Counted as the bytes of the residuals between the forward and the backward pass."""

  def kept(policy: str) -> int:
    config = dataclasses.replace(tiny_config, remat_policy=policy)

    def residuals(params):
      return jax.vjp(lambda params: t5.bind(config, params)(*_batch()), params)[1]

    leaves = jax.tree.leaves(jax.eval_shape(residuals, tiny_params))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

  assert kept('full') < kept('minimal') < kept('none')


# ---------------------------------------------------------------- padding and packing


def test_padding_changes_no_logits(tiny_config, tiny_params):
  inputs, input_segments, shifted, segments = _batch()
  wider = [np.pad(a, ((0, 0), (0, 5))) for a in (inputs, input_segments, shifted, segments)]
  logits = _logits(tiny_config, tiny_params, inputs, input_segments, shifted, segments)
  padded = _logits(tiny_config, tiny_params, *wider)[:, : shifted.shape[1]]
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
  inputs = [_tokens(i, n)[0] for i, n in enumerate((9, 4, 6))]
  targets = [_tokens(10 + i, n)[0] for i, n in enumerate((5, 7, 2))]
  packed = _packed(inputs, targets)
  logits = _logits(tiny_config, tiny_params, *packed)[0]
  alone_inputs, alone_targets = np.zeros((3, 9), np.int32), np.zeros((3, 7), np.int32)
  for i in range(3):
    alone_inputs[i, : len(inputs[i])], alone_targets[i, : len(targets[i])] = inputs[i], targets[i]
  alone = _logits(
    tiny_config,
    tiny_params,
    alone_inputs,
    (alone_inputs > 0).astype(np.int32),
    _shifted(alone_targets),
    (alone_targets > 0).astype(np.int32),
  )
  for i in range(3):
    np.testing.assert_allclose(
      logits[packed[3][0] == i + 1], alone[i, : len(targets[i])], atol=1e-5, err_msg=f'segment {i}'
    )


@pytest.mark.parametrize('changed', ['inputs', 'targets'])
def test_nothing_leaks_between_packed_sequences(tiny_config, tiny_params, changed):
  inputs = [_tokens(i, 7)[0] for i in range(3)]
  targets = [_tokens(10 + i, 5)[0] for i in range(3)]
  before = _packed(inputs, targets)
  {'inputs': inputs, 'targets': targets}[changed][1] = _tokens(99, 7 if changed == 'inputs' else 5)[
    0
  ]
  after = _packed(inputs, targets)
  segments = before[3][0]
  one, other = (np.asarray(_logits(tiny_config, tiny_params, *b)[0]) for b in (before, after))
  np.testing.assert_array_equal(
    one[(segments > 0) & (segments != 2)], other[(segments > 0) & (segments != 2)]
  )
  assert np.abs(one[segments == 2] - other[segments == 2]).max() > 1e-3


def test_a_target_position_does_not_see_later_ones(tiny_config, tiny_params):
  inputs, input_segments, shifted, segments = _batch()
  changed = shifted.at[:, 4:].set(jnp.where(shifted[:, 4:] > 0, 5, 0))
  one = _logits(tiny_config, tiny_params, inputs, input_segments, shifted, segments)
  other = _logits(tiny_config, tiny_params, inputs, input_segments, changed, segments)
  np.testing.assert_array_equal(one[:, :4], other[:, :4])
  assert np.abs(one[0, 4:] - other[0, 4:]).max() > 1e-3


# ---------------------------------------------------------------- decoding with a cache


@functools.partial(jax.jit, static_argnums=(0, 5))
def _decoded(config, params, inputs, segments, tokens, beams):
  """Logits [rows, steps, vocab] of feeding `tokens` [rows, steps] one by one through the cache."""
  network = t5.bind(config, params)
  cache = network.init_cache(network.encode(inputs, segments), segments > 0, tokens.shape[1], beams)

  def step(cache, column):
    logits, cache = network.decode_step(column, cache)
    return cache, logits

  _, logits = jax.lax.scan(step, cache, tokens.T)
  return logits.transpose(1, 0, 2)


@pytest.mark.parametrize('beams, tied', [(1, True), (3, False)])
def test_cached_decoding_equals_teacher_forcing_at_every_step(tiny_config, beams, tied):
  activations = ('relu',) if tied else ('gelu', 'linear')
  config = dataclasses.replace(
    tiny_config, mlp_activations=activations, logits_via_embedding=tied, num_decoder_layers=3
  )
  params = _params(config, 3)
  inputs = _tokens(0, 12, 7)
  segments = (inputs > 0).astype(np.int32)
  # Longer than the exact buckets (16), and other tokens in every beam of one input.
  tokens = _shifted(_tokens(1, *[21] * (2 * beams)))
  stepwise = _decoded(config, params, inputs, segments, tokens, beams)
  at_once = _logits(
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
    network = t5.bind(tiny_config, params)
    cache = network.init_cache(jnp.ones((2, 7, 16)), jnp.ones((2, 7), bool), length=5, beams=3)
    return cache, *network.decode_step(jnp.zeros(6, jnp.int32), cache)

  cache, logits, after = empty_and_after_one_step(tiny_params)
  assert cache.self_key.shape == cache.self_value.shape == (2, 6, 5, 2, 8)
  assert cache.cross_key.shape == cache.cross_value.shape == (2, 2, 7, 2, 8)
  assert logits.shape == (6, VOCAB) and logits.dtype == jnp.float32
  assert cache.position == 0 and after.position == 1
  assert (after.self_key[:, :, 0] != 0).any() and (after.self_key[:, :, 1:] == 0).all()


# ---------------------------------------------------------------- bfloat16


def test_bfloat16_stays_near_float32_and_its_logits_are_float32(tiny_config, tiny_params):
  config = dataclasses.replace(tiny_config, dtype='bfloat16')
  exact, rounded = (_logits(c, tiny_params, *_batch()) for c in (tiny_config, config))
  assert exact.dtype == rounded.dtype == jnp.float32
  real = _batch()[3] > 0
  difference = np.abs(np.asarray(rounded - exact))[real]
  assert 0 < difference.max() < 0.05 * np.abs(exact).max()
  encode = jax.eval_shape(lambda p: t5.bind(config, p).encode(*_batch()[:2]), tiny_params)
  assert encode.dtype == jnp.bfloat16


def test_bfloat16_gradients_are_float32_and_near(tiny_config, tiny_params):
  config = dataclasses.replace(tiny_config, dtype='bfloat16')
  loss, gradients = _loss_and_gradients(config, tiny_params, _batch())
  _, exact = _loss_and_gradients(tiny_config, tiny_params, _batch())
  assert loss.dtype == jnp.float32
  assert all(gradient.dtype == jnp.float32 for gradient in jax.tree.leaves(gradients))
  norm = lambda tree: np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))  # noqa: E731
  assert 0 < norm(jax.tree.map(jnp.subtract, gradients, exact)) < 0.05 * norm(exact)


def test_bfloat16_decoding_equals_its_own_teacher_forcing(tiny_config, tiny_params):
  config = dataclasses.replace(tiny_config, dtype='bfloat16')
  inputs, tokens = _tokens(0, 12, 7), _shifted(_tokens(1, 9, 9))
  segments = (inputs > 0).astype(np.int32)
  stepwise = _decoded(config, tiny_params, inputs, segments, tokens, 1)
  at_once = _logits(config, tiny_params, inputs, segments, tokens, np.ones_like(tokens))
  np.testing.assert_allclose(stepwise, at_once, atol=0.03 * np.abs(at_once).max())


# ---------------------------------------------------------------- dropout


@functools.partial(jax.jit, static_argnums=0)
def _dropped(config, params, batch, row_keys):
  return t5.bind(config, params)(*batch, row_keys)


def test_without_keys_there_is_no_dropout(tiny_config, tiny_params):
  off = dataclasses.replace(tiny_config, dropout_rate=0.0)
  one = _logits(tiny_config, tiny_params, *_batch())
  dropped = _dropped(tiny_config, tiny_params, _batch(), _row_keys(4))
  assert np.abs(dropped - one).max() > 1e-2
  np.testing.assert_array_equal(_dropped(off, tiny_params, _batch(), _row_keys(4)), one)


def test_dropout_follows_the_keys(tiny_config, tiny_params):
  batch = _batch()
  one = _dropped(tiny_config, tiny_params, batch, _row_keys(4))
  np.testing.assert_array_equal(one, _dropped(tiny_config, tiny_params, batch, _row_keys(4)))
  other = _dropped(tiny_config, tiny_params, batch, _row_keys(4, seed=1))
  assert np.abs(one - other).max(axis=(1, 2)).min() > 1e-2


def test_dropout_of_a_row_does_not_depend_on_the_batch(tiny_config, tiny_params):
  batch, keys = _batch(), _row_keys(4)
  whole = _dropped(tiny_config, tiny_params, batch, keys)
  halves = [
    _dropped(tiny_config, tiny_params, tuple(a[rows] for a in batch), keys[rows])
    for rows in (slice(0, 2), slice(2, 4))
  ]
  np.testing.assert_allclose(np.concatenate(halves), whole, atol=1e-5)


def test_no_two_dropouts_of_the_network_share_a_key(tiny_config, tiny_params, monkeypatch):
  """Every key that reaches a Bernoulli draw, in all stacks, layers and sites, is another one, and
  none of them is also the parent of further keys."""
  drawn, parents = [], []
  bernoulli, fold_in = jax.random.bernoulli, jax.random.fold_in

  def record(into):
    return lambda data: into.append(tuple(np.ravel(data).tolist()))

  def recording_bernoulli(key, *arguments):
    jax.debug.callback(record(drawn), jax.random.key_data(key))
    return bernoulli(key, *arguments)

  def recording_fold_in(key, data):
    jax.debug.callback(record(parents), jax.random.key_data(key))
    return fold_in(key, data)

  monkeypatch.setattr(jax.random, 'bernoulli', recording_bernoulli)
  monkeypatch.setattr(jax.random, 'fold_in', recording_fold_in)
  config = dataclasses.replace(tiny_config, num_encoder_layers=6, num_decoder_layers=6)
  params = _params(config, 0)
  batch = tuple(a[:1] for a in _batch())
  jax.block_until_ready(jax.jit(lambda p, k: t5.bind(config, p)(*batch, k))(params, _row_keys(1)))
  jax.effects_barrier()
  # encoder: 4 a layer and 2; decoder: two attentions, 6 a layer and 2
  assert len(drawn) == len(set(drawn)) == (6 * 4 + 2) + (6 * 6 + 2)
  assert not set(drawn) & set(parents)
