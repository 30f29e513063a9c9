"""Adafactor's state, taken out of optax's and put into it.

Owns the one form in which it is stored and exported: {'step': updates so far, 'rows', 'columns',
'full': nested dicts by the paths of our parameters}. A factored parameter is in `rows` and
`columns`, which are optax's v_row (as long as the shorter axis) and v_col; any other is in `full`.
T5X's names for them are in t5x_adafactor.py.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from optax import FactoredState

from dss_jax.checkpoints import transfer

KINDS = ('rows', 'columns', 'full')


def moments_of(opt_state: Any) -> dict[str, Any] | None:
  """The second moments in an optimizer's state, or None where it is not Adafactor's.

  Args:
    opt_state: of `optimizers.make_optimizer`; arrays, or ShapeDtypeStructs.
  """
  states = [leaf for leaf in _leaves(opt_state) if isinstance(leaf, FactoredState)]
  if not states:
    return None
  moments: dict[str, dict[transfer.Path, Any]] = {kind: {} for kind in KINDS}
  for state in states:
    rows, columns, full = (transfer.flatten(tree) for tree in (state.v_row, state.v_col, state.v))
    for path in full:
      if _is_used(rows[path]):
        moments['rows'][path], moments['columns'][path] = rows[path], columns[path]
      else:
        moments['full'][path] = full[path]
  count = states[0].count
  step = count if isinstance(count, jax.ShapeDtypeStruct) else jnp.ravel(count)[0]
  return {'step': step, **{kind: transfer.unflatten(moments[kind]) for kind in KINDS}}


def with_moments(opt_state: Any, moments: Mapping[str, Any]) -> Any | None:
  """An optimizer's state with these second moments, or None where it is not Adafactor's.

  Adafactor's decay continues from its step; the learning-rate schedule starts afresh.

  Args:
    opt_state: of `optimizers.make_optimizer`, fresh.
    moments: as `moments_of` gives them.

  Raises:
    ValueError: they belong to other parameters, or have other shapes.
  """
  mine = moments_of(opt_state)
  if mine is None:
    return None
  transfer.check_means('Adafactor', KINDS, mine, moments)
  given = {kind: transfer.flatten(moments[kind]) for kind in KINDS}

  def put(state: Any) -> Any:
    if not isinstance(state, FactoredState):
      return state
    trees = zip((state.v_row, state.v_col, state.v), KINDS, strict=True)
    parts = [_replaced(tree, given[kind]) for tree, kind in trees]
    count = jnp.broadcast_to(jnp.asarray(moments['step']), state.count.shape)
    return FactoredState(transfer.placed_like(count, state.count), *parts)

  return jax.tree.map(put, opt_state, is_leaf=lambda leaf: isinstance(leaf, FactoredState))


def _leaves(opt_state: Any) -> list[Any]:
  return jax.tree.leaves(opt_state, is_leaf=lambda leaf: isinstance(leaf, FactoredState))


def _is_used(row: Any) -> bool:
  """Whether optax uses this row: an unused one is a single zero (for each layer)."""
  return row.shape[-1] > 1


def _replaced(tree: Any, leaves: Mapping[transfer.Path, Any]) -> Any:
  def replace(path, leaf):
    value = leaves.get(tuple(str(key.key) for key in path))
    return leaf if value is None else transfer.placed_like(value, leaf)

  return jax.tree.map_with_path(replace, tree)
