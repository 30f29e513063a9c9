"""The correspondence of our weights and Hugging Face's T5: names, transposes, stacking.

Owns the table alone: it reads no file and imports neither torch nor transformers. Hugging Face
stores one tensor a layer as [out, in]; ours are stacked over layers as [layers, in, out].
"""

from collections.abc import Mapping

import numpy as np

from dss_jax.models.t5 import Params, T5Config

_ATTENTION = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}


def _layer_table(stack: str, gated: bool) -> dict[tuple[str, str], tuple[str, bool]]:
  """Path within a layer -> (Hugging Face's name after `block.N.layer.`, whether transposed)."""
  attentions = [('attention', 0, 'SelfAttention')]
  if stack == 'decoder':
    attentions = [('self_attention', 0, 'SelfAttention'), ('cross_attention', 1, 'EncDecAttention')]
  table = {}
  for ours, place, theirs in attentions:
    table[f'{ours}_norm', 'scale'] = f'{place}.layer_norm.weight', False
    for part, letter in _ATTENTION.items():
      table[ours, part] = f'{place}.{theirs}.{letter}.weight', True
  place = len(attentions)
  table['mlp_norm', 'scale'] = f'{place}.layer_norm.weight', False
  wi = {'wi_0': 'wi_0', 'wi_1': 'wi_1'} if gated else {'wi_0': 'wi'}
  for ours, theirs in {**wi, 'wo': 'wo'}.items():
    table['mlp', ours] = f'{place}.DenseReluDense.{theirs}.weight', True
  return table


def params_from_state_dict(tensors: Mapping[str, np.ndarray], config: T5Config) -> Params:
  """Our parameters from the state dict of a Hugging Face `T5ForConditionalGeneration`.

  Args:
    tensors: numpy arrays under Hugging Face's names.
    config: the network that they belong to.

  Returns:
    The nested dict of float32 arrays that `nnx.merge` takes.

  Raises:
    KeyError: a tensor is missing.
  """
  gated = len(config.mlp_activations) == 2
  params: Params = {'embedding': _float32(tensors['shared.weight'])}
  for stack, count in (
    ('encoder', config.num_encoder_layers),
    ('decoder', config.num_decoder_layers),
  ):
    stacked: Params = {}
    for (module, name), (theirs, transposed) in _layer_table(stack, gated).items():
      rows = [_float32(tensors[f'{stack}.block.{i}.layer.{theirs}']) for i in range(count)]
      stacked.setdefault(module, {})[name] = np.stack([r.T if transposed else r for r in rows])
    bias = f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    params[f'{stack}_layers'] = stacked
    params[f'{stack}_bias'] = {'embedding': _float32(tensors[bias]).T}
    params[f'{stack}_norm'] = {'scale': _float32(tensors[f'{stack}.final_layer_norm.weight'])}
  if not config.logits_via_embedding:
    params['logits_kernel'] = _float32(tensors['lm_head.weight']).T
  return params


def _float32(tensor) -> np.ndarray:
  return np.asarray(tensor, dtype=np.float32)
