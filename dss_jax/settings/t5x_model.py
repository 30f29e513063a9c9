"""The part of T5X's table that says what is trained: the network, its vocabulary and its loss.

Owns these entries alone; see t5x_names.py.
"""

from collections.abc import Callable, Mapping
from typing import Any

from dss_jax.settings import t5x_optimizer
from dss_jax.settings.statements import Reference
from dss_jax.settings.t5x_verdicts import (
  TRANSLATED,
  Becomes,
  Rule,
  Says,
  Verdict,
  is_of_t5x,
  nothing,
  only,
  refused,
)

NETWORK = 'dss_jax.models.t5.T5Config'
INPUT_VOCABULARY = 'EncoderDecoderModel.input_vocabulary'
OUTPUT_VOCABULARY = 'EncoderDecoderModel.output_vocabulary'
EXPORT = '`dss export` writes a student for other programs'
# What T5X's network is where a file does not say; ours has T5 1.1's activations.
NETWORK_DEFAULTS: Mapping[str, str] = {
  'vocab_size': '32128', 'emb_dim': '512', 'num_heads': '8', 'head_dim': '64', 'mlp_dim': '2048',
  'num_encoder_layers': '6', 'num_decoder_layers': '6', 'mlp_activations': "('relu',)",
  'logits_via_embedding': 'False', 'dtype': "'float32'", 'dropout_rate': '0.1',
}  # fmt: skip
_IS = 'the network is a T5, trained as an encoder and decoder'
_OTHER = f"MODEL is a file of models/; {_IS}, of which T5X's minimal T5 is the same"
_GREEDY = (
  'validation decodes greedily; `dss evaluate --decoding=beam` or `=temperature` does otherwise'
)


def model(value: Any) -> Verdict:
  """MODEL: T5X's encoder and decoder, with what its network is by default."""
  if not is_of_t5x(value, 'EncoderDecoderModel'):
    return refused(f'MODEL is a file of models/; {_IS}')
  return Verdict(
    TRANSLATED,
    settings={'MODEL': f'@{NETWORK}()'},
    defaults={
      **{f'{NETWORK}.{name}': text for name, text in NETWORK_DEFAULTS.items()},
      f'{NETWORK}.remat_policy': '%REMAT_POLICY',
      f'{NETWORK}.scan_layers': '%SCAN_LAYERS',
      'REMAT_POLICY': "'full'",
    },
  )


def vocabulary(value: Any) -> Verdict:
  """VOCABULARY: one of SeqIO's two."""
  if is_of_t5x(value, 'ByteVocabulary'):
    return Verdict(TRANSLATED, settings={'VOCABULARY': "'bytes'"})
  if is_of_t5x(value, 'SentencePieceVocabulary'):
    return nothing('VOCABULARY is its sentencepiece_model_file')
  return refused("VOCABULARY is a SentencePiece .model file, or 'bytes'")


def _is_minimal(name: str) -> Callable[[Any], Verdict]:
  """A reference to a part of T5X's minimal T5; scalable_t5 and decoders are other networks."""

  def rule(value: Any) -> Verdict:
    parts = value.configurable.split('.') if isinstance(value, Reference) else []
    if is_of_t5x(value, name) and not {'scalable_t5', 'decoder_only'} & set(parts):
      return nothing(_IS)
    return refused(_OTHER)

  return rule


def _normalizing(value: Any) -> Verdict:
  if value is None or isinstance(value, int | float):
    return nothing(
      "the loss of each task is divided by its own loss weight; Adafactor's update does not depend "
      'on the scale of a loss'
    )
  return refused('the loss of each task is divided by its own loss weight; leave it out')


RULES: Mapping[str, Rule] = {
  'train.model': Says('MODEL', model),
  'EncoderDecoderModel.module': _is_minimal('Transformer'),
  INPUT_VOCABULARY: Says('VOCABULARY', vocabulary),
  OUTPUT_VOCABULARY: Says('VOCABULARY', vocabulary),
  'EncoderDecoderModel.optimizer_def': Says('OPTIMIZER', t5x_optimizer.optimizer),
  'EncoderDecoderModel.z_loss': Becomes('Z_LOSS'),
  'EncoderDecoderModel.label_smoothing': Becomes('LABEL_SMOOTHING'),
  'EncoderDecoderModel.loss_normalizing_factor': _normalizing,
  'EncoderDecoderModel.decode_fn': refused(_GREEDY),
  'EncoderDecoderModel.predict_batch_with_aux.num_decodes': only((1,), _GREEDY),
  'EncoderDecoderModel.predict_batch_with_aux.return_all_decodes': only((False,), EXPORT),
  'network.Transformer.config': _is_minimal('T5Config'),
  **{f'network.T5Config.{name}': Becomes(f'{NETWORK}.{name}') for name in NETWORK_DEFAULTS},
  'network.T5Config.scan_layers': refused('SCAN_LAYERS says it, in a file of models/'),
  'network.T5Config.remat_policy': refused('REMAT_POLICY says it, in a file of models/'),
  **{
    f'{name}.*': refused(_OTHER)
    for name in (
      'DecoderOnlyModel',
      'DecoderOnlyModel.predict_batch_with_aux',
      'network.DecoderWrapper',
      'network.TransformerConfig',
    )
  },
  'temperature_sample.*': refused(_GREEDY),
  'beam_search.*': refused(_GREEDY),
  'SentencePieceVocabulary.sentencepiece_model_file': Becomes('VOCABULARY'),
  'SentencePieceVocabulary.extra_ids': only((100, None), 'a vocabulary has 100 extra ids'),
  'ByteVocabulary.extra_ids': only((0,), "VOCABULARY 'bytes' has no extra ids"),
}
