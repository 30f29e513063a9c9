"""Hugging Face's T5 and ours: names and transposes, config.json, and whole checkpoints both ways.

Owns what their names and settings mean. hf_files.py reads their files and hub.py downloads them;
neither torch nor transformers is needed.

Hugging Face has one tensor a layer, [out, in]; ours are stacked over layers, [layers, in, out].
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from dss_jax.checkpoints import foreign_files, transfer
from dss_jax.checkpoints.hf import added_tokens, hf_config, hf_files, hub
from dss_jax.models import t5
from dss_jax.models.t5 import Params, T5Config

network_of = hf_config.network_of
config_json = hf_config.config_json

SHARED, LOGITS = 'shared.weight', 'lm_head.weight'
COPIES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
UNUSED = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
BYTE_VOCABULARY_SIZE = 384
COMPARED_ROWS = 4096
_ATTENTION = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}
_SAME, _TRANSPOSED = (0, 1), (1, 0)


def recipe(config: T5Config) -> transfer.Recipe:
  """Where each of our parameters is in the state dict of a `T5ForConditionalGeneration`.

  Where every layer has its own relative bias, it is that of a `UMT5ForConditionalGeneration`.
  """
  gated = len(config.mlp_activations) == 2
  leaves: dict[transfer.Path, transfer.Leaf] = {('embedding',): transfer.Leaf((SHARED,), _SAME)}
  for stack, count in (
    ('encoder', config.num_encoder_layers),
    ('decoder', config.num_decoder_layers),
  ):
    name = 'layer.0.SelfAttention.relative_attention_bias.weight'
    blocks = range(count if config.relative_bias_per_layer else 1)
    biases = tuple(f'{stack}.block.{i}.{name}' for i in blocks)
    leaf = transfer.Leaf(biases, _TRANSPOSED, per_layer=config.relative_bias_per_layer)
    leaves[f'{stack}_bias', 'embedding'] = leaf
    for path, (theirs, axes) in _layer_table(stack, gated).items():
      names = tuple(f'{stack}.block.{i}.layer.{theirs}.weight' for i in range(count))
      leaves[f'{stack}_layers', *path] = transfer.Leaf(names, axes, per_layer=True)
    norm = f'{stack}.final_layer_norm.weight'
    leaves[f'{stack}_norm', 'scale'] = transfer.Leaf((norm,), (0,))
  if not config.logits_via_embedding:
    leaves['logits_kernel',] = transfer.Leaf((LOGITS,), _TRANSPOSED)
  return leaves


def params_from_state_dict(tensors: Mapping[str, np.ndarray], config: T5Config) -> Params:
  """Our parameters from the state dict of a Hugging Face `T5ForConditionalGeneration`.

  Args:
    tensors: numpy arrays under Hugging Face's names.
    config: the network that they belong to.

  Returns:
    The nested dict of float32 arrays that `nnx.merge` takes.

  Raises:
    ValueError: a tensor is missing, left over or of another shape.
  """
  arrays = {name: np.asarray(array) for name, array in tensors.items()}
  there = {name: transfer.Tensor(a.shape, a.dtype, a.__getitem__) for name, a in arrays.items()}
  shapes = {name: tensor.shape for name, tensor in there.items()}
  leaves = transfer.check('The state dict', config, recipe, shapes)
  params = {}
  for path, like in transfer.flatten(t5.abstract(config)[0]).items():
    params[path] = np.empty(like.shape, np.float32)
    transfer.read(leaves[path], there, tuple(slice(None) for _ in like.shape), params[path])
  return transfer.unflatten(params)


def open_pretrained(path_or_id: str) -> transfer.Pretrained:
  """Opens a checkpoint in Hugging Face's form and checks that it is the T5 in its config.json.

  Args:
    path_or_id: a local folder with config.json and weights, or, where there is no such folder, a
      model on the hub such as 'google/t5-v1_1-base', which is downloaded.

  Raises:
    ValueError: there is none, it is incomplete or corrupt, or it is another network.
    OSError: a file cannot be read.
  """
  source = hub.find(path_or_id)
  settings = hf_config.read_json(source.folder / hf_config.CONFIG)
  config = network_of(settings, source.origin)
  tensors = hf_files.open_weights(source.folder)
  tensors, notes = _one_of_each(source.origin, config, settings, tensors)
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  leaves = transfer.check(source.origin, config, recipe, shapes, allowed=(UNUSED,))
  if UNUSED in tensors:
    notes += (f'{UNUSED} is left out: old T5 1.0 files have it, and no program uses it.',)
  vocabulary = _vocabulary(source.folder, settings)
  return transfer.Pretrained(
    origin=source.origin,
    config=config,
    recipe=leaves,
    tensors=tensors,
    vocabulary=vocabulary,
    notes=(*source.notes, *notes, *added_tokens.note(source.folder, vocabulary)),
  )


def write(
  folder: str | os.PathLike,
  config: T5Config,
  params: Mapping[transfer.Path, Any],
  max_length: int | None = None,
) -> None:
  """Writes config.json, generation_config.json and the weights as safetensors in float32.

  Args:
    folder: must exist; the caller renames it when it is complete.
    config: the network.
    params: our arrays by path; each is read once, in turn.
    max_length: most tokens of an output of `generate()` without arguments; None: transformers' own.

  Raises:
    ValueError: an array's shape is not the network's.
    OSError: a file cannot be written.
  """
  folder = pathlib.Path(folder)
  leaves = recipe(config)
  ours = {path: leaf.shape for path, leaf in transfer.flatten(t5.abstract(config)[0]).items()}
  shapes = transfer.expected_shapes(leaves, ours)
  hf_files.write_weights(folder, shapes, transfer.written(leaves, params))
  for name, content in (
    (hf_config.CONFIG, config_json(config)),
    (hf_config.GENERATION, hf_config.generation_json(max_length)),
  ):
    (folder / name).write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def _layer_table(stack: str, gated: bool) -> dict[transfer.Path, tuple[str, tuple[int, ...]]]:
  """Path within a layer -> (their name between `block.N.layer.` and `.weight`, axes)."""
  attentions = [('attention', 0, 'SelfAttention')]
  if stack == 'decoder':
    attentions = [('self_attention', 0, 'SelfAttention'), ('cross_attention', 1, 'EncDecAttention')]
  table: dict[transfer.Path, tuple[str, tuple[int, ...]]] = {}
  for ours, sublayer, theirs in attentions:
    table[f'{ours}_norm', 'scale'] = f'{sublayer}.layer_norm', (0,)
    for part, letter in _ATTENTION.items():
      table[ours, part] = f'{sublayer}.{theirs}.{letter}', _TRANSPOSED
  sublayer = len(attentions)
  table['mlp_norm', 'scale'] = f'{sublayer}.layer_norm', (0,)
  wi = {'wi_0': 'wi_0', 'wi_1': 'wi_1'} if gated else {'wi_0': 'wi'}
  for ours, theirs in {**wi, 'wo': 'wo'}.items():
    table['mlp', ours] = f'{sublayer}.DenseReluDense.{theirs}', _TRANSPOSED
  return table


def _one_of_each(
  origin: str, config: T5Config, settings: Mapping, tensors: Mapping[str, transfer.Tensor]
) -> tuple[dict[str, transfer.Tensor], tuple[str, ...]]:
  """The tensors without the copies of the embedding that some files have, and notes.

  Raises:
    ValueError: a copy has other values than the embedding.
  """
  kept = dict(tensors)
  names = (SHARED, *COPIES, *((LOGITS,) if config.logits_via_embedding else ()))
  there = [name for name in names if name in kept]
  if not there:
    return kept, ()  # transfer.check reports that it is missing
  embedding = kept[there[0]]
  for name in there[1:]:
    if not _equal(embedding, kept[name]):
      raise ValueError(
        f'{origin} holds {name} and {there[0]} with different values; by its config.json, both '
        'should be copies of one embedding.'
      )
  for name in there:
    del kept[name]
  kept[SHARED] = embedding
  if LOGITS not in kept and hf_config.ties_without_scaling(settings):
    kept[LOGITS] = embedding
    note = f'{LOGITS} is a copy of {SHARED}, as config.json says; training changes them separately.'
    return kept, (note,)
  return kept, ()


def _equal(embedding: transfer.Tensor, other: transfer.Tensor) -> bool:
  if (embedding.shape, embedding.dtype) != (other.shape, other.dtype):
    return False
  if not embedding.shape:
    return True  # not an embedding at all, which transfer.check reports
  starts = range(0, embedding.shape[0], COMPARED_ROWS)
  rest = tuple(slice(None) for _ in embedding.shape[1:])
  parts = ((slice(start, start + COMPARED_ROWS), *rest) for start in starts)
  return all(embedding.read(part).tobytes() == other.read(part).tobytes() for part in parts)


def _vocabulary(folder: pathlib.Path, settings: Mapping) -> str | None:
  """The value of VOCABULARY for this checkpoint, or None where it has none that we can read."""
  for name in hub.VOCABULARIES:
    if foreign_files.is_there(folder / name):
      foreign_files.check(folder / name, 'a SentencePiece model')
      return str(folder)
  tokenizer = folder / hub.TOKENIZER
  tokenizer_config = hf_config.read_json(tokenizer) if tokenizer.is_file() else {}
  classes = (tokenizer_config.get('tokenizer_class'), settings.get('tokenizer_class'))
  by_bytes = 'ByT5Tokenizer' in classes or settings['vocab_size'] == BYTE_VOCABULARY_SIZE
  return 'bytes' if by_bytes else None
