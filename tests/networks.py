"""Small networks, batches and what is computed of both, for the tests of the network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dss_jax.models import t5

VOCAB = 64


def tokens(seed: int, *lengths: int, width: int | None = None) -> np.ndarray:
  """Random tokens 2..63, one row for each length, padded with 0 to `width`."""
  random = np.random.default_rng(seed)
  rows = np.zeros((len(lengths), width or max(lengths)), np.int32)
  for row, length in zip(rows, lengths, strict=True):
    row[:length] = random.integers(2, VOCAB, length)
  return rows


def shifted(targets):
  return np.pad(targets, ((0, 0), (1, 0)))[:, :-1]


def batch(seed: int = 0) -> tuple[jax.Array, ...]:
  """Arguments of the network: inputs, segments, targets shifted right, segments."""
  inputs, targets = tokens(seed, 12, 7, 3, 9), tokens(seed + 1, 6, 8, 2, 5)
  batch = inputs, (inputs > 0), shifted(targets), (targets > 0)
  return tuple(jnp.asarray(array, jnp.int32) for array in batch)


def params(config: t5.T5Config, seed: int) -> t5.Params:
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
def logits(config, params, *batch):
  return t5.bind(config, params)(*batch)


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(config, params, batch, row_keys=None):
  """A loss in which every real target position counts differently."""

  def loss(params):
    logits = t5.bind(config, params)(*batch, row_keys)
    counts = jnp.arange(1.0, batch[3].shape[1] + 1.0)[None]
    return jnp.sum(jnp.sin(logits).mean(-1) * jnp.where(batch[3] > 0, counts, 0.0))

  return jax.value_and_grad(loss)(params)


def assert_trees_near(actual, expected, tolerance: float):
  for (path, leaf), other in zip(
    jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
  ):
    scale = np.abs(other).max()
    np.testing.assert_allclose(
      leaf, other, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path)
    )


def row_keys(batch: int, seed: int = 0):
  return jax.random.split(jax.random.key(seed), batch)
