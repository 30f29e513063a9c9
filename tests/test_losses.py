"""The objective against scipy, torch and T5X's formula, and what it must not depend on."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dss_jax import methods
from dss_jax.methods import Term
from dss_jax.settings import json_form
from dss_jax.training import losses

LABEL, RATIONALE = 0, 1


def _objective(**settings):
  """Step by step's objective with settings of a run."""
  return losses.objective(methods.dss.DSS.loss, losses.LossConfig(**settings))


def _drawn(*shape, vocab=11, seed=0):
  """Logits [*shape, vocab] that are not small, and targets [*shape]."""
  rng = np.random.default_rng(seed)
  logits = 3.0 * rng.normal(size=(*shape, vocab)).astype(np.float32)
  return jnp.asarray(logits), jnp.asarray(rng.integers(0, vocab, shape), jnp.int32)


def _smoothed(logits, targets, z_loss, label_smoothing):
  """T5X's `compute_weighted_cross_entropy`, written out in float64 for every token."""
  logits = np.asarray(logits, np.float64)
  vocab = logits.shape[-1]
  confidence, low = 1.0 - label_smoothing, label_smoothing / (vocab - 1)
  soft = np.where(np.eye(vocab)[targets] > 0, confidence, low)
  constant = -(confidence * np.log(confidence) + (vocab - 1) * low * np.log(low + 1e-20))
  log_z = special.logsumexp(logits, axis=-1)
  return -np.sum(soft * special.log_softmax(logits, axis=-1), -1) + z_loss * log_z**2 - constant


def _token_task_sums(logits, targets, weights, task_ids):
  loss = losses.token_losses(jnp.asarray(logits), jnp.asarray(targets))
  task_ids = jnp.asarray(task_ids)
  return (
    losses.sum_by_task(loss * weights, task_ids, 2),
    losses.sum_by_task(jnp.asarray(weights), task_ids, 2),
  )


# Tokens


def test_a_token_costs_the_negative_log_probability_of_its_target():
  # p = (1/2, 1/4, 1/4)
  logits = jnp.log(jnp.array([[2.0, 1.0, 1.0]]))
  np.testing.assert_allclose(losses.token_losses(logits, jnp.array([0])), [np.log(2)], rtol=1e-6)
  np.testing.assert_allclose(losses.token_losses(logits, jnp.array([2])), [np.log(4)], rtol=1e-6)


def test_token_losses_equal_scipys_log_softmax():
  logits, targets = _drawn(4, 7)
  expected = -np.take_along_axis(special.log_softmax(logits, -1), targets[..., None], -1)[..., 0]
  np.testing.assert_allclose(losses.token_losses(logits, targets), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('z_loss', [0.0, 1e-2])
@pytest.mark.parametrize('label_smoothing', [0.0, 0.1, 0.6])
def test_smoothing_and_z_loss_are_t5xs(z_loss, label_smoothing):
  logits, targets = _drawn(4, 7)
  found = losses.token_losses(logits, targets, z_loss, label_smoothing)
  expected = _smoothed(logits, targets, z_loss, label_smoothing)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.torch
def test_cross_entropy_and_its_gradient_equal_torchs():
  torch = pytest.importorskip('torch')
  logits, targets = _drawn(5, 3)
  theirs = torch.tensor(np.array(logits), requires_grad=True)
  wanted = torch.tensor(np.array(targets)).long()
  loss = torch.nn.functional.cross_entropy(theirs.mT, wanted)
  loss.backward()
  found, gradient = jax.value_and_grad(lambda x: losses.token_losses(x, targets).mean())(logits)
  np.testing.assert_allclose(found, loss.item(), rtol=1e-6)
  np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.torch
@pytest.mark.parametrize('label_smoothing', [0.1, 0.5])
def test_smoothed_gradient_equals_torchs(label_smoothing):
  """torch spreads the mass over all tokens, T5X over the others: two names of one distribution."""
  torch = pytest.importorskip('torch')
  logits, targets = _drawn(5, 3)
  theirs = torch.tensor(np.array(logits), requires_grad=True)
  wanted = torch.tensor(np.array(targets)).long()
  smoothing = label_smoothing * 11 / 10
  torch.nn.functional.cross_entropy(theirs.mT, wanted, label_smoothing=smoothing).backward()
  gradient = jax.grad(
    lambda x: losses.token_losses(x, targets, label_smoothing=label_smoothing).mean()
  )(logits)
  np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_a_perfect_prediction_of_smoothed_targets_costs_nothing():
  smooth = np.full((1, 11), 0.3 / 10, np.float32)
  smooth[0, 4] = 0.7
  loss = losses.token_losses(jnp.log(smooth), jnp.array([4]), label_smoothing=0.3)
  np.testing.assert_allclose(loss, [0.0], atol=1e-6)


@pytest.mark.parametrize('z_loss', [0.0, 1e-2])
@pytest.mark.parametrize('label_smoothing', [0.0, 0.1])
def test_the_gradient_is_the_derivative(z_loss, label_smoothing):
  """The gradient is written out by hand in losses.py; scipy's softmax has it in float64."""
  logits, targets = _drawn(4, 7)
  each_token = np.random.default_rng(1).normal(size=(4, 7))
  gradient = jax.grad(
    lambda x: jnp.sum(losses.token_losses(x, targets, z_loss, label_smoothing) * each_token)
  )(logits)
  x = np.asarray(logits, np.float64)
  q = np.where(np.eye(11)[targets] > 0, 1.0 - label_smoothing, label_smoothing / 10)
  log_z = special.logsumexp(x, axis=-1, keepdims=True)
  expected = (special.softmax(x, -1) * (1.0 + 2.0 * z_loss * log_z) - q) * each_token[..., None]
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_a_token_is_correct_where_none_is_likelier():
  logits = jnp.array([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [3.0, 3.0, 0.0]])
  np.testing.assert_array_equal(losses.correct(logits, jnp.array([1, 2, 1])), [1.0, 0.0, 1.0])
  logits, targets = _drawn(30, 7)
  likeliest = np.asarray(logits).argmax(-1)
  assert 0 < (likeliest == np.asarray(targets)).sum() < targets.size
  np.testing.assert_array_equal(losses.correct(logits, targets), likeliest == np.asarray(targets))


def test_no_pass_over_the_vocabulary_but_those_that_are_needed():
  """Neither the loss nor its gradient gathers or scatters: devices may share the vocabulary."""
  logits, targets = _drawn(4, 7)
  loss = lambda x: jnp.sum(losses.token_losses(x, targets, 1e-4, 0.1))  # noqa: E731
  text = jax.jit(jax.value_and_grad(loss)).lower(logits).as_text()
  assert 'exponential' in text
  assert 'gather' not in text and 'scatter' not in text


def test_bfloat16_logits_are_computed_in_float32():
  logits, targets = _drawn(4, 7)
  short = logits.astype(jnp.bfloat16)
  found = losses.token_losses(short, targets)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, losses.token_losses(short.astype(jnp.float32), targets))


def test_huge_logits_stay_finite():
  logits = jnp.array([[1e4, -1e4, 0.0]])
  np.testing.assert_allclose(losses.token_losses(logits, jnp.array([1])), [2e4])


# The two tasks


def test_each_task_is_divided_by_its_own_loss_weight():
  """Ten rationale tokens against two label tokens: a token mean would weigh them 5 to 1."""
  loss_sums, weights = jnp.array([2 * 3.0, 10 * 0.5]), jnp.array([2.0, 10.0])
  total = losses.combine(loss_sums, weights, _objective())
  np.testing.assert_allclose(total, 3.0 + 0.5)


@pytest.mark.parametrize('rationale_weight', [0.0, 0.3, 2.0])
def test_lambda_weighs_the_rationales(rationale_weight):
  config = _objective(rationale_weight=rationale_weight)
  total = losses.combine(jnp.array([6.0, 5.0]), jnp.array([2.0, 10.0]), config)
  np.testing.assert_allclose(total, 3.0 + rationale_weight * 0.5, rtol=1e-6)


@pytest.mark.parametrize('alpha', [0.1, 0.5, 0.8])
def test_alpha_is_lambda_up_to_a_factor(alpha):
  sums, weights = jnp.array([6.0, 5.0]), jnp.array([2.0, 10.0])
  by_alpha = losses.combine(sums, weights, _objective(alpha=alpha))
  by_lambda = losses.combine(sums, weights, _objective(rationale_weight=(1 - alpha) / alpha))
  np.testing.assert_allclose(by_alpha, alpha * 3.0 + (1 - alpha) * 0.5, rtol=1e-6)
  np.testing.assert_allclose(by_alpha, alpha * by_lambda, rtol=1e-6)


@pytest.mark.parametrize('alpha, kept', [(0.0, 0.5), (1.0, 3.0)])
def test_the_ends_of_alpha_keep_one_task(alpha, kept):
  total = losses.combine(jnp.array([6.0, 5.0]), jnp.array([2.0, 10.0]), _objective(alpha=alpha))
  np.testing.assert_allclose(total, kept)


@pytest.mark.parametrize(
  'setting, value',
  [
    ('alpha', 1.1),
    ('alpha', -0.1),
    ('rationale_weight', -1.0),
    ('label_smoothing', 1.0),
    ('label_smoothing', -0.1),
  ],
)
def test_impossible_weights_are_refused_by_name(setting, value):
  with pytest.raises(ValueError, match=f'{setting} .*{setting.upper()}.* not {value}'):
    losses.LossConfig(**{setting: value})


def _rows():
  """Four label rows and three rationale rows: (logits, targets, task) of different lengths."""
  lengths = [(2, LABEL), (9, RATIONALE), (3, LABEL), (5, RATIONALE), (1, LABEL), (7, RATIONALE)]
  return [(*_drawn(n, seed=n), task) for n, task in [*lengths, (4, LABEL)]]


def _laid_out(rows, places, width):
  """Arrays [len(places), width]: the rows of each place one behind the other, then padding."""
  logits = np.full((len(places), width, 11), 7.0, np.float32)
  targets, weights, tasks = np.zeros((3, len(places), width), np.int32)
  for place, members in enumerate(places):
    start = 0
    for member in members:
      row_logits, row_targets, task = rows[member]
      end = start + len(row_targets)
      logits[place, start:end], targets[place, start:end] = row_logits, row_targets
      weights[place, start:end], tasks[place, start:end] = 1.0, task
      start = end
  return logits, targets, weights.astype(np.float32), tasks


def _expected(rows):
  """Mean over all tokens of each task, computed row by row in float64."""
  by_task = []
  for task in (LABEL, RATIONALE):
    tokens = [
      -np.take_along_axis(special.log_softmax(np.asarray(x, np.float64), -1), y[:, None], -1)[:, 0]
      for x, y, of in rows
      if of == task
    ]
    by_task.append(np.concatenate(tokens).mean())
  return by_task[0] + 0.7 * by_task[1]


@pytest.mark.parametrize(
  'places, width',
  [
    ([[i] for i in range(7)], 9),  # one a row
    ([[i] for i in range(7)], 30),  # more padding
    ([[0, 1, 2], [3, 4], [5, 6]], 14),  # rows with both tasks
    ([[6, 5, 4, 3, 2, 1, 0]], 31),  # all in one row
    ([[i] for i in range(7)] + [[], []], 9),  # filler rows
  ],
)
def test_the_objective_does_not_depend_on_packing_or_padding(places, width):
  rows = _rows()
  sums, weights = _token_task_sums(*_laid_out(rows, places, width))
  total = losses.combine(sums, weights, _objective(rationale_weight=0.7))
  np.testing.assert_allclose(total, _expected(rows), rtol=1e-6)
  np.testing.assert_array_equal(weights, [10.0, 21.0])


@pytest.mark.parametrize('cuts', [[1], [3], [2, 4], [1, 2, 3, 4, 5, 6]])
def test_parts_with_the_whole_batchs_weights_add_up_to_the_whole(cuts):
  """Parts of one task only, and of unequal numbers of tokens, are among them."""
  rows, config = _rows(), _objective(rationale_weight=0.7)
  arrays = _laid_out(rows, [[i] for i in range(7)], 9)
  weights = _token_task_sums(*arrays)[1]
  parts = [
    losses.combine(_token_task_sums(*part)[0], weights, config)
    for part in zip(*(np.split(array, cuts) for array in arrays), strict=True)
  ]
  np.testing.assert_allclose(sum(parts), _expected(rows), rtol=1e-6)


@pytest.mark.parametrize('absent', [LABEL, RATIONALE])
def test_an_absent_task_costs_nothing_and_its_gradient_is_finite(absent):
  rows = [row for row in _rows() if row[2] != absent]
  arrays = _laid_out(rows, [[i] for i in range(len(rows))], 9)
  logits, targets, weights, tasks = map(jnp.asarray, arrays)

  def objective(x):
    sums, counts = _token_task_sums(x, targets, weights, tasks)
    return losses.combine(sums, counts, _objective())

  total, gradient = jax.value_and_grad(objective)(logits)
  tokens = np.array(losses.token_losses(logits, targets))[weights > 0]
  np.testing.assert_allclose(total, tokens.mean(), rtol=1e-6)
  assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
  assert not gradient[weights == 0].any()


def test_an_empty_batch_costs_nothing():
  zeros = jnp.zeros(2)
  total, gradient = jax.value_and_grad(losses.combine)(zeros, zeros, _objective())
  assert total == 0.0 and np.isfinite(gradient).all()


# The open table of tasks


def test_a_methods_own_weights_hold_unless_the_run_sets_lambda():
  terms = (Term('label', 2.0), Term('rationale', 0.25), Term('self_evaluation', 3.0))
  found = losses.objective(terms, losses.LossConfig())
  assert (found.tasks, found.weights) == (('label', 'rationale', 'self_evaluation'), (2, 0.25, 3))
  assert losses.objective(terms, losses.LossConfig(rationale_weight=0.5)).weights == (2, 0.5, 3)
  assert losses.objective(terms, losses.LossConfig(alpha=0.25)).weights == (0.25, 0.75, 3)


@pytest.mark.parametrize('settings', [{'alpha': 0.25}, {'rationale_weight': 0.5}])
def test_a_method_of_one_task_ignores_the_weights_of_two(settings):
  for method in (methods.standard.STANDARD, methods.one_task.RATIONALE):
    assert losses.objective(method.loss, losses.LossConfig(**settings)).weights == (1.0,)


def test_three_tasks_are_each_divided_by_their_own_loss_weight():
  terms = (Term('label'), Term('rationale', 0.5), Term('third', 2.0))
  objective = losses.objective(terms, losses.LossConfig())
  values = jnp.array([[6.0, 1.0, 2.0, 2.0, 9.0, 1.0]])
  tasks = jnp.array([[0, 1, 2, 2, 0, 1]])
  sums = losses.sum_by_task(values, tasks, 3)
  weights = losses.sum_by_task(jnp.ones_like(values), tasks, 3)
  total = losses.combine(sums, weights, objective)
  np.testing.assert_allclose(total, 7.5 + 0.5 * 1.0 + 2.0 * 2.0)


# Weights that change


@pytest.mark.parametrize(
  'points', [((0.0, 1.0), (1.0, 0.0)), ((0.25, 0.5),), ((0.1, 0.0), (0.5, 2.0), (0.7, 1.0))]
)
def test_a_weight_of_points_is_numpys_interpolation(points):
  objective = losses.objective(
    methods.dss.DSS.loss, losses.LossConfig(rationale_weight=points), train_steps=40
  )
  at, numbers = zip(*points, strict=True)
  for step in (0, 1, 7, 10, 20, 33, 40, 50):
    found = losses.weights_at(objective, jnp.asarray(step, jnp.int32))
    np.testing.assert_allclose(found, [1.0, np.interp(step / 40, at, numbers)], atol=1e-6)


def test_the_phases_of_a_curriculum():
  """Thirds of 30 steps: labels, both, rationales; the loss is of the weights of its step."""
  objective = losses.objective(methods.curriculum.CURRICULUM.loss, losses.LossConfig(), 30)
  phases = [losses.weights_at(objective, step).tolist() for step in (0, 9, 10, 19, 20, 29)]
  assert phases == [[1, 0], [1, 0], [1, 1], [1, 1], [0, 1], [0, 1]]
  sums, weights = jnp.array([6.0, 5.0]), jnp.array([2.0, 10.0])
  found = [float(losses.combine(sums, weights, objective, step)) for step in (0, 10, 29)]
  np.testing.assert_allclose(found, [3.0, 3.5, 0.5])


def test_lambda_may_be_points_and_is_refused_by_name_where_they_are_none():
  assert losses.LossConfig(rationale_weight=((0.0, 1.0), (1.0, 0.0)))
  with pytest.raises(ValueError, match=r'rationale_weight \(RATIONALE_WEIGHT\) is a number, or'):
    losses.LossConfig(rationale_weight=((0.5, 1.0), (0.2, 0.0)))


def test_a_schedule_survives_the_json_of_a_plan():
  settings = losses.LossConfig(rationale_weight=((0.0, 1.0), (1.0, 0.0)))
  objective = losses.objective(methods.dss.DSS.loss, settings, 40)
  values = json.loads(json.dumps(json_form.to_dict(objective)))
  assert json_form.from_dict(losses.Objective, values) == objective
