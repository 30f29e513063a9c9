"""The state of either optimizer apart from optax's tree: {'step', and means by kind}.

Owns which optimizer's a state is, by its kinds. Their forms are adafactor.py's and adam.py's.
"""

from collections.abc import Mapping
from typing import Any

from dss_jax.checkpoints import adafactor, adam

NAMES = {adafactor.KINDS: 'Adafactor', adam.KINDS: 'AdamW'}


def moments_of(opt_state: Any) -> dict[str, Any] | None:
  """The means in an optimizer's state; None where it is neither AdamW's nor Adafactor's.

  Args:
    opt_state: of `optimizers.make_optimizer`; arrays, or ShapeDtypeStructs.
  """
  return adafactor.moments_of(opt_state) or adam.moments_of(opt_state)


def with_moments(opt_state: Any, moments: Mapping[str, Any]) -> Any | None:
  """An optimizer's state with these means; None where they are another optimizer's.

  Raises:
    ValueError: they belong to other parameters, or have other shapes.
  """
  of = adam if kinds(moments) == adam.KINDS else adafactor
  return of.with_moments(opt_state, moments)


def kinds(moments: Mapping[str, Any]) -> tuple[str, ...]:
  """The kinds of means in a state."""
  return adam.KINDS if adam.KINDS[0] in moments else adafactor.KINDS


def optimizer_of(moments: Mapping[str, Any]) -> str:
  """The optimizer's name, for people."""
  return NAMES[kinds(moments)]
