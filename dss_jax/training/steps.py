"""One update and one evaluation step: pure functions of state and batch.

Owns gradients, accumulation over microbatches and the metrics of a step. Callers
own loops, I/O and logging.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from dss_jax.models import t5
from dss_jax.training import losses
from dss_jax.training.train_state import TrainState

Batch = Mapping[str, Array]
Metrics = dict[str, Array]


def make_train_step(
  model: t5.T5Config,
  objective: losses.Objective,
  optimizer: optax.GradientTransformation,
  seed: int,
  num_microbatches: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """The update as a function to jit: (state, batch) -> (state, metrics).

  The result does not depend on `num_microbatches` or on how rows are sharded: losses are divided by
  the full batch's loss weights, and each row has its own dropout key.

  Args:
    model: the network.
    objective: what is minimised.
    optimizer: optax's transformation.
    seed: of dropout.
    num_microbatches: how many parts of the batch are computed in turn.

  Returns:
    The step. Its metrics are those of `_metrics`, `grad_norm` before clipping, and `param_norm`
    after the update, which shows a parameter that is not finite before it is saved.
  """

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    rows = batch['decoder_target_tokens'].shape[0]
    row_keys = None
    if model.dropout_rate > 0.0:
      key = jax.random.fold_in(jax.random.key(seed), state.step)
      row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
    loss_weights = losses.sum_by_task(
      batch['decoder_loss_weights'], batch['decoder_task_ids'], len(objective.tasks)
    )

    def loss_of(params, part):
      part_batch, part_keys = part
      sums = _task_sums(model, objective, params, part_batch, part_keys)
      return losses.combine(sums['loss'], loss_weights, objective, state.step), sums

    grads, sums = _accumulate(
      jax.grad(loss_of, has_aux=True), state.params, (dict(batch), row_keys), num_microbatches
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
  """Sums over the batch of each task's token losses, correct tokens, loss weights and rows."""
  logits = t5.bind(model, params)(
    batch['encoder_input_tokens'],
    batch['encoder_segment_ids'],
    batch['decoder_input_tokens'],
    batch['decoder_segment_ids'],
    row_keys,
  )
  targets, weights = batch['decoder_target_tokens'], batch['decoder_loss_weights']
  token_loss = losses.token_losses(logits, targets, objective.z_loss, objective.label_smoothing)
  by_task = {
    'loss': token_loss * weights,
    'correct': losses.correct(logits, targets) * weights,
    'loss_weight': weights,
    'rows': _starts(batch['decoder_segment_ids']),
  }
  task_ids, count = batch['decoder_task_ids'], len(objective.tasks)
  return {name: losses.sum_by_task(v, task_ids, count) for name, v in by_task.items()}


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


def _accumulate(grad_fn, params, parts, num_microbatches: int):
  """Sums `grad_fn(params, part)` over microbatches, in float32.

  Microbatch i takes rows i, i + M, i + 2M, ...: each device's rows are spread evenly over the
  microbatches, so no row has to move.
  """
  if num_microbatches == 1:
    return grad_fn(params, parts)

  def split(x):
    return x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1)

  def body(total, part):
    return jax.tree.map(jnp.add, total, grad_fn(params, part)), None

  zeros = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: split(x)[0], parts)),
  )
  total, _ = jax.lax.scan(body, zeros, jax.tree.map(split, parts))
  return total
