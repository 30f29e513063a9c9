"""Hugging Face's config.json and our T5Config: what each setting means, and what is refused.

Owns the settings alone, in the forms that transformers wrote from 2020 to its version 5; tensors
and files are huggingface.py's and hf_files.py's.

`tie_word_embeddings` decides two things in T5: whether the logits use the embedding, and whether
the decoder's output is scaled before them. transformers 5 always writes it as true, and keeps the
second in `scale_decoder_outputs` (T5) or nowhere (mT5, which it never scales, and umT5, which
it always scales: for a umT5 with a separate output layer, the logits of version 5 differ from those
of version 4 and T5X by the factor d_model^-1/2).
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from dss_jax.checkpoints import foreign_files
from dss_jax.models import layers
from dss_jax.models.t5 import T5Config

CONFIG, GENERATION = 'config.json', 'generation_config.json'
TOKEN_IDS = {'decoder_start_token_id': 0, 'pad_token_id': 0, 'eos_token_id': 1}
# Our activations by theirs: the setting, and the function that transformers computes for it.
ACTIVATIONS = {
  'gated-gelu': (('gelu', 'linear'), 'gelu_new'),
  'relu': (('relu',), 'relu'),
}
_SIZES = {
  'vocab_size': 'vocab_size',
  'emb_dim': 'd_model',
  'num_heads': 'num_heads',
  'head_dim': 'd_kv',
  'mlp_dim': 'd_ff',
  'num_encoder_layers': 'num_layers',
  'num_decoder_layers': 'num_decoder_layers',
  'relative_attention_num_buckets': 'relative_attention_num_buckets',
  'relative_attention_max_distance': 'relative_attention_max_distance',
}
_RELATIVE = {  # in files that are older than these settings
  'relative_attention_num_buckets': 32,
  'relative_attention_max_distance': 128,
}
_DEFAULTS = {
  't5': {'feed_forward_proj': 'relu', 'tie_word_embeddings': True},
  'mt5': {'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False},
  'umt5': {'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': True},
}


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file.

  Raises:
    ValueError: the file is missing or is not a JSON object.
  """
  if not foreign_files.is_there(path):
    raise ValueError(
      f'{path.parent} has no {path.name}: a Hugging Face folder has one next to its weights.'
    )
  return foreign_files.read_json(path, 'a JSON object')


def network_of(config: Mapping[str, Any], origin: str) -> T5Config:
  """The network that a config.json describes, with our own dropout and activation dtype.

  Args:
    config: what the file holds.
    origin: where it is from, for messages.

  Raises:
    ValueError: it describes something that our network does not support.
  """
  model_type = _model_type(config, origin)
  settings = {**_DEFAULTS[model_type], **_given(config), 'model_type': model_type}
  _check(settings, origin)
  settings = {'num_decoder_layers': settings.get('num_layers'), **_RELATIVE, **settings}
  for name in _SIZES.values():
    if type(settings.get(name)) is not int or settings[name] < 1:
      raise ValueError(
        f'{origin} has {name} {_value(settings.get(name))} in its {CONFIG}; expected a positive '
        'integer.'
      )
  return T5Config(
    **{ours: settings[theirs] for ours, theirs in _SIZES.items()},
    mlp_activations=ACTIVATIONS[settings['feed_forward_proj']][0],
    logits_via_embedding=settings['tie_word_embeddings'] and not ties_without_scaling(settings),
    relative_bias_per_layer=settings['model_type'] == 'umt5',
  )


def ties_without_scaling(config: Mapping[str, Any]) -> bool:
  """Whether transformers 5 wrote this for a T5 1.1: 'tied', but the output is not scaled.

  Such a file holds a separate output layer; if it does not, the embedding is used as one.
  """
  settings = {**_DEFAULTS['t5'], **_given(config)}
  if not settings['tie_word_embeddings']:
    return False
  if settings.get('model_type') == 'mt5':  # of version 4, it is tied and scaled as a T5 1.0 is
    version = re.match(r'\d{1,4}', str(settings.get('transformers_version')))
    return version is not None and int(version[0]) >= 5
  return settings.get('scale_decoder_outputs') is False


def config_json(config: T5Config) -> dict[str, Any]:
  """The config.json of our network, which transformers 4 and 5 both read correctly."""
  names = {activations: forward for forward, (activations, _) in ACTIVATIONS.items()}
  forward = names[config.mlp_activations]
  model_type = 'umt5' if config.relative_bias_per_layer else 't5'
  return {
    'architectures': [f'{model_type.upper()}ForConditionalGeneration'],
    'model_type': model_type,
    **{theirs: getattr(config, ours) for ours, theirs in _SIZES.items()},
    'feed_forward_proj': forward,
    'dense_act_fn': ACTIVATIONS[forward][1],
    'is_gated_act': len(config.mlp_activations) == 2,
    'tie_word_embeddings': config.logits_via_embedding,
    'layer_norm_epsilon': layers.NORM_EPSILON,
    'dropout_rate': config.dropout_rate,
    'initializer_factor': 1.0,
    'is_encoder_decoder': True,
    'use_cache': True,
    'torch_dtype': 'float32',
    **TOKEN_IDS,
  }


def generation_json(max_length: int | None = None) -> dict[str, Any]:
  """The generation_config.json: the tokens that decoding starts, ends and pads with, and its limit.

  Args:
    max_length: most tokens of an output, its start token not counted; None: 20, as transformers has
      it. The file counts the start token, and names no `max_new_tokens`, which would overrule a
      user's `max_length` and which the pipelines of transformers 4 do not follow.
  """
  return {**TOKEN_IDS, **({'max_length': max_length + 1} if max_length else {})}


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
  """The settings that are not None: transformers writes None for a default."""
  return {name: value for name, value in config.items() if value is not None}


def _value(value: Any) -> str:
  """A setting for a message."""
  return repr(value)[: foreign_files.SHOWN]


def _model_type(config: Mapping[str, Any], origin: str) -> str:
  architectures = config.get('architectures')
  first = str(architectures[0]) if isinstance(architectures, list) and architectures else ''
  model_type = config.get('model_type')
  if model_type is None and first.startswith(('T5', 'MT5')):  # before 2020
    model_type = 'mt5' if first.startswith('MT5') else 't5'
  if not isinstance(model_type, str) or model_type not in _DEFAULTS:
    raise ValueError(
      f'{origin} has model_type {_value(model_type)} in its {CONFIG}; expected one of '
      f'{", ".join(_DEFAULTS)}.'
    )
  return model_type


def _check(settings: Mapping[str, Any], origin: str) -> None:
  """Refuses settings that our network does not support."""
  forward = settings['feed_forward_proj']
  if not isinstance(forward, str) or forward not in ACTIVATIONS:
    raise ValueError(
      f'{origin} has feed_forward_proj {_value(forward)} in its {CONFIG}; our network supports '
      f'{" and ".join(ACTIVATIONS)}.'
    )
  tied = settings['tie_word_embeddings']
  if not isinstance(tied, bool):
    raise ValueError(
      f'{origin} has tie_word_embeddings {_value(tied)} in its {CONFIG}; expected true or false.'
    )
  computed = {
    'is_encoder_decoder': True,
    'dense_act_fn': ACTIVATIONS[forward][1],
    'is_gated_act': forward.startswith('gated'),
    'layer_norm_epsilon': layers.NORM_EPSILON,
    **TOKEN_IDS,
    'scale_decoder_outputs': tied,
    'tie_encoder_decoder': False,
    'pruned_heads': {},
    'quantization_config': {},
  }
  if ties_without_scaling(settings):
    computed['scale_decoder_outputs'] = False
  for name, value in computed.items():
    given = settings.get(name, value)
    if given != value:
      raise ValueError(
        f'{origin} has {name} {_value(given)} in its {CONFIG}; our network supports only {value!r}.'
      )
