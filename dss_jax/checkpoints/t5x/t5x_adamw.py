"""AdamW's state in T5X's checkpoints: where each mean is, and what else T5X stores.

Owns the names of optax's state in T5X (`optimizers.OptaxWrapper`): it numbers the parts of a chain.
`optimizers.adamw` has the means under 0; in a chain, as after clipping, they are under 1/0. Any
such place is read, since no name says which optimizer it is: others of optax, such as adamax, have
the same arrays. Written is a chain of clipping and AdamW with a schedule. The other optimizer is
t5x_adafactor.py's.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dss_jax.checkpoints import transfer
from dss_jax.checkpoints.t5x import t5x_files
from dss_jax.checkpoints.t5x.t5x_adafactor import STATES, STEP, TARGET
from dss_jax.checkpoints.transfer import AdamMoments, Leaf, Recipe, Tensor

WRITTEN, SCHEDULE = f'{STATES}1/0/', f'{STATES}1/2/count'
READ = "its optimizer state is read as AdamW's, whose arrays it has; T5X stores no name"
_MEAN = re.compile(rf'({STATES}(?:\d+/)+)(?:mu|nu)/.+')


def is_there(tensors: Mapping[str, Tensor]) -> bool:
  """Whether a checkpoint has means where AdamW's are."""
  return any(_MEAN.fullmatch(name) for name in tensors)


def find(
  weights: Recipe, tensors: Mapping[str, Tensor]
) -> tuple[AdamMoments | None, tuple[str, ...]]:
  """Where AdamW's state is in a checkpoint, or None, and notes to show to the user.

  Args:
    weights: where the network's weights are.
    tensors: what the checkpoint holds.
  """
  matches = [match for match in map(_MEAN.fullmatch, tensors) if match]
  places = sorted({match[1] for match in matches})
  left_out = 'its optimizer state is left out: '
  if len(places) > 1:
    return None, (f'{left_out}it has means at {places[0]} and {places[1]}; expected one AdamW',)
  place = places[0]
  where = AdamMoments(0, _along(weights, place, 'mu'), _along(weights, place, 'nu'))
  for name, mean in _means(weights, where):
    if mean not in tensors or tensors[mean].shape != tensors[name].shape:
      there = tensors[mean].shape if mean in tensors else 'missing'
      return None, (f'{left_out}expected {mean} {tensors[name].shape} for AdamW, not {there}',)
  if f'{place}count' not in tensors:
    return None, (f'{left_out}{place}count is missing, which AdamW needs',)
  known = (f'{place}mu/', f'{place}nu/')
  for name in tensors:
    if name.startswith(STATES) and not name.startswith(known) and not name.endswith('/count'):
      return None, (f"{left_out}it has {name} too, so it is not AdamW's",)
  step = t5x_files.whole_number(f'{place}count', tensors[f'{place}count'])
  return where._replace(step=step), (READ,)


def small_arrays(step: int) -> dict[str, np.ndarray]:
  """T5X's counts of updates: of the run, of the means and of the schedule."""
  return dict.fromkeys((STEP, f'{WRITTEN}count', SCHEDULE), np.asarray(step, np.int32))


def arrays(weights: Recipe, moments: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
  """The means as T5X's arrays, name and array.

  Args:
    weights: where the network's weights are.
    moments: as `adam.moments_of` gives them.
  """
  for kind in ('mu', 'nu'):
    yield from transfer.written(_along(weights, WRITTEN, kind), transfer.flatten(moments[kind]))


def _along(weights: Recipe, place: str, kind: str) -> Recipe:
  """Where the means of one kind are: beside each other as the weights are."""

  def of(leaf: Leaf) -> Leaf:
    return leaf._replace(
      names=tuple(f'{place}{kind}/{name.removeprefix(TARGET)}' for name in leaf.names)
    )

  return {path: of(leaf) for path, leaf in weights.items()}


def _means(weights: Recipe, where: AdamMoments) -> Iterator[tuple[str, str]]:
  """The name of each weight, with that of each of its means."""
  for means in (where.mu, where.nu):
    for path, leaf in weights.items():
      yield from zip(leaf.names, means[path].names, strict=True)
