"""Our training step follows the paper's own code: losses and weights along twenty updates.

The paper's batch is two padded batches with two forward passes; ours is one batch of paired rows,
unpacked or packed. The reference runs live where torch is installed, and from a golden file
(golden/make_loss.py) always.
"""

import functools

import jax
import numpy as np
import pytest
from golden import make_loss, make_t5

from dss_jax.checkpoints.hf import huggingface
from dss_jax.data import pipeline
from dss_jax.data.examples import Examples, TaskExamples, offsets_of
from dss_jax.models import t5
from dss_jax.training import losses, optimizers, steps, train_state

CASES = [  # version of T5, weight decay, packed
  ('1_1', 0.0, False),
  ('1_1', 0.0, True),
  ('1_1', 0.01, True),
  ('1_0', 0.0, True),
  ('1_0', 0.01, False),
]
LENGTHS = {'inputs': 96, 'targets': 64}


def _paired_batch(pack: bool):
  """The reference's batch in our form: each example's label row, then its rationale row."""
  by_task = make_loss.rows()
  pairs = [by_task[task][i] for i in range(make_loss.PAIRS) for task in make_loss.TASKS]
  sides = []
  for side in (0, 1):
    tokens = [pair[side] for pair in pairs]
    sides += [np.concatenate(tokens).astype(np.int32), offsets_of(np.array(list(map(len, tokens))))]
  task_ids = np.tile(np.array([0, 1], np.int32), make_loss.PAIRS)
  examples = Examples(*sides, task_ids, np.repeat(np.arange(make_loss.PAIRS), 2))
  config = pipeline.DataConfig('unused', LENGTHS, batch_size=12, pack=pack)
  # A pass rather than the stream: every row once. Packed, the unfilled rows are empty.
  (batch,) = pipeline.epoch_batches([TaskExamples('paired', 1.0, examples)], config)
  assert batch.sequences == 2 * make_loss.PAIRS
  filled = (batch.arrays['decoder_segment_ids'] > 0).any(axis=1).sum()
  assert filled < 6 if pack else filled == 12
  return batch.arrays


@functools.cache
def _trained(version: str, weight_decay: float, pack: bool):
  """Our parameters after STEPS updates, and float64 [STEPS, 3] losses."""
  optimizer = optimizers.make_optimizer(
    optimizers.OptimizerConfig(
      learning_rate=make_loss.LEARNING_RATE,
      decay_steps=make_loss.STEPS,
      clip_norm=make_loss.CLIP_NORM,
      weight_decay=weight_decay,
    ),
    t5.logical_axes(make_loss.config_of(version)),
  )
  loss = losses.Objective(weights=(make_loss.ALPHA, 1.0 - make_loss.ALPHA))
  step = jax.jit(steps.make_train_step(make_loss.config_of(version), loss, optimizer, seed=0))
  state = train_state.from_params(_start(version), optimizer)
  batch, history = _paired_batch(pack), []
  for _ in range(make_loss.STEPS):
    state, metrics = step(state, batch)
    history.append([float(metrics[name]) for name in ('loss', 'label/loss', 'rationale/loss')])
  return jax.device_get(state.params), np.array(history)


@functools.cache
def _start(version: str):
  """The reference's weights before training, from their names and shapes."""
  with np.load(make_t5.FOLDER / f't5_{version}.npz') as golden:
    shapes = {k.split('/', 1)[1]: golden[k].shape for k in golden if k.startswith('gradient/')}
  weights = make_t5.weights(shapes)
  return huggingface.params_from_state_dict(weights, make_loss.config_of(version))


def _assert_falls_alike(history, expected):
  np.testing.assert_allclose(history[0], expected[0], rtol=1e-5)
  np.testing.assert_allclose(history, expected, rtol=1e-5)
  assert (expected[-1] < 0.99 * expected[0]).all(), 'the reference learns nothing'


@pytest.mark.parametrize('version, weight_decay, pack', CASES)
def test_losses_and_weights_follow_the_golden_file(version, weight_decay, pack):
  params, history = _trained(version, weight_decay, pack)
  with np.load(make_loss.PATH) as golden:
    expected = {name: golden[f'{version}/{weight_decay}/{name}'] for name in ('losses', 'sample')}
  _assert_falls_alike(history, expected['losses'])
  moved = np.abs(expected['sample'] - make_loss.sample(_start(version)))
  assert moved.max() > 0.005
  np.testing.assert_allclose(make_loss.sample(params), expected['sample'], rtol=1e-5, atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize('version, weight_decay, pack', CASES)
def test_losses_and_weights_follow_torch(version, weight_decay, pack):
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  params, history = _trained(version, weight_decay, pack)
  theirs, expected = _reference(version, weight_decay)
  _assert_falls_alike(history, expected)
  start = _start(version)
  for (path, ours), other, before in zip(
    jax.tree.leaves_with_path(params), jax.tree.leaves(theirs), jax.tree.leaves(start), strict=True
  ):
    name = jax.tree_util.keystr(path)
    moved = np.abs(other - before).max()
    assert moved > 0.003, name
    np.testing.assert_allclose(ours, other, rtol=1e-6, atol=1e-5, err_msg=name)


@functools.cache
def _reference(version, weight_decay):
  model, history = make_loss.trained(version, weight_decay)
  return make_loss.params_of(model, version), history
