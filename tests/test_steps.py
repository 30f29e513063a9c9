"""The update: the same for any number of microbatches and devices; metrics count what is there."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from dss_jax.data import pipeline
from dss_jax.data.examples import Examples, TaskExamples, offsets_of
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.training import losses, optimizers, steps, train_state

LENGTHS = {'inputs': 24, 'targets': 16}
ROWS = 8
# A large epsilon makes Adam's update smooth in the gradient, so that rounding stays rounding.
OPTIMIZER = optimizers.OptimizerConfig(learning_rate=0.05, schedule='constant', eps=1e-2)
LOSS = losses.Objective(weights=(1.0, 0.5), z_loss=1e-3, label_smoothing=0.1)


def _task(name, task_id, longest, count=40):
  """Sequences of random tokens of 3..63 with EOS; targets of up to `longest` tokens."""
  rng = np.random.default_rng(task_id)

  def side(most):
    offsets = offsets_of(rng.integers(2, most + 1, count))
    tokens = rng.integers(3, 64, offsets[-1]).astype(np.int32)
    tokens[offsets[1:] - 1] = 1
    return tokens, offsets

  tasks, ids = np.full(count, task_id, np.int32), np.arange(count)
  return TaskExamples(name, 1.0, Examples(*side(20), *side(longest), tasks, ids))


MIXTURE = (_task('label', 0, longest=4), _task('rationale', 1, longest=12))


def _batches(count=3, pack=True, mixture=MIXTURE):
  config = pipeline.DataConfig('unused', LENGTHS, ROWS, pack=pack)
  batches = pipeline.TrainBatches(mixture, config)
  return [next(batches).arrays for _ in range(count)]


def _mesh(*shape):
  if shape == (1, 1, 1):
    axis_types = (AxisType.Auto,) * 3
    return jax.make_mesh(shape, partitioning.AXES, axis_types, devices=jax.devices()[:1])
  devices = dict(zip(partitioning.AXES, shape, strict=True))
  return partitioning.make_mesh(partitioning.MeshConfig(**devices))


@functools.cache
def _params(model):
  return jax.device_get(jax.jit(t5.init, static_argnums=0)(model, jax.random.key(0)))


@functools.cache
def _compiled(model, mesh_shape, microbatches, optimizer, loss):
  """(mesh, first state, compiled step): tests that train the same way compile once."""
  mesh = _mesh(*mesh_shape)
  transform = optimizers.make_optimizer(optimizer, t5.logical_axes(model))
  places = jax.tree.map(lambda leaf: leaf.sharding, train_state.abstract(model, transform, mesh))
  make = jax.jit(lambda params: train_state.from_params(params, transform), out_shardings=places)
  state = make(_params(dataclasses.replace(model, dropout_rate=0.0)))
  return mesh, state, jax.jit(steps.make_train_step(model, loss, transform, 7, microbatches))


def _trained(model, batches, mesh=(1, 1, 1), microbatches=1, optimizer=OPTIMIZER, loss=LOSS):
  """The state after one update a batch, and every update's metrics; all as numpy."""
  mesh, state, step = _compiled(model, mesh, microbatches, optimizer, loss)
  history = []
  with jax.set_mesh(mesh):
    for batch in batches:
      state, metrics = step(state, partitioning.put_batch(mesh, batch))
      history.append(metrics)
  return jax.device_get((state, history))


def _assert_near(found, expected, tolerance=2e-5):
  """Every leaf equal to `tolerance` of its largest entry."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
    scale = max(float(np.abs(b).max()), 1e-6)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=str(path))


def _with_dropout(model, rate=0.3):
  return dataclasses.replace(model, dropout_rate=rate)


@pytest.mark.parametrize(
  'dropout, mesh, microbatches',
  [
    (0.3, (1, 1, 1), 4),
    (0.3, (2, 2, 2), 2),  # test_layouts.py has the other layouts
    (0.0, (1, 1, 1), 2),
  ],
)
def test_the_update_is_the_same_however_it_is_divided(tiny_config, dropout, mesh, microbatches):
  """As on one device at once: metrics, parameters, and moments, which are sums of gradients."""
  model, batches = _with_dropout(tiny_config, dropout), _batches()
  expected = _trained(model, batches)
  _assert_near(_trained(model, batches, mesh, microbatches), expected)


def test_adafactor_on_eight_devices_computes_what_it_does_on_one(tiny_config):
  adafactor = dataclasses.replace(OPTIMIZER, name='adafactor')
  model, batches = _with_dropout(tiny_config), _batches(2)
  expected = _trained(model, batches, optimizer=adafactor)
  # Its updates have size 1 whatever the gradient's: rounding shows more than with Adam.
  found = _trained(model, batches, (2, 2, 2), optimizer=adafactor)
  _assert_near(found, expected, tolerance=1e-3)


def test_dropout_changes_with_the_step_alone(tiny_config):
  model, (batch,) = _with_dropout(tiny_config), _batches(1)
  mesh, state, step = _compiled(model, (1, 1, 1), 1, OPTIMIZER, LOSS)
  with jax.set_mesh(mesh):
    loss_at = lambda t: float(step(state._replace(step=jnp.int32(t)), batch)[1]['loss'])  # noqa: E731
    assert loss_at(3) == loss_at(3)
    assert abs(loss_at(3) - loss_at(4)) > 1e-3


def test_the_weights_of_a_schedule_are_those_of_the_step(tiny_config):
  """Both fall to 0 in two steps; then the gradient is 0, too."""
  model = dataclasses.replace(tiny_config, dropout_rate=0.0)
  label, rationale = ((0.0, 1.0), (2.0, 0.0)), ((0.0, 3.0), (1.0, 1.0), (2.0, 0.0))
  falling = dataclasses.replace(LOSS, weights=(label, rationale))
  _, history = _trained(model, _batches(), loss=falling)
  for metrics, weights in zip(history, [(1.0, 3.0), (0.5, 1.0), (0.0, 0.0)], strict=True):
    parts = metrics['label/loss'], metrics['rationale/loss']
    np.testing.assert_allclose(metrics['loss'], np.dot(weights, parts), rtol=1e-5)
  assert [metrics['grad_norm'] > 0 for metrics in history] == [True, True, False]


def test_every_row_has_dropout_of_its_own(tiny_config):
  """Copies of one row in one batch have different losses."""
  model, (batch,) = _with_dropout(tiny_config), _batches(1)
  same = {name: np.repeat(array[:1], ROWS, axis=0) for name, array in batch.items()}
  seen = []
  for row in range(2):
    weights = np.zeros_like(same['decoder_loss_weights'])
    weights[row] = same['decoder_loss_weights'][row]
    _, metrics = _trained(model, [{**same, 'decoder_loss_weights': weights}])
    seen.append(metrics[0]['loss'])
  assert abs(seen[0] - seen[1]) > 1e-3


def test_losses_of_both_tasks_fall_on_a_batch_that_is_repeated(tiny_config):
  _, history = _trained(_with_dropout(tiny_config, 0.0), _batches(1) * 40)
  for task in LOSS.tasks:
    assert history[-1][f'{task}/loss'] < 0.7 * history[0][f'{task}/loss']


# Metrics


def _counted(model, params, batch, loss):
  """The metrics of a batch, sequence by sequence with numpy sums, from the network's logits."""
  logits = t5.bind(model, params)(
    *(jnp.asarray(batch[name]) for name in (
      'encoder_input_tokens', 'encoder_segment_ids', 'decoder_input_tokens', 'decoder_segment_ids',
    ))
  )  # fmt: skip
  targets = batch['decoder_target_tokens']
  token_loss = losses.token_losses(logits, jnp.asarray(targets), loss.z_loss, loss.label_smoothing)
  token_loss, best = np.asarray(token_loss, np.float64), np.asarray(logits).argmax(-1)
  counted = {f'{task}/{name}': 0.0 for task in LOSS.tasks for name in ('rows', 'loss_weight')}
  sums = dict.fromkeys(LOSS.tasks, np.zeros(2))
  for row in range(len(targets)):
    for segment in range(1, batch['decoder_segment_ids'][row].max() + 1):
      here = batch['decoder_segment_ids'][row] == segment
      (number,) = set(batch['decoder_task_ids'][row][here])
      task = LOSS.tasks[number]
      counted[f'{task}/rows'] += 1
      counted[f'{task}/loss_weight'] += here.sum()
      right = (best[row] == targets[row])[here].sum()
      sums[task] = sums[task] + [token_loss[row][here].sum(), right]
  for task in LOSS.tasks:
    means = sums[task] / max(counted[f'{task}/loss_weight'], 1)
    counted |= {f'{task}/loss': means[0], f'{task}/accuracy': means[1]}
  weights = loss.weights
  counted['loss'] = sum(w * counted[f'{t}/loss'] for w, t in zip(weights, LOSS.tasks, strict=True))
  return counted


@pytest.mark.parametrize('pack', [True, False])
def test_metrics_by_task_are_what_counting_by_hand_gives(tiny_config, tiny_params, pack):
  model = _with_dropout(tiny_config, 0.0)
  batch = _batches(1, pack)[0]
  _, (metrics,) = _trained(model, [batch])
  expected = _counted(model, tiny_params, batch, LOSS)
  assert expected['label/rows'] > 0 and expected['rationale/rows'] > 0
  assert expected['label/rows'] + expected['rationale/rows'] > (ROWS if pack else ROWS - 1)
  assert set(metrics) == {*expected, 'grad_norm', 'param_norm'}
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def test_a_batch_of_labels_alone_is_the_plain_label_loss(tiny_config):
  model = _with_dropout(tiny_config, 0.0)
  batches = _batches(2, mixture=MIXTURE[:1])
  state, history = _trained(model, batches)
  plain = _trained(model, batches, loss=dataclasses.replace(LOSS, weights=(1.0, 0.0)))
  _assert_near((state, history), plain, tolerance=1e-7)
  for metrics in history:
    assert metrics['loss'] == metrics['label/loss'] > 0
    assert metrics['rationale/rows'] == metrics['rationale/loss'] == 0
    assert np.isfinite(list(metrics.values())).all()


def test_norms_are_those_of_the_new_parameters_and_of_the_gradient_before_clipping(tiny_config):
  model = _with_dropout(tiny_config, 0.0)
  state, (metrics,) = _trained(model, _batches(1))
  norm = lambda tree: np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))  # noqa: E731
  np.testing.assert_allclose(metrics['param_norm'], norm(state.params), rtol=1e-5)
  (moments,) = [part for part in state.opt_state[1] if hasattr(part, 'mu')]
  assert metrics['grad_norm'] > OPTIMIZER.clip_norm  # and the moments are of what was clipped
  np.testing.assert_allclose(norm(moments.mu) / (1 - OPTIMIZER.b1), OPTIMIZER.clip_norm, rtol=1e-5)


def test_evaluated_parts_add_up_to_the_whole(tiny_config, tiny_params):
  """Over a pass with a last batch that is not full, without dropout."""
  model = _with_dropout(tiny_config)
  step = jax.jit(steps.make_eval_step(model, LOSS))

  def evaluated(rows):
    config = pipeline.DataConfig('unused', LENGTHS, rows, pack=True)
    sums = [step(tiny_params, batch.arrays) for batch in pipeline.epoch_batches(MIXTURE, config)]
    return steps.metrics_of_sums(jax.tree.map(lambda *parts: sum(parts), *sums), LOSS), len(sums)

  (parts, number), (whole, one) = evaluated(5), evaluated(64)
  assert number > 1 and one == 1
  assert whole['label/rows'] == whole['rationale/rows'] == 40
  assert whole['rationale/loss_weight'] == len(MIXTURE[1].examples.targets)
  _assert_near(parts, whole, tolerance=1e-5)
