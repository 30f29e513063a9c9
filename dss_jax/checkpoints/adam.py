"""The state of AdamW apart from optax's tree: both means of each parameter's gradients.

Owns the form in which it is stored and exported: {'step': updates so far, 'mu', 'nu': nested dicts
by the paths of our parameters}, optax's means of the gradients and of their squares. T5X's names
for them are in t5x_adamw.py.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from optax import ScaleByAdamState

from dss_jax.checkpoints import transfer

KINDS = ('mu', 'nu')


def moments_of(opt_state: Any) -> dict[str, Any] | None:
  """The means in an optimizer's state, or None where it is not AdamW's.

  Args:
    opt_state: of `optimizers.make_optimizer`; arrays, or ShapeDtypeStructs.
  """
  state = next((leaf for leaf in _leaves(opt_state) if isinstance(leaf, ScaleByAdamState)), None)
  return None if state is None else {'step': state.count, 'mu': state.mu, 'nu': state.nu}


def with_moments(opt_state: Any, moments: Mapping[str, Any]) -> Any | None:
  """An optimizer's state with these means, or None where it is not AdamW's.

  The correction of their bias continues from their step; the learning-rate schedule starts afresh.

  Args:
    opt_state: of `optimizers.make_optimizer`, fresh.
    moments: as `moments_of` gives them.

  Raises:
    ValueError: they belong to other parameters, or have other shapes.
  """
  mine = moments_of(opt_state)
  if mine is None:
    return None
  transfer.check_means('AdamW', KINDS, mine, moments)

  def put(state: Any) -> Any:
    if not isinstance(state, ScaleByAdamState):
      return state
    mu, nu = (
      jax.tree.map(transfer.placed_like, moments[kind], getattr(state, kind)) for kind in KINDS
    )
    return ScaleByAdamState(transfer.placed_like(jnp.asarray(moments['step']), state.count), mu, nu)

  return jax.tree.map(put, opt_state, is_leaf=lambda leaf: isinstance(leaf, ScaleByAdamState))


def _leaves(opt_state: Any) -> list[Any]:
  return jax.tree.leaves(opt_state, is_leaf=lambda leaf: isinstance(leaf, ScaleByAdamState))
