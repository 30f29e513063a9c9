"""The attention kernels, run step by step on the CPU, against attention as XLA computes it."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dss_jax.models import flash, layers
from dss_jax.models.attention_inputs import Bias, Segments
from dss_jax.parallel import devices, partitioning

HEADS, HEAD_DIM = 4, 64


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
  monkeypatch.setattr(flash, 'INTERPRET', True)


def _arrays(rows, queries, keys, dropout):
  """Queries, keys, values, segments of both, dropout's factors and the output's gradient."""
  random = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
  segments = lambda n: jnp.asarray(-np.sort(-random.integers(0, 4, (rows, n))), jnp.int32)  # noqa: E731
  qkv = [normal(rows, n, HEADS, HEAD_DIM) * 0.3 for n in (queries, keys, keys)]
  of_keys = segments(keys)
  of_queries = of_keys if queries == keys else segments(queries)
  keep = (random.random((rows, HEADS, keys)) > 0.3) / 0.7 if dropout else None
  real = _is_real(of_queries)  # what padding attends to has no consequences
  grad = normal(*qkv[0].shape) * real
  return qkv, of_queries, of_keys, keep if keep is None else jnp.asarray(keep, jnp.float32), grad


def _is_real(segments):
  """1.0 where there is a token, 0.0 on padding; [b, q, 1, 1]."""
  return (segments > 0).astype(jnp.float32)[:, :, None, None]


def _bias(embedding, queries, keys, causal):
  distance = jnp.arange(keys)[None] - jnp.arange(queries)[:, None]
  buckets = layers.relative_position_bucket(distance, not causal, 32, 128)
  return Bias(embedding[:, buckets][None], embedding, buckets)


@pytest.mark.parametrize(
  'queries, keys, bias, causal, dropout, mesh, of_a_call',
  [
    (128, 128, True, True, True, (8, 1, 1), 128),
    (128, 256, False, False, True, (2, 2, 2), 128),
    (512, 512, True, False, False, (4, 1, 2), 512),
    (512, 128, False, True, False, (1, 8, 1), 512),
    (512, 512, True, True, True, (8, 1, 1), 256),
    (256, 384, True, False, True, (2, 2, 2), 128),
  ],
)
def test_kernels_compute_attention_and_its_gradients(
  monkeypatch, queries, keys, bias, causal, dropout, mesh, of_a_call
):
  """Also where a mesh divides rows and heads, and where queries are taken in several blocks, or in
  several calls since VMEM does not hold them."""
  vmem = flash._vmem(1, of_a_call, keys, HEAD_DIM)
  monkeypatch.setitem(devices.ATTENTION_VMEM, 'cpu', vmem)
  qkv, of_queries, of_keys, keep, grad = _arrays(8, queries, keys, dropout)
  embedding = jnp.asarray(np.random.default_rng(1).normal(size=(HEADS, 32)), jnp.float32)
  segments = Segments(of_queries, of_keys, causal)

  def loss(qkv, embedding, as_kernel):
    of_layer = _bias(embedding, queries, keys, causal) if bias else None
    if as_kernel:
      merged = [a.reshape(*a.shape[:2], -1) for a in qkv]
      out = flash.attend(merged, segments, of_layer, keep, HEAD_DIM)
    else:
      out = layers.attend(*qkv, segments.mask(), of_layer and of_layer.values, keep)
    out = out.reshape(qkv[0].shape) * _is_real(of_queries)
    return jnp.sum(out * grad), out

  run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=2)
  with jax.set_mesh(partitioning.make_mesh(partitioning.MeshConfig(*mesh))):
    assert flash._queries_of_a_call(1, queries, keys, HEAD_DIM) == of_a_call
    found, expected = run(qkv, embedding, True), run(qkv, embedding, False)
  networks.assert_trees_near(found[0][1], expected[0][1], 2e-6)
  networks.assert_trees_near(found[1][0], expected[1][0], 3e-6)
  if bias:
    assert np.abs(expected[1][1]).max() > 0.1
    networks.assert_trees_near(found[1][1], expected[1][1], 3e-6)


def test_on_a_v3_bfloat16_is_multiplied_as_float32(monkeypatch):
  """Its products take nothing else; only what is given and what comes out are rounded."""
  monkeypatch.setattr(devices, 'kind', lambda: 'TPU v3')
  qkv, of_queries, of_keys, keep, grad = _arrays(8, 256, 256, dropout=True)
  qkv = [array.astype(jnp.bfloat16) for array in qkv]
  bias = _bias(jnp.ones((HEADS, 32)), 256, 256, causal=False)
  segments = Segments(of_queries, of_keys)

  def kernels(qkv):
    merged = [array.reshape(*array.shape[:2], -1) for array in qkv]
    return flash.attend(merged, segments, bias, keep, HEAD_DIM).reshape(grad.shape)

  def in_float32(qkv):
    return layers.attend(*qkv, segments.mask(), bias.values, keep)

  with jax.set_mesh(partitioning.make_mesh(partitioning.MeshConfig(8, 1, 1))):
    out, found = jax.jit(lambda x: _and_gradients(kernels, x, grad))(qkv)
    exact, expected = _and_gradients(in_float32, [a.astype(jnp.float32) for a in qkv], grad)
  assert out.dtype == jnp.bfloat16
  real = _is_real(of_queries)
  networks.assert_trees_near(
    (out.astype(jnp.float32) * real, found), (exact * real, expected), 4e-3
  )


def _and_gradients(attend, qkv, grad):
  out, pull = jax.vjp(attend, qkv)
  return out, pull(grad.astype(out.dtype))[0]


@pytest.mark.parametrize('own_biases, remat_policy', [(False, 'none'), (True, 'full')])
def test_a_network_with_kernels_is_the_same_network(
  tiny_config, monkeypatch, own_biases, remat_policy
):
  config = dataclasses.replace(
    tiny_config,
    num_heads=2,
    head_dim=64,
    num_encoder_layers=1,
    num_decoder_layers=1,
    relative_bias_per_layer=own_biases,
    remat_policy=remat_policy,
  )
  params = jax.tree_util.tree_map_with_path(  # logits near 1, as a student has them
    lambda path, weight: weight / 8 if 'query' in jax.tree_util.keystr(path) else weight,
    networks.params(config, 0),
  )
  inputs, targets = networks.tokens(0, 100, 70, width=128), networks.tokens(1, 80, 128)
  batch = tuple(
    jnp.asarray(array, jnp.int32)
    for array in (inputs, inputs > 0, networks.shifted(targets), targets > 0)
  )
  keys = networks.row_keys(2)
  calls = []
  monkeypatch.setattr(flash, 'usable', lambda *sizes: calls.append(sizes) or True)
  with jax.set_mesh(partitioning.make_mesh(partitioning.MeshConfig(1, 1, 1), jax.devices()[:1])):
    found = networks.loss_and_gradients(config, params, batch, keys)
    assert {sizes[1:] for sizes in calls} == {
      (128, 128, 2, 64)
    }  # of encoder, decoder and between them
    monkeypatch.setattr(flash, 'usable', lambda *sizes: False)
    networks.loss_and_gradients.clear_cache()
    expected = networks.loss_and_gradients(config, params, batch, keys)
  networks.assert_trees_near(found, expected, 1e-5)


@pytest.mark.parametrize(
  'kind, mesh, sizes, expected',
  [
    ('TPU v5 lite', (8, 1, 1), (16, 512, 512, 12, 64), True),
    ('TPU v5 lite', (1, 4, 2), (16, 512, 512, 12, 64), True),
    ('TPU v5 lite', (1, 2, 4), (16, 512, 512, 12, 64), False),  # three heads: no pairs
    ('TPU v5 lite', (8, 1, 1), (12, 512, 512, 12, 64), False),  # rows do not divide
    ('TPU v5 lite', (8, 1, 1), (16, 500, 512, 12, 64), False),
    ('TPU v5 lite', (8, 1, 1), (16, 512, 512, 12, 48), False),
    ('TPU v5 lite', (8, 1, 1), (16, 2048, 2048, 12, 64), True),  # in several calls
    ('TPU v4', (8, 1, 1), (16, 1024, 1024, 12, 64), True),
    ('TPU v4', (8, 1, 1), (16, 2048, 2048, 12, 64), False),  # more keys than VMEM has
    ('TPU v3', (8, 1, 1), (16, 512, 512, 12, 64), True),
    ('TPU v2', (8, 1, 1), (16, 512, 512, 12, 64), False),
    ('cpu', (8, 1, 1), (16, 512, 512, 12, 64), False),
  ],
)
def test_kernels_are_used_where_they_fit(monkeypatch, kind, mesh, sizes, expected):
  monkeypatch.setattr(devices, 'kind', lambda: kind)
  with jax.set_mesh(partitioning.make_mesh(partitioning.MeshConfig(*mesh))):
    assert flash.usable(*sizes) is expected


def test_without_a_mesh_there_are_no_kernels():
  assert not flash.usable(8, 128, 128, 2, 64)
