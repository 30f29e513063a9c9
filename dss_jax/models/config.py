"""The settings of a T5 network: `T5Config`.

Owns the settings and which combinations are valid. layers.py, blocks.py and t5.py compute the
network from them.
"""

import dataclasses

from dss_jax.settings import fields

REMAT_POLICIES = ('auto', 'full', 'minimal', 'none')


@dataclasses.dataclass(frozen=True)
class T5Config:
  """The settings of a T5 network; field names as in T5X's `network.T5Config`.

  Attributes:
    vocab_size: rows of the embedding, at least the vocabulary's size; None until that is known.
    dtype: of activations; parameters, norms, softmax and loss are float32 always.
    mlp_activations: ('gelu', 'linear') for T5 1.1, ('relu',) for T5 1.0.
    logits_via_embedding: T5 1.0 ties the logits to the embedding and scales them by emb_dim^-1/2.
    dropout_rate: probability of dropping, in [0, 1).
    remat_policy: what the backward pass keeps: 'none' recomputes nothing, 'minimal' keeps matrix
      products with weights, 'full' only each layer's input; both keep the output of attention.
      'auto' is what ends a training run first (runs/layer_choice.py); elsewhere, 'full'.
    scan_layers: False unrolls the loop over layers: the same numbers, a longer compilation. 'auto'
      as above; elsewhere, True.
    relative_bias_per_layer: every layer has a relative position bias of its own, as in umT5 and
      T5X's scalable_t5; otherwise a stack's layers share one.
  """

  vocab_size: int | None
  emb_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  num_encoder_layers: int
  num_decoder_layers: int
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  logits_via_embedding: bool = False
  dtype: str = 'bfloat16'
  dropout_rate: float = 0.1
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128
  remat_policy: str = 'none'
  scan_layers: bool | str = True
  relative_bias_per_layer: bool = False

  def __post_init__(self):
    activations = tuple(self.mlp_activations)  # a gin file may contain a list
    object.__setattr__(self, 'mlp_activations', activations)
    fields.check(self)
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, int) and not isinstance(value, bool) and not 0 < value < 1 << 31:
        raise ValueError(f'T5Config.{field.name} is at least 1 and below 2^31, not {value}.')
    if activations not in (('gelu', 'linear'), ('relu',)):
      raise ValueError(
        f"T5Config.mlp_activations is ('gelu', 'linear') for T5 1.1 or ('relu',) for T5 1.0, "
        f'not {activations}.'
      )
    if self.remat_policy not in REMAT_POLICIES:
      raise ValueError(
        f'T5Config.remat_policy (REMAT_POLICY) is one of {REMAT_POLICIES}, not '
        f'{self.remat_policy!r}.'
      )
    if self.scan_layers not in (True, False, 'auto'):
      raise ValueError(
        f"T5Config.scan_layers (SCAN_LAYERS) is True, False or 'auto', not {self.scan_layers!r}."
      )
    if self.dtype not in ('float32', 'bfloat16'):
      raise ValueError(f"T5Config.dtype (DTYPE) is 'float32' or 'bfloat16', not {self.dtype!r}.")
    if not 0.0 <= self.dropout_rate < 1.0:
      raise ValueError(
        f'T5Config.dropout_rate (DROPOUT_RATE) is in [0, 1), not {self.dropout_rate}.'
      )
