"""The parts of the network: relative positions, norm, attention, feed-forward, dropout."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax.models import layers

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'relative_position_buckets.npz'


def _normal(seed: int, *shape: int, dtype=jnp.float32):
  return jax.random.normal(jax.random.key(seed), shape, dtype)


def _row_keys(batch: int, seed: int = 0):
  return jax.random.split(jax.random.key(seed), batch)


# ---------------------------------------------------------------- relative position buckets


def test_buckets_of_a_hand_made_table():
  """Eight buckets, one direction: 0-3 exact, then logarithmic up to 16; the future is bucket 0."""
  distance = -jnp.array([-5, -1, 0, 1, 2, 3, 4, 5, 6, 8, 11, 12, 15, 16, 1000])
  bucket = layers.relative_position_bucket(distance, False, 8, 16)
  np.testing.assert_array_equal(bucket, [0, 0, 0, 1, 2, 3, 4, 4, 5, 6, 6, 7, 7, 7, 7])


@pytest.mark.parametrize(
  'bidirectional, number, furthest', [(1, 32, 128), (0, 32, 128), (1, 16, 64)]
)
@pytest.mark.parametrize('jit', [False, True])
def test_buckets_equal_hugging_face_at_every_distance(bidirectional, number, furthest, jit):
  bucket = layers.relative_position_bucket
  if jit:
    bucket = jax.jit(bucket, static_argnums=(1, 2, 3))
  with np.load(GOLDEN) as golden:
    ours = bucket(jnp.asarray(golden['distances']), bool(bidirectional), number, furthest)
    np.testing.assert_array_equal(ours, golden[f'{bidirectional}_{number}_{furthest}'])


def test_bias_is_looked_up_by_distance_for_every_head():
  bias = layers.RelativeBias(jax.random.key(0), 2, 8, 16, bidirectional=False)
  table = np.asarray(bias.embedding[...])
  looked_up = bias(jnp.arange(3), jnp.arange(5)).values
  assert looked_up.shape == (1, 2, 3, 5)
  for query in range(3):
    for key in range(5):
      np.testing.assert_array_equal(looked_up[0, :, query, key], table[:, max(query - key, 0)])


# ---------------------------------------------------------------- norm and feed-forward


def test_norm_divides_by_the_root_mean_square_and_scales():
  norm = layers.Norm(4)
  norm.scale[...] = jnp.array([1.0, 2.0, 3.0, 4.0])
  normed = norm(jnp.array([[[1.0, 1.0, -1.0, 5.0]]]))
  np.testing.assert_allclose(normed[0, 0], np.array([1, 2, -3, 20]) / np.sqrt(7), rtol=1e-6)


def test_norm_of_large_bfloat16_is_computed_in_float32():
  """In bfloat16 the squares of these would be off by percents; the result is right to rounding."""
  x = (100 * _normal(0, 2, 3, 512)).astype(jnp.bfloat16)
  exact = np.asarray(x, np.float64)
  exact /= np.sqrt(np.mean(exact**2, axis=-1, keepdims=True))
  normed = layers.Norm(512)(x)
  assert normed.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(normed, np.float64), exact, rtol=2**-8)


@pytest.mark.parametrize('gated', [False, True])
def test_feed_forward_is_its_formula(gated):
  module = layers.FeedForward(jax.random.key(1), 8, 16, gated)
  x = np.asarray(_normal(0, 2, 3, 8), np.float64)
  hidden = x @ np.asarray(module.wi_0[...])
  if gated:
    gelu = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    hidden = gelu * (x @ np.asarray(module.wi_1[...]))
  else:
    hidden = np.maximum(hidden, 0)
  expected = hidden @ np.asarray(module.wo[...])
  np.testing.assert_allclose(module(jnp.float32(x), None, 0.0), expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- attention


def test_attention_is_an_unscaled_softmax_over_the_keys_of_the_mask():
  query, key, value = _normal(0, 1, 2, 1, 4), _normal(1, 1, 3, 1, 4), _normal(2, 1, 3, 1, 4)
  bias = _normal(3, 1, 1, 2, 3)
  mask = jnp.array([[[[True, True, False]]]])
  out = layers.attend(query, key, value, mask, bias)
  logits = np.einsum('qd,kd->qk', query[0, :, 0], key[0, :, 0]) + bias[0, 0]
  weights = np.exp(logits[:, :2])
  weights /= weights.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(out[0, :, 0], weights @ value[0, :2, 0], rtol=1e-5, atol=1e-6)


def test_masked_keys_have_no_influence():
  query, key, value = _normal(0, 2, 3, 2, 4), _normal(1, 2, 5, 2, 4), _normal(2, 2, 5, 2, 4)
  mask = jnp.broadcast_to(jnp.arange(5) < 3, (2, 1, 1, 5))
  hidden = (jnp.arange(5) >= 3)[None, :, None, None]
  out = layers.attend(query, key, value, mask, None)
  changed = layers.attend(
    query, jnp.where(hidden, 7.0, key), jnp.where(hidden, -9.0, value), mask, None
  )
  np.testing.assert_array_equal(out, changed)


def test_a_row_without_any_key_is_finite_with_finite_gradients():
  query, key, value = _normal(0, 1, 2, 1, 4), _normal(1, 1, 3, 1, 4), _normal(2, 1, 3, 1, 4)
  mask = jnp.zeros((1, 1, 2, 3), bool)
  gradients = jax.grad(lambda *qkv: jnp.sum(layers.attend(*qkv, mask, None)), (0, 1, 2))(
    query, key, value
  )
  assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_bfloat16_attention_takes_its_softmax_in_float32():
  """Thousands of equal keys: weights summed in bfloat16 would be far from one."""
  query, key = jnp.zeros((1, 1, 1, 4), jnp.bfloat16), jnp.zeros((1, 3000, 1, 4), jnp.bfloat16)
  value = jnp.ones((1, 3000, 1, 4), jnp.bfloat16)
  out = layers.attend(query, key, value, jnp.ones((1, 1, 1, 3000), bool), None)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(out, np.float32), 1.0, rtol=0.01)
  text = str(
    jax.make_jaxpr(layers.attend)(query, key, value, jnp.ones((1, 1, 1, 3000), bool), None)
  )
  exponents = [line for line in text.splitlines() if ' = exp ' in line]
  assert exponents and all('f32[' in line and 'bf16[' not in line for line in exponents)


# ---------------------------------------------------------------- dropout


def test_dropout_without_keys_or_rate_is_the_identity():
  x = _normal(0, 4, 3, 5)
  assert layers.dropout(x, None, 0, 0.5) is x
  assert layers.dropout(x, _row_keys(4), 0, 0.0) is x
  assert layers.fold_in(None, 3) is None


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate):
  dropped = np.asarray(layers.dropout(jnp.ones((64, 2, 1024)), _row_keys(64), 0, rate))
  draws = 64 * 1024  # the two positions share their mask
  assert abs(np.mean(dropped == 0) - rate) < 5 * np.sqrt(rate * (1 - rate) / draws)
  np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=1e-6)


def test_dropout_mask_is_shared_along_positions_only():
  dropped = np.asarray(layers.dropout(jnp.ones((3, 4, 256)), _row_keys(3), 0, 0.5)) == 0
  assert (dropped == dropped[:, :1]).all()
  masks = dropped[:, 0]
  for one, other in [(0, 1), (0, 2), (1, 2)]:
    assert 0.3 < np.mean(masks[one] != masks[other]) < 0.7


def test_attention_dropout_differs_between_heads_and_keys():
  weights = jnp.ones((2, 4, 3, 64))
  dropped = np.asarray(layers.dropout(weights, _row_keys(2), 0, 0.5, broadcast=2)) == 0
  assert (dropped == dropped[:, :, :1]).all()
  assert 0.3 < np.mean(dropped[0, 0, 0] != dropped[0, 1, 0]) < 0.7
  assert 0.3 < np.mean(dropped[0, 0, 0]) < 0.7


def test_dropout_masks_of_two_sites_are_independent():
  x, keys = jnp.ones((8, 1, 512)), _row_keys(8)
  masks = [np.asarray(layers.dropout(x, keys, site, 0.5)) == 0 for site in range(7)]
  for one in range(7):
    for other in range(one):
      assert abs(np.mean(masks[one] != masks[other]) - 0.5) < 0.05


def test_dropout_of_a_row_does_not_depend_on_the_other_rows():
  x, keys = _normal(0, 6, 3, 32), _row_keys(6)
  whole = layers.dropout(x, keys, 1, 0.3)
  halves = [layers.dropout(x[rows], keys[rows], 1, 0.3) for rows in (slice(0, 2), slice(2, 6))]
  np.testing.assert_array_equal(whole, jnp.concatenate(halves))


def test_dropout_keeps_bfloat16():
  assert (
    layers.dropout(jnp.ones((2, 1, 8), jnp.bfloat16), _row_keys(2), 0, 0.5).dtype == jnp.bfloat16
  )


# ---------------------------------------------------------------- initial weights


def test_initial_weights_have_the_scales_of_t5():
  """Source: T5X layers.py: 1 over sqrt of the fan in; the query smaller by sqrt(head_dim) more."""
  attention = layers.Attention(jax.random.key(0), embed=128, num_heads=4, head_dim=16)
  mlp = layers.FeedForward(jax.random.key(1), 128, 512, gated=True)
  expected = {
    'query': (attention.query, (128 * 16) ** -0.5),
    'key': (attention.key, 128**-0.5),
    'value': (attention.value, 128**-0.5),
    'out': (attention.out, 64**-0.5),
    'wi_0': (mlp.wi_0, 128**-0.5),
    'wi_1': (mlp.wi_1, 128**-0.5),
    'wo': (mlp.wo, 512**-0.5),
  }
  for name, (param, deviation) in expected.items():
    np.testing.assert_allclose(np.std(param[...]), deviation, rtol=0.05, err_msg=name)
  assert not np.array_equal(mlp.wi_0[...], mlp.wi_1[...])
