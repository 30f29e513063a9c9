"""One update and one evaluation step: pure functions of state and batch.

Owns gradients, accumulation over microbatches and the metrics of a step. Callers
own loops, I/O and logging.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from dss_jax.methods import Term
from dss_jax.models import layers, t5
from dss_jax.training import group_losses, losses, perturbation
from dss_jax.training.train_state import TrainState

Batch = Mapping[str, Array]
Metrics = dict[str, Array]
# What is folded into a row's key besides the network's own numbers, 0 and 1.
_PERTURBATION, _SECOND_PASS = 2, 3


def make_train_step(
  model: t5.T5Config,
  objective: losses.Objective,
  optimizer: optax.GradientTransformation,
  seed: int,
  num_microbatches: int = 1,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """The update as a function to jit: (state, batch, seed) -> (state, metrics).

  The result does not depend on `num_microbatches` or on how rows are sharded: losses are divided by
  the full batch's loss weights, and each row has its own dropout key.

  Args:
    model: the network.
    objective: what is minimised.
    optimizer: optax's transformation.
    seed: of dropout, unless the step gets one as an argument: then one program serves all seeds.
    num_microbatches: how many parts of the batch are computed in turn.

  Returns:
    The step. Its metrics are those of `_metrics`, `grad_norm` before clipping, and `param_norm`
    after the update, which shows a parameter that is not finite before it is saved.
  """

  def step(state: TrainState, batch: Batch, seed: int | Array = seed) -> tuple[TrainState, Metrics]:
    rows = batch['decoder_target_tokens'].shape[0]
    row_keys = None
    if model.dropout_rate > 0.0 or objective.group_terms:
      key = jax.random.fold_in(jax.random.key(seed), state.step)
      row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
    loss_weights = _loss_weights(objective, batch)

    def loss_of(params, part):
      part_batch, part_keys = part
      sums = _task_sums(model, objective, params, part_batch, part_keys)
      return losses.combine(sums['loss'], loss_weights, objective, state.step), sums

    grads, sums = _accumulate(
      jax.grad(loss_of, has_aux=True),
      state.params,
      (dict(batch), row_keys),
      num_microbatches,
      objective.group,
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {'grad_norm': optax.tree.norm(grads), 'param_norm': optax.tree.norm(params)}
    metrics = _metrics(sums, objective, state.step) | norms
    return TrainState(state.step + 1, params, opt_state), metrics

  return step


def make_eval_step(
  model: t5.T5Config, objective: losses.Objective
) -> Callable[[t5.Params, Batch], Metrics]:
  """Sums by task of one batch without dropout; `metrics_of_sums` of their total is the result."""

  def step(params: t5.Params, batch: Batch) -> Metrics:
    return _task_sums(model, objective, params, batch, None)

  return step


def metrics_of_sums(sums: Metrics, objective: losses.Objective, step: int = 0) -> Metrics:
  """The metrics of the sums that eval steps gave, added up over batches, after `step` updates."""
  return _metrics(jax.tree.map(jnp.asarray, sums), objective, step)


def _task_sums(
  model: t5.T5Config, objective: losses.Objective, params, batch: Batch, row_keys
) -> Metrics:
  """Sums over the batch of each term's losses, correct predictions, loss weights and rows."""
  logits = _logits(model, params, batch, row_keys)
  targets, weights = batch['decoder_target_tokens'], batch['decoder_loss_weights']
  token_loss = losses.token_losses(logits, targets, objective.z_loss, objective.label_smoothing)
  by_task = {
    'loss': token_loss * weights,
    'correct': losses.correct(logits, targets) * weights,
    'rows': _starts(batch['decoder_segment_ids']),
  }
  task_ids, count = batch['decoder_task_ids'], len(objective.tasks)
  sums = {name: losses.sum_by_task(v, task_ids, count) for name, v in by_task.items()}
  for number, term in objective.group_terms:
    if term.kind == 'perturbed':
      spoilt = _perturbed(batch, objective.mark, row_keys, model.vocab_size)
      seen = _logits(model, params, spoilt, layers.fold_in(row_keys, _SECOND_PASS))
    else:
      seen = logits
    for name, value in _group_sums(term, objective.group, seen, batch).items():
      sums[name] = sums[name].at[number].set(value)
  return sums | {'loss_weight': _loss_weights(objective, batch)}


def _logits(model: t5.T5Config, params, batch: Batch, row_keys) -> Array:
  return t5.bind(model, params)(
    batch['encoder_input_tokens'],
    batch['encoder_segment_ids'],
    batch['decoder_input_tokens'],
    batch['decoder_segment_ids'],
    row_keys,
  )


def _perturbed(batch: Batch, mark, row_keys, vocab_size) -> Batch:
  """The batch with spoilt rationales; the same ones in every evaluation, which has no keys."""
  if row_keys is None:
    rows = jnp.arange(batch['encoder_input_tokens'].shape[0])
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), rows)
  tokens, segments = perturbation.perturbed(
    batch['encoder_input_tokens'],
    batch['encoder_segment_ids'],
    mark,
    jax.vmap(jax.random.fold_in, (0, None))(row_keys, _PERTURBATION),
    vocab_size,
  )
  return {**batch, 'encoder_input_tokens': tokens, 'encoder_segment_ids': segments}


def _group_sums(term: Term, group: int, logits: Array, batch: Batch) -> Metrics:
  """Sums over the examples of a batch: of a term's losses, right predictions, and examples."""
  targets, weights = batch['decoder_target_tokens'], batch['decoder_loss_weights']
  real = group_losses.real_examples(batch['decoder_segment_ids'], group)
  if term.kind == 'agreement':
    values, right = group_losses.agreement_losses(logits, weights), jnp.zeros_like(real)
  elif group > 1:
    token_losses = losses.token_losses(logits, targets)
    scores = group_losses.choice_scores(token_losses, weights, group)
    values = group_losses.choice_losses(scores, term.smoothing)
    right = group_losses.choice_correct(scores)
  else:  # no choices
    values = (losses.token_losses(logits, targets, 0.0, term.smoothing) * weights).sum(axis=1)
    right = (losses.correct(logits, targets) * weights).sum(axis=1)
  return {'loss': (values * real).sum(), 'correct': (right * real).sum(), 'rows': real.sum()}


def _loss_weights(objective: losses.Objective, batch: Batch) -> Array:
  """What divides the sums of each term: target tokens, or examples."""
  weights = batch['decoder_loss_weights']
  totals = losses.sum_by_task(weights, batch['decoder_task_ids'], len(objective.tasks))
  for number, _ in objective.group_terms:
    real = group_losses.real_examples(batch['decoder_segment_ids'], objective.group)
    totals = totals.at[number].set(real.sum() if objective.group > 1 else weights.sum())
  return totals


def _starts(segment_ids: Array) -> Array:
  """1.0 at the first token of every sequence, else 0.0."""
  before = jnp.pad(segment_ids, ((0, 0), (1, 0)))[:, :-1]
  return ((segment_ids != before) & (segment_ids > 0)).astype(jnp.float32)


def _metrics(sums: Metrics, objective: losses.Objective, step: int | Array) -> Metrics:
  """`loss`, and for each task <task>/{loss, accuracy, loss_weight, rows}; accuracy is of tokens."""
  weight = sums['loss_weight']
  means = {
    'loss': losses.mean_by_task(sums['loss'], weight),
    'accuracy': losses.mean_by_task(sums['correct'], weight),
    'loss_weight': weight,
    'rows': sums['rows'],
  }
  metrics = {'loss': losses.combine(sums['loss'], weight, objective, step)}
  for number, task in enumerate(objective.tasks):
    metrics |= {f'{task}/{name}': value[number] for name, value in means.items()}
  return metrics


def _accumulate(grad_fn, params, parts, num_microbatches: int, group: int):
  """Sums `grad_fn(params, part)` over microbatches, in float32.

  Microbatch i takes groups i, i + M, i + 2M, ... of `group` neighbouring rows: each device's rows
  are spread evenly over the microbatches, so no row has to move.
  """
  if num_microbatches == 1:
    return grad_fn(params, parts)

  def split(x):
    split = x.reshape(-1, num_microbatches, group, *x.shape[1:]).swapaxes(0, 1)
    return split.reshape(num_microbatches, -1, *x.shape[1:])

  def body(total, part):
    return jax.tree.map(jnp.add, total, grad_fn(params, part)), None

  zeros = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: split(x)[0], parts)),
  )
  total, _ = jax.lax.scan(body, zeros, jax.tree.map(split, parts))
  return total
