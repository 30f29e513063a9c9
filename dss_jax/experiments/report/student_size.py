"""How many parameters a T5 has, from its settings alone.

Owns the sum; the network itself, with which a test compares it, is models/t5.py's.
"""

from collections.abc import Mapping
from typing import Any

from dss_jax.models.config import T5Config
from dss_jax.settings import json_form
from dss_jax.settings.errors import ConfigError


def parameters(model: Any) -> int | None:
  """The number of parameters of a network.

  Args:
    model: the fields of a T5Config, as in a run's config.json; anything else is unknown.

  Returns:
    The number, or None where the settings are none, or do not say the size of the vocabulary.
  """
  if not isinstance(model, Mapping):
    return None
  try:
    config: T5Config = json_form.from_dict(T5Config, model)
  except ConfigError:
    return None
  return None if config.vocab_size is None else _parameters(config, config.vocab_size)


def _parameters(config: T5Config, vocabulary: int) -> int:
  """Embeddings, the output layer, and in each layer attention, feed-forward block and norms.

  Source: Raffel et al. 2020, section 2.1; Shazeer 2020 for the gated block.
  """
  width = config.emb_dim
  attention = 4 * width * config.num_heads * config.head_dim
  block = (len(config.mlp_activations) + 1) * width * config.mlp_dim
  encoder = attention + block + 2 * width
  decoder = 2 * attention + block + 3 * width
  layers = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
  biases = 2
  if config.relative_bias_per_layer:
    biases = config.num_encoder_layers + config.num_decoder_layers
  relative = biases * config.relative_attention_num_buckets * config.num_heads
  embeddings = vocabulary * width * (1 if config.logits_via_embedding else 2)
  return embeddings + layers + relative + 2 * width
