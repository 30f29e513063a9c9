"""The names and shapes of the tensors in a checkpoint, compared with those that somebody wants.

Owns the words for a network of another shape, which is no damage. Reads no numbers.
"""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath


def difference(item: epath.Path, like: Any) -> str | None:
  """The first tensor that is stored with another shape than is wanted, in words.

  Args:
    item: the folder of a nested dict that orbax saved.
    like: what is wanted, with ShapeDtypeStructs as leaves.

  Returns:
    None where all agree, or where the names and shapes cannot be read.
  """
  try:
    with ocp.PyTreeCheckpointer() as checkpointer:
      stored = _shapes(checkpointer.metadata(item).item_metadata.tree)
  except Exception:  # of orbax and of those below it
    return None
  wanted = _shapes(like)
  for name in [*wanted, *stored]:
    if stored.get(name) != wanted.get(name):
      there, here = (shapes.get(name, 'missing') for shapes in (stored, wanted))
      return f'the tensor {item.name}/{name} is {there} there and {here} by the settings'
  return None


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, 'shape'))
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
    for path, leaf in leaves
  }
