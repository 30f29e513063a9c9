"""Losses over the rows of an example, against PyTorch's, and spoilt rationales."""

import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dss_jax import methods
from dss_jax.models import t5
from dss_jax.training import group_losses, losses, optimizers, perturbation, steps, train_state

MARK = (7, 8)
ROWS, WIDTH, LENGTH = 12, 14, 5


def objective_of(name: str, group: int) -> losses.Objective:
  return losses.objective(methods.get(name).loss, losses.LossConfig(), group=group, mark=MARK)


def batch_of(group: int, tasks: int, empty: int = 0) -> dict[str, np.ndarray]:
  """A batch in the form of pipeline.py; the rows of an example are neighbours; `empty` at the end.

  Every input is a question of 4 tokens, the mark, a rationale, and an EOS.
  """
  random = np.random.default_rng(3)
  inputs = random.integers(9, networks.VOCAB, (ROWS, WIDTH))
  inputs[:, 4:6], inputs[:, 11] = MARK, 1
  inputs[:, 12:] = 0
  lengths = random.integers(1, LENGTH + 1, ROWS)
  lengths[ROWS - empty :] = 0
  real = np.arange(LENGTH) < lengths[:, None]
  targets = np.where(real, random.integers(3, networks.VOCAB, (ROWS, LENGTH)), 0)
  inputs[ROWS - empty :] = 0
  return {
    'encoder_input_tokens': inputs.astype(np.int32),
    'encoder_segment_ids': (inputs > 0).astype(np.int32),
    'decoder_input_tokens': networks.shifted(targets).astype(np.int32),
    'decoder_target_tokens': targets.astype(np.int32),
    'decoder_segment_ids': real.astype(np.int32),
    'decoder_task_ids': np.where(real, (np.arange(ROWS) % tasks)[:, None], 0).astype(np.int32),
    'decoder_loss_weights': real.astype(np.float32),
  }


@pytest.fixture(scope='module')
def model(tiny_config):
  return tiny_config


@pytest.fixture(scope='module')
def params(model):
  return networks.params(model, 1)


def logits_of(model, params, batch) -> np.ndarray:
  keys = ('encoder_input_tokens', 'encoder_segment_ids', 'decoder_input_tokens',
          'decoder_segment_ids')  # fmt: skip
  return np.array(networks.logits(model, params, *(batch[key] for key in keys)))


def metrics_of(model, params, objective, batch) -> dict[str, float]:
  sums = jax.jit(steps.make_eval_step(model, objective))(params, batch)
  return {name: float(v) for name, v in steps.metrics_of_sums(sums, objective).items()}


def spoilt(batch, vocab_size):
  """The batch as an evaluation spoils it."""
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  keys = jax.vmap(jax.random.fold_in, (0, None))(fold(jax.random.key(0), jnp.arange(ROWS)), 2)
  inputs, segments = perturbation.perturbed(
    batch['encoder_input_tokens'], batch['encoder_segment_ids'], MARK, keys, vocab_size
  )
  return {**batch, 'encoder_input_tokens': inputs, 'encoder_segment_ids': segments}


def torch_scores(torch, logits, batch, group):
  """As PINTO's released code scores choices: the mean over targets that are not -100."""
  targets = torch.tensor(
    np.where(batch['decoder_loss_weights'] > 0, batch['decoder_target_tokens'], -100)
  )
  flat = torch.nn.functional.cross_entropy(
    torch.tensor(logits).flatten(0, 1), targets.flatten().long(), reduction='none'
  )
  return (-flat.view(targets.shape).sum(-1) / (targets != -100).sum(-1)).view(-1, group)


@pytest.mark.parametrize('empty', [0, 3])
def test_pinto_is_cross_entropy_over_choices_and_smoothed_over_spoilt_ones(model, params, empty):
  torch = pytest.importorskip('torch')
  batch, objective = batch_of(3, 1, empty), objective_of('pinto', 3)
  found = metrics_of(model, params, objective, batch)
  count = (ROWS - empty) // 3
  right = torch.zeros(count, dtype=torch.long)
  clean = torch_scores(torch, logits_of(model, params, batch), batch, 3)[:count]
  changed = spoilt(batch, model.vocab_size)
  noisy = torch_scores(torch, logits_of(model, params, changed), batch, 3)[:count]
  cross_entropy = torch.nn.functional.cross_entropy
  label = float(cross_entropy(clean, right))
  perturbed = float(cross_entropy(noisy, right, label_smoothing=0.1))
  assert found['label/loss'] == pytest.approx(label, rel=1e-5)
  assert found['perturbed/loss'] == pytest.approx(perturbed, rel=1e-5)
  assert found['loss'] == pytest.approx(label + perturbed, rel=1e-5)
  assert found['label/accuracy'] == pytest.approx(float((clean.argmax(1) == 0).float().mean()))
  assert found['label/rows'] == found['label/loss_weight'] == count
  assert label != pytest.approx(perturbed, rel=1e-3)


def test_pinto_without_choices_is_two_token_losses(model, params):
  batch, objective = batch_of(1, 1), objective_of('pinto', 1)
  found = metrics_of(model, params, objective, batch)
  weights = batch['decoder_loss_weights']

  def mean(batch, smoothing):
    logits = jnp.array(logits_of(model, params, batch))
    targets = jnp.array(batch['decoder_target_tokens'])
    token_losses = losses.token_losses(logits, targets, 0.0, smoothing)
    return float((token_losses * weights).sum() / weights.sum())

  assert found['label/loss'] == pytest.approx(mean(batch, 0.0), rel=1e-5)
  assert found['perturbed/loss'] == pytest.approx(
    mean(spoilt(batch, model.vocab_size), 0.1), rel=1e-5
  )


def test_mutual_information_is_the_released_codes_loss(model, params):
  torch = pytest.importorskip('torch')
  batch, objective = batch_of(2, 2), objective_of('mutual_information', 2)
  found = metrics_of(model, params, objective, batch)
  logits = torch.tensor(logits_of(model, params, batch))
  real = torch.tensor(batch['decoder_loss_weights'])
  targets = torch.tensor(batch['decoder_target_tokens']).long()
  tokens = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction='none')
  means = [float(tokens[task::2][real[task::2] > 0].mean()) for task in (0, 1)]
  largest = (logits.softmax(-1) * real[..., None]).max(dim=-2)[0]
  agreement = float(torch.nn.CrossEntropyLoss()(largest[1::2], largest[0::2]))
  assert found['agreement/loss'] == pytest.approx(agreement, rel=1e-5)
  expected = 0.5 * means[0] + 0.5 * means[1] + 0.1 * agreement
  assert found['loss'] == pytest.approx(expected, rel=1e-5)
  assert found['agreement/rows'] == ROWS / 2


def test_the_labels_prediction_is_not_pulled_towards_the_rationales():
  logits = jax.random.normal(jax.random.key(1), (4, 3, 9))
  weights = jnp.ones((4, 3))
  gradient = jax.grad(lambda x: group_losses.agreement_losses(x, weights).sum())(logits)
  assert float(jnp.abs(gradient[0::2]).max()) == 0.0 < float(jnp.abs(gradient[1::2]).max())


@functools.cache
def _updated(model, name, group, microbatches):
  """State and metrics after an update with dropout and microbatches."""
  optimizer = optimizers.make_optimizer(
    optimizers.OptimizerConfig(learning_rate=0.05, schedule='constant', eps=1e-2),
    t5.logical_axes(model),
  )
  state = train_state.from_params(networks.params(model, 1), optimizer)
  step = steps.make_train_step(model, objective_of(name, group), optimizer, 7, microbatches)
  return jax.device_get(jax.jit(step)(state, batch_of(group, 2 if group == 2 else 1)))


@pytest.mark.parametrize(('name', 'group'), [('pinto', 3), ('mutual_information', 2)])
def test_an_update_does_not_depend_on_microbatches(model, name, group):
  whole, parts = (_updated(model, name, group, count) for count in (1, 2))
  networks.assert_trees_near(parts, whole, 2e-5)


# Spoilt rationales


def test_only_the_rationale_is_spoilt_and_each_row_has_its_own_draw():
  batch = batch_of(1, 1)
  inputs, segments = batch['encoder_input_tokens'], batch['encoder_segment_ids']
  where = np.array(perturbation.rationale_positions(inputs, segments, MARK))
  assert where.tolist() == [[6 <= at < 11 for at in range(WIDTH)]] * ROWS
  many = lambda array: np.tile(array, (40, 1))  # noqa: E731
  keys = jax.random.split(jax.random.key(0), 40 * ROWS)
  tokens, seen = perturbation.perturbed(many(inputs), many(segments), MARK, keys, networks.VOCAB)
  changed, hidden = np.array(tokens != many(inputs)), np.array(seen != many(segments))
  assert not (changed | hidden)[~many(where)].any()
  is_hidden = hidden.any(axis=1)
  assert hidden[is_hidden].sum() == 5 * is_hidden.sum() and 0.4 < is_hidden.mean() < 0.6
  assert not changed[is_hidden].any()
  assert set(changed[~is_hidden].sum(axis=1)) <= {0, 1}  # of 5 tokens; a random one may be the same
  assert np.array(tokens)[changed].min() >= 3
  assert set(np.flatnonzero(changed.any(axis=0))) == set(range(6, 11))


def test_a_row_without_a_mark_has_no_rationale():
  inputs = np.array([[4, 7, 9, 8, 1, 0], [7, 8, 1, 0, 0, 0], [9, 9, 5, 1, 7, 8]], np.int32)
  assert not perturbation.rationale_positions(inputs, (inputs > 0) * 1, MARK).any()


@pytest.mark.parametrize('setting', ['label_smoothing', 'z_loss'])
def test_a_setting_of_token_losses_is_refused_where_there_are_none(setting):
  config = losses.LossConfig(**{setting: 0.1})
  with pytest.raises(
    ValueError, match=f'{setting.upper()} is of token losses, and METHOD has none'
  ):
    losses.objective(methods.get('pinto').loss, config)
  losses.objective(methods.get('mutual_information').loss, config)
