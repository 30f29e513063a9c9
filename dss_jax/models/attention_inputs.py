"""What attention is told besides queries, keys and values: who may see whom, and how far it is.

Owns the types that layers.py makes and that layers.py and flash.py both compute with.

Axis legend of the shape strings: b batch, q query length, k key length, h heads.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Bias(NamedTuple):
  """A relative position bias.

  Attributes:
    values: what is added to the logits [1, h, q, k].
    embedding: what they are taken from [h, buckets].
    buckets: where [q, k].
  """

  values: Float[Array, '1 h q k']
  embedding: Float[Array, 'h buckets']
  buckets: Int[Array, 'q k']


class Segments(NamedTuple):
  """What attention within packed rows may see: the same sequence, not padding, not later tokens.

  Attributes:
    query: which packed sequence each query is of, from 1; 0 is padding [b, q].
    key: of each key [b, k].
    causal: whether a query sees no later keys.
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
