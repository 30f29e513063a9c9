"""The objective: a weighted sum of the mean token losses of tasks, over teacher-forced logits.

    L = Σ_task weight_task · mean token loss of the task, e.g. L_label + λ L_rationale

Owns the token losses and how they are combined over tasks. Knows nothing of the model: it sees
logits, targets, loss weights and task numbers. The method (dss_jax/methods) defines the tasks: a
task's number in a batch is its position among the objective's tasks.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dss_jax.methods import Term
from dss_jax.methods.base import Weight, check_weight, points_of
from dss_jax.methods.dss import DSS
from dss_jax.settings import fields


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """The settings of a run's objective.

  Attributes:
    rationale_weight: λ of L_label + λ L_rationale (Eq. 3), the weight of the task `rationale`;
      ignored if `alpha` is given. None takes the method's own, which is 1 for step by step. A
      number, or points (fraction of TRAIN_STEPS, number) with straight lines between them:
      ((0, 1.0), (1, 0.0)) falls from 1 to 0.
    alpha: the released code's form, alpha L_label + (1 - alpha) L_rationale, with alpha in [0, 1].
      Methods without the task `rationale` ignore both.
    z_loss: weight of log²Z added to every token's loss, which keeps logits small; T5X uses 1e-4.
    label_smoothing: probability mass given to all other tokens together, in [0, 1).
  """

  rationale_weight: Weight | None = None
  alpha: float | None = None
  z_loss: float = 0.0
  label_smoothing: float = 0.0

  def __post_init__(self):
    fields.check(self)
    if self.alpha is not None and not 0.0 <= self.alpha <= 1.0:
      raise ValueError(f'LossConfig.alpha (ALPHA) is in [0, 1] or None, not {self.alpha}.')
    if self.rationale_weight is not None:
      check_weight(self.rationale_weight, 'LossConfig.rationale_weight (RATIONALE_WEIGHT)')
    if not 0.0 <= self.label_smoothing < 1.0:
      raise ValueError(
        f'LossConfig.label_smoothing (LABEL_SMOOTHING) is in [0, 1), not {self.label_smoothing}.'
      )


@dataclasses.dataclass(frozen=True)
class Objective:
  """The objective of a step; hashable.

  Attributes:
    tasks: their names, in the order of their numbers.
    weights: of their mean token losses: numbers, or points (step, number) with straight lines
      between them.
    z_loss: see `LossConfig`.
    label_smoothing: likewise.
    group: rows of an example, which are neighbours in a batch; 1 where no term looks at several.
    group_terms: the terms of other kinds than 'tokens', by their task's number.
    mark: tokens that stand before the rationale in an input; for 'perturbed' terms.
  """

  tasks: tuple[str, ...] = DSS.tasks
  weights: tuple[Weight, ...] = (1.0, 1.0)
  z_loss: float = 0.0
  label_smoothing: float = 0.0
  group: int = 1
  group_terms: tuple[tuple[int, Term], ...] = ()
  mark: tuple[int, ...] = ()


def objective(
  terms: Sequence[Term],
  config: LossConfig,
  train_steps: int = 1,
  group: int = 1,
  mark: Sequence[int] = (),
) -> Objective:
  """The objective of a method's loss terms with a run's settings.

  Args:
    terms: of the method.
    config: settings of the run.
    train_steps: of the run, by which the fractions of schedules become steps.
    group: see `Objective`.
    mark: likewise.

  Raises:
    ValueError: a setting that the terms do not have a use for.
  """
  weights: dict[str, Weight] = {term.task: term.weight for term in terms}
  asked = {'ALPHA': config.alpha, 'RATIONALE_WEIGHT': config.rationale_weight}
  given = next((name for name, value in asked.items() if value is not None), None)
  scheduled = [task for task in ('label', 'rationale') if isinstance(weights.get(task), tuple)]
  if given and scheduled:
    raise ValueError(f'{given} would replace the schedule of METHOD for its {scheduled[0]} loss.')
  if config.alpha is not None and {'label', 'rationale'} <= set(weights):
    weights |= {'label': config.alpha, 'rationale': 1.0 - config.alpha}
  elif config.rationale_weight is not None and 'rationale' in weights and len(weights) > 1:
    weights['rationale'] = config.rationale_weight
  of_tokens = {'LABEL_SMOOTHING': config.label_smoothing, 'Z_LOSS': config.z_loss}
  ignored = next((name for name, value in of_tokens.items() if value), None)
  if ignored and not any(term.kind == 'tokens' for term in terms):
    raise ValueError(f'{ignored} is of token losses, and METHOD has none: leave it out.')
  in_steps = (
    tuple((float(at * train_steps), float(number)) for at, number in weight)
    if isinstance(weight, tuple)
    else float(weight)
    for weight in weights.values()
  )
  grouped = tuple((number, term) for number, term in enumerate(terms) if term.kind != 'tokens')
  return Objective(
    tasks=tuple(weights),
    weights=tuple(in_steps),
    z_loss=config.z_loss,
    label_smoothing=config.label_smoothing,
    group=group,
    group_terms=grouped,
    mark=tuple(mark),
  )


def token_losses(
  logits: Float[Array, '*batch vocab'],
  targets: Int[Array, '*batch'],
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
) -> Float[Array, '*batch']:
  """Cross-entropy of every token in nats, in float32.

      -Σ_v q(v) log p(v) + Σ_v q(v) log q(v) + z_loss log²Z

  where q puts 1 - label_smoothing on the target and the rest evenly on the other tokens. The second
  term is a constant that makes a perfect prediction cost nothing.

  Args:
    logits: unnormalised log probabilities.
    targets: token ids in [0, vocab).
    z_loss: weight of log²Z.
    label_smoothing: mass on all other tokens together, in [0, 1).

  Returns:
    One loss per token.

  Source: T5X `losses.cross_entropy_with_logits`.
  """
  return _token_losses(logits.astype(jnp.float32), targets, z_loss, label_smoothing)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _token_losses(logits, targets, z_loss: float, label_smoothing: float):
  return _forward(logits, targets, z_loss, label_smoothing)[0]


def _forward(logits, targets, z_loss: float, label_smoothing: float):
  """The losses, and the residuals of the gradient: no other array as large as the logits."""
  largest = jnp.max(logits, axis=-1)
  log_z = largest + jnp.log(jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1))
  loss = log_z - _target_logits(logits, targets)
  if label_smoothing > 0.0:
    vocab = logits.shape[-1]
    confidence, each = 1.0 - label_smoothing, label_smoothing / (vocab - 1)
    others = vocab * log_z - jnp.sum(logits, axis=-1) - loss
    entropy = -(confidence * jnp.log(confidence) + label_smoothing * jnp.log(each))
    loss = confidence * loss + each * others - entropy
  if z_loss:
    loss += z_loss * jnp.square(log_z)
  return loss, (logits, targets, log_z)


def _backward(z_loss: float, label_smoothing: float, residuals, gradient):
  """p (1 + 2 z_loss log Z) - q in one pass over the logits, where autodiff takes three."""
  logits, targets, log_z = residuals
  each = label_smoothing / (logits.shape[-1] - 1)
  p = jnp.exp(logits - log_z[..., None])
  q = jnp.where(_is_target(logits, targets), 1.0 - label_smoothing, each)
  return gradient[..., None] * (p * (1.0 + 2.0 * z_loss * log_z)[..., None] - q), None


_token_losses.defvjp(_forward, _backward)


def correct(
  logits: Float[Array, '*batch vocab'], targets: Int[Array, '*batch']
) -> Float[Array, '*batch']:
  """1.0 where no other token is likelier than the target, else 0.0."""
  # An argmax would be another pass over the logits; the loss needs these two passes anyway.
  logits = logits.astype(jnp.float32)
  return (_target_logits(logits, targets) >= jnp.max(logits, axis=-1)).astype(jnp.float32)


def _target_logits(logits, targets):
  # A sum: a gather is not fused with other passes, and moves logits that are sharded.
  return jnp.sum(jnp.where(_is_target(logits, targets), logits, 0.0), axis=-1)


def _is_target(logits, targets):
  vocabulary = jnp.arange(logits.shape[-1])
  return jnp.expand_dims(vocabulary, range(targets.ndim)) == targets[..., None]


def sum_by_task(
  values: Float[Array, 'b l'], task_ids: Int[Array, 'b l'], count: int
) -> Float[Array, 'tasks']:
  """Sums of `values` over the tokens of each of `count` tasks."""
  return jnp.stack([jnp.sum(jnp.where(task_ids == t, values, 0.0)) for t in range(count)])


def mean_by_task(
  sums: Float[Array, 'tasks'], loss_weights: Float[Array, 'tasks']
) -> Float[Array, 'tasks']:
  """sums / loss_weights, and 0 for a task that has no tokens."""
  return sums / jnp.maximum(loss_weights, jnp.finfo(jnp.float32).tiny)


def weights_at(objective: Objective, step: int | Int[Array, '']) -> Float[Array, 'tasks']:
  """The tasks' weights in the update after `step` others; before and after all points, the ends'.

  Of several points at one step, the last holds from there on.
  """
  if not any(isinstance(weight, tuple) for weight in objective.weights):
    return jnp.asarray(objective.weights)
  now = jnp.asarray(step).astype(jnp.float32)
  return jnp.stack([_weight_at(points_of(weight), now) for weight in objective.weights])


def _weight_at(points: tuple[tuple[float, float], ...], now: Float[Array, '']) -> Float[Array, '']:
  value = jnp.asarray(points[0][1], jnp.float32)
  for (start, first), (end, last) in itertools.pairwise(points):
    slope = (last - first) / (end - start) if end > start else 0.0
    value = jnp.where(now >= start, first + slope * (jnp.minimum(now, end) - start), value)
  return jnp.where(now >= points[-1][0], points[-1][1], value)


def combine(
  loss_sums: Float[Array, 'tasks'],
  loss_weights: Float[Array, 'tasks'],
  objective: Objective,
  step: int | Int[Array, ''] = 0,
) -> Float[Array, '']:
  """Σ_task weight_task · Σ loss_task / N_task.

  N is the *global* loss weight of each task: of the full batch over all devices and microbatches.
  Then a long rationale does not outweigh a short label, and the sum of this function over
  microbatches, with the same N, is the loss of the full batch.

  Args:
    loss_sums: sum of weighted token losses of each task, over any part of the batch.
    loss_weights: N of each task over the full batch.
    objective: the tasks' weights.
    step: at which they are taken, if they change.

  Returns:
    Its value.

  Source: Hsieh et al. 2023, Eq. 3; the alpha form is `compute_loss` of the released code.
  """
  return jnp.sum(weights_at(objective, step) * mean_by_task(loss_sums, loss_weights))
