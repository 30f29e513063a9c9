"""Tiny checkpoints in Hugging Face's form, of every family and format, written by other programs.

The settings are those of the models' own config.json on the hub, of their time, with small sizes.
"""

import json
import pathlib

import jax
import numpy as np
from flax import serialization
from golden import make_t5
from safetensors import numpy as safetensors

from dss_jax.checkpoints import transfer
from dss_jax.checkpoints.hf import huggingface
from dss_jax.models import t5

_T5 = {
  'd_ff': 20,
  'd_kv': 4,
  'd_model': 16,
  'decoder_start_token_id': 0,
  'dropout_rate': 0.1,
  'eos_token_id': 1,
  'initializer_factor': 1.0,
  'is_encoder_decoder': True,
  'layer_norm_epsilon': 1e-06,
  'model_type': 't5',
  'num_heads': 3,
  'num_layers': 2,
  'pad_token_id': 0,
  'relative_attention_num_buckets': 32,
  'vocab_size': 40,
}
_GATED = {'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False, 'num_decoder_layers': 2}
FAMILIES = {
  'T5 1.0': {  # of 2020: no num_decoder_layers, no feed_forward_proj
    **_T5,
    'architectures': ['T5WithLMHeadModel'],
    'n_positions': 512,
    'output_past': True,
    'task_specific_params': {'summarization': {'max_length': 200, 'prefix': 'summarize: '}},
  },
  'T5 1.1': {
    **_T5,
    **_GATED,
    'architectures': ['T5ForConditionalGeneration'],
    'output_past': True,
  },
  'LM-adapted': {
    **_T5,
    **_GATED,
    '_name_or_path': '/home/patrick/t5/t5-base-lm-adapt',
    'architectures': ['T5ForConditionalGeneration'],
    'output_past': True,
    'transformers_version': '4.8.0.dev0',
    'use_cache': True,
  },
  'Flan-T5': {
    **_T5,
    **_GATED,
    'architectures': ['T5ForConditionalGeneration'],
    'dense_act_fn': 'gelu_new',
    'is_gated_act': True,
    'n_positions': 512,
    'relative_attention_max_distance': 128,
    'torch_dtype': 'float32',
    'transformers_version': '4.23.1',
  },
  'mT5': {
    **_T5,
    **_GATED,
    'architectures': ['MT5ForConditionalGeneration'],
    'model_type': 'mt5',
    'tokenizer_class': 'T5Tokenizer',
    'd_model': 8,
    'vocab_size': 250112,
  },
  'umT5': {
    **_T5,
    **_GATED,
    'architectures': ['UMT5ForConditionalGeneration'],
    'classifier_dropout': 0.0,
    'model_type': 'umt5',
    'dense_act_fn': 'gelu_new',
    'is_gated_act': True,
    'relative_attention_max_distance': 128,
    'scalable_attention': True,
    'tokenizer_class': 'T5Tokenizer',
    'transformers_version': '4.31.0.dev0',
  },
  'ByT5': {
    **_T5,
    **_GATED,
    'architectures': ['T5ForConditionalGeneration'],
    'gradient_checkpointing': False,
    'num_layers': 3,
    'num_decoder_layers': 1,
    'tokenizer_class': 'ByT5Tokenizer',
    'vocab_size': 384,
  },
}


def state(config: t5.T5Config) -> dict[str, np.ndarray]:
  """Random float32 tensors of a network under Hugging Face's names."""
  ours = {path: leaf.shape for path, leaf in transfer.flatten(t5.abstract(config)[0]).items()}
  return make_t5.weights(transfer.expected_shapes(huggingface.recipe(config), ours))


def make(folder: pathlib.Path, family: str = 'T5 1.1', form: str = 'safetensors') -> pathlib.Path:
  """A folder with config.json and random weights of a family."""
  settings = FAMILIES[family]
  return write(folder, settings, state(huggingface.network_of(settings, family)), form)


def write(folder: pathlib.Path, settings: dict, tensors, form: str = 'safetensors') -> pathlib.Path:
  """A folder with this config.json and these tensors: 'safetensors', 'msgpack' or 'bin'."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(settings))
  if form == 'safetensors':
    safetensors.save_file(dict(tensors), folder / 'model.safetensors')
  elif form == 'msgpack':
    tree = transfer.unflatten(flax_params(tensors))
    (folder / 'flax_model.msgpack').write_bytes(serialization.msgpack_serialize(tree))
  else:
    import torch

    torch.save({k: torch.tensor(v) for k, v in tensors.items()}, folder / 'pytorch_model.bin')
  return folder


def flax_params(tensors) -> dict[transfer.Path, np.ndarray]:
  """The parameters of transformers 4's FlaxT5ForConditionalGeneration: kernels are [in, out]."""
  flax = {}
  for name, tensor in tensors.items():
    *modules, _ = name.split('.')
    if modules[-1].endswith('norm'):
      flax[*modules, 'weight'] = tensor
    elif modules[-1] in ('shared', 'relative_attention_bias', 'embed_tokens'):
      flax[*modules, 'embedding'] = tensor
    else:
      flax[*modules, 'kernel'] = np.ascontiguousarray(tensor.T)
  return flax


def params_of(opened: transfer.Pretrained, sharding=None) -> dict[transfer.Path, jax.Array]:
  """All parameters of an opened checkpoint, by path."""
  sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes, _ = t5.abstract(opened.config)
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
  return transfer.flatten(transfer.load(opened.recipe, opened.tensors, like))
