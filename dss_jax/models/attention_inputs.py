"""The inputs of attention besides queries, keys and values: which keys a query sees, and biases.

Owns the types that layers.py makes and that layers.py and flash.py both compute with.

Axis legend of the shape strings: b batch, q query length, k key length, h heads.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Bias(NamedTuple):
  """A relative position bias.

  Attributes:
    values: added to the logits [1, h, q, k].
    embedding: the table that they are looked up in [h, buckets].
    buckets: the bucket of each query and key [q, k].
  """

  values: Float[Array, '1 h q k']
  embedding: Float[Array, 'h buckets']
  buckets: Int[Array, 'q k']


class Segments(NamedTuple):
  """What attention within packed rows may see: the same sequence, not padding, not later tokens.

  Attributes:
    query: the packed sequence that each query belongs to, from 1; 0 is padding [b, q].
    key: the same for each key [b, k].
    causal: whether later keys are masked.
  """

  query: Int[Array, 'b q']
  key: Int[Array, 'b k']
  causal: bool = False

  def mask(self) -> Bool[Array, 'b 1 q k']:
    """True where a query sees a key."""
    mask = (self.query[:, :, None] == self.key[:, None, :]) & (self.key[:, None, :] > 0)
    if self.causal:
      mask &= jnp.tri(mask.shape[1], mask.shape[2], dtype=bool)[None]
    return mask[:, None]
