"""Dropout of the whole network: each row and site has its own key, whatever the batch."""

import dataclasses
import functools

import jax
import networks
import numpy as np

from dss_jax.models import t5


@functools.partial(jax.jit, static_argnums=0)
def _dropped(config, params, batch, row_keys):
  return t5.bind(config, params)(*batch, row_keys)


def test_without_keys_there_is_no_dropout(tiny_config, tiny_params):
  off = dataclasses.replace(tiny_config, dropout_rate=0.0)
  one = networks.logits(tiny_config, tiny_params, *networks.batch())
  dropped = _dropped(tiny_config, tiny_params, networks.batch(), networks.row_keys(4))
  assert np.abs(dropped - one).max() > 1e-2
  np.testing.assert_array_equal(
    _dropped(off, tiny_params, networks.batch(), networks.row_keys(4)), one
  )


def test_dropout_follows_the_keys(tiny_config, tiny_params):
  batch = networks.batch()
  one = _dropped(tiny_config, tiny_params, batch, networks.row_keys(4))
  np.testing.assert_array_equal(
    one, _dropped(tiny_config, tiny_params, batch, networks.row_keys(4))
  )
  other = _dropped(tiny_config, tiny_params, batch, networks.row_keys(4, seed=1))
  assert np.abs(one - other).max(axis=(1, 2)).min() > 1e-2


def test_dropout_of_a_row_does_not_depend_on_the_batch(tiny_config, tiny_params):
  batch, keys = networks.batch(), networks.row_keys(4)
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
  params = networks.params(config, 0)
  batch = tuple(a[:1] for a in networks.batch())
  jax.block_until_ready(
    jax.jit(lambda p, k: t5.bind(config, p)(*batch, k))(params, networks.row_keys(1))
  )
  jax.effects_barrier()
  # encoder: 4 a layer and 2; decoder: two attentions, 6 a layer and 2
  assert len(drawn) == len(set(drawn)) == (6 * 4 + 2) + (6 * 6 + 2)
  assert not set(drawn) & set(parents)
