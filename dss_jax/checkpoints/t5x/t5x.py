"""T5X's T5 and ours: names, and the network from the shapes.

Owns what T5X's names mean in its two networks: the minimal T5 (t5x/examples/t5), whose layers share
a relative bias, and the one with scanned layers that have a bias each (t5x/examples/scalable_t5).
Files are t5x_files.py's, optimizer states t5x_adafactor.py's and t5x_adamw.py's. Weights are [in,
out] in all.
"""

import ast
import dataclasses
import itertools
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from dss_jax.checkpoints import foreign_files, transfer
from dss_jax.checkpoints.t5x import t5x_adafactor, t5x_adamw, t5x_files
from dss_jax.checkpoints.t5x.t5x_adafactor import TARGET
from dss_jax.checkpoints.transfer import Leaf, Path, Pretrained, Recipe, Tensor
from dss_jax.models.t5 import T5Config
from dss_jax.settings import plain_files

STACKS = ('encoder', 'decoder')
FLOATS = tuple(map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16)))
MODEL_NAMES = ('spiece.model', 'sentencepiece.model')
_ATTENTION = ('query', 'key', 'value', 'out')
_CHECKED = (
  'vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_encoder_layers',
  'num_decoder_layers', 'mlp_activations', 'logits_via_embedding',
)  # fmt: skip
_BLOCK = re.compile(r'(?:[\w./]+\.)?T5Config:\s*(?:#.*)?')
_BINDING = re.compile(r'(?:[\w./]+\.)?T5Config\.(\w+)\s*=\s*(.+)')
_IN_BLOCK = re.compile(r'\s+(\w+)\s*=\s*(.+)')
_OF_HEADS = re.compile(r'attention/(\w+)/kernel(/v_col)?')
_TOTAL = re.compile(r'Total number of parameters: (\d{1,20})')


def recipe(config: T5Config) -> Recipe:
  """Where each of our parameters is in T5X's state.

  Layers are scanned if each has its own relative bias. The recipe refers to their attention kernels
  in the layout of `open_pretrained`: heads joined and layers first.
  """
  scanned = config.relative_bias_per_layer
  leaves: dict[Path, Leaf] = {('embedding',): _leaf('token_embedder/embedding', 2)}
  for stack, count in zip(
    STACKS, (config.num_encoder_layers, config.num_decoder_layers), strict=True
  ):
    inner = f'{stack}/{stack}' if scanned else stack
    bias = f'{TARGET}{inner}/relpos_bias/rel_embedding'
    leaves[f'{stack}_bias', 'embedding'] = Leaf((bias,), (1, 0, 2) if scanned else (0, 1))
    for path, (theirs, rank) in _layer_table(stack, len(config.mlp_activations) == 2).items():
      if scanned:
        joined = 'attention/' in theirs
        axes = (0, 1, 2) if joined else (1, 0, 2)[: rank + 1]
        leaf = Leaf((f'{TARGET}{inner}/{theirs}',), axes)
      else:
        names = tuple(f'{TARGET}{stack}/layers_{layer}/{theirs}' for layer in range(count))
        leaf = Leaf(names, tuple(range(rank)), per_layer=True)
      leaves[f'{stack}_layers', *path] = leaf
    leaves[f'{stack}_norm', 'scale'] = _leaf(f'{stack}/{stack}_norm/scale', 1)
  if not config.logits_via_embedding:
    leaves['logits_kernel',] = _leaf('decoder/logits_dense/kernel', 2)
  return leaves


def is_checkpoint(path: str) -> bool:
  """Whether a folder is a checkpoint in T5X's form or holds some."""
  return t5x_files.find(path) is not None


def step_of(path: str) -> int | None:
  """The step of a checkpoint in T5X's form; None where there is none.

  Args:
    path: a folder checkpoint_N, or its parent for the latest one in it; local or gs://.
  """
  folder = t5x_files.find(path)
  return None if folder is None else t5x_files.step_of(folder)


def open_pretrained(path: str) -> Pretrained:
  """Opens a checkpoint that T5X wrote and checks that it is a T5.

  Args:
    path: a folder checkpoint_N, or its parent for the latest one in it; local or gs://.

  Raises:
    ValueError: there is none, a file is corrupt, or it is not a T5 that we support.
  """
  folder = t5x_files.find(path)
  if folder is None:
    raise ValueError(
      f'{path} holds no finished T5X checkpoint: expected a folder checkpoint_N, or its parent, '
      'with a file `checkpoint` or a folder `state` in it.'
    )
  origin = f'T5X {folder}'
  tensors = t5x_files.open_checkpoint(folder)
  scanned = any(name.startswith(f'{TARGET}encoder/encoder/') for name in tensors)
  if scanned:
    tensors = {name: _joined(name, tensor) for name, tensor in tensors.items()}
  for name, tensor in tensors.items():
    if name.startswith(TARGET) and tensor.dtype not in FLOATS:
      raise ValueError(
        f'{origin} holds {foreign_files.shown(name)} as {tensor.dtype}; expected one of '
        f'{", ".join(map(str, FLOATS))}.'
      )
  weights = {n: tensor.shape for n, tensor in tensors.items() if n.startswith(TARGET)}
  config = _network(origin, weights, scanned)
  config = _agreed(config, weights, [folder, folder.parent])
  leaves = transfer.check(origin, config, recipe, weights)
  moments: transfer.Moments | transfer.AdamMoments | None
  if t5x_adamw.is_there(tensors):
    moments, notes = t5x_adamw.find(leaves, tensors)
  else:
    moments, notes = t5x_adafactor.find(config, leaves, tensors)
  models = [place / name for place in (folder, folder.parent) for name in MODEL_NAMES]
  vocabulary = next((str(model) for model in models if model.exists()), None)
  return Pretrained(origin, config, leaves, tensors, vocabulary, moments, notes)


def write(
  folder: str,
  config: T5Config,
  params: Mapping[Path, Any],
  step: int,
  moments: Mapping[str, Any] | None = None,
) -> None:
  """Writes a checkpoint that T5X's `Checkpointer` restores, in float32.

  It is for T5X's minimal T5, or, if each layer has its own relative bias, for scalable_t5.

  Args:
    folder: of the checkpoint itself; T5X expects the name checkpoint_<step>.
    config: the network.
    params: our parameters by path.
    step: updates made so far.
    moments: the optimizer's state from `moments.moments_of`, or None for a fresh one of
      Adafactor's. If given, its step replaces `step`; of Adafactor's, `t5x_adafactor.is_kept` must
      be true of the network.
  """
  leaves = recipe(config)
  step = step if moments is None else int(moments['step'])
  arrays = transfer.written(leaves, params)
  if moments is not None and 'mu' in moments:
    small = t5x_adamw.small_arrays(step)
    arrays = itertools.chain(arrays, t5x_adamw.arrays(leaves, moments))
  else:
    small = t5x_adafactor.arrays(config, leaves, step, moments)
  if config.relative_bias_per_layer:
    heads = config.num_heads
    small = {name: _apart(name, array, heads) for name, array in small.items()}
    arrays = ((name, _apart(name, array, heads)) for name, array in arrays)
  t5x_files.write(epath.Path(folder), arrays, small)


# ---------------------------------------------------------------- names


def _leaf(name: str, rank: int) -> Leaf:
  return Leaf((f'{TARGET}{name}',), tuple(range(rank)))


def _layer_table(stack: str, gated: bool) -> dict[tuple[str, str], tuple[str, int]]:
  """Path within a layer -> T5X's name within it, and the rank."""
  attentions = [('attention', 'attention', 'pre_attention_layer_norm')]
  if stack == 'decoder':
    attentions = [
      ('self_attention', 'self_attention', 'pre_self_attention_layer_norm'),
      ('cross_attention', 'encoder_decoder_attention', 'pre_cross_attention_layer_norm'),
    ]
  table = {}
  for ours, theirs, norm in attentions:
    table[f'{ours}_norm', 'scale'] = f'{norm}/scale', 1
    table.update({(ours, part): (f'{theirs}/{part}/kernel', 2) for part in _ATTENTION})
  table['mlp_norm', 'scale'] = 'pre_mlp_layer_norm/scale', 1
  wi = {'wi_0': 'wi_0', 'wi_1': 'wi_1'} if gated else {'wi_0': 'wi'}
  for ours, theirs in {**wi, 'wo': 'wo'}.items():
    table['mlp', ours] = f'mlp/{theirs}/kernel', 2
  return table


# ---------------------------------------------------------------- heads of scanned layers


def _joined(name: str, tensor: Tensor) -> Tensor:
  """The tensor with heads and their dimensions as one axis and layers first, if it has heads.

  Kernels are [embed, layers, heads, kv], of `out` [heads, layers, kv, embed]; Adafactor's means
  over `embed` lack that axis.
  """
  match = _OF_HEADS.search(name)
  if match is None or len(tensor.shape) != (3 if match[2] else 4):
    return tensor
  is_out, everything = match[1] == 'out', slice(None)
  if match[2]:
    means = np.asarray(tensor.read((everything, everything, everything)))
    means = means.swapaxes(0, 1) if is_out else means
    means = means.reshape(len(means), -1)
    return Tensor(means.shape, tensor.dtype, means.__getitem__)
  first, layers, *rest = tensor.shape
  shape = (layers, first * rest[0], rest[1]) if is_out else (layers, first, rest[0] * rest[1])

  def read(index: transfer.Index) -> np.ndarray:
    layer, row, column = index
    if is_out:
      part = tensor.read((everything, layer, everything, column)).swapaxes(0, 1)
      return part.reshape(len(part), shape[1], -1)[:, row]
    part = tensor.read((row, layer, everything, everything)).swapaxes(0, 1)
    return part.reshape(*part.shape[:2], shape[2])[:, :, column]

  return Tensor(shape, tensor.dtype, read)


def _apart(name: str, array: np.ndarray, heads: int) -> np.ndarray:
  """The inverse of `_joined`: an array in T5X's layout."""
  match = _OF_HEADS.search(name)
  if match is None or array.ndim != (2 if match[2] else 3):
    return array
  joined = 1 if match[2] or match[1] == 'out' else 2
  array = array.reshape(*array.shape[:joined], heads, -1, *array.shape[joined + 1 :])
  return array if match[2] and match[1] != 'out' else array.swapaxes(0, 1)


# ---------------------------------------------------------------- the network


def _network(origin: str, shapes: Mapping[str, tuple[int, ...]], scanned: bool) -> T5Config:
  """The network whose weights have these shapes."""

  def shape(name: str, rank: int) -> tuple[int, ...]:
    actual = shapes.get(TARGET + name)
    if actual is None or len(actual) != rank:
      raise ValueError(
        f"{origin} is not a T5 of T5X's: expected {TARGET}{name} with {rank} axes, not "
        f'{actual or "missing"}.'
      )
    return actual

  def layers(stack: str) -> int:
    if scanned:
      return shape(f'{stack}/{stack}/mlp/wo/kernel', 3)[1]
    matches = [re.match(rf'{TARGET}{stack}/layers_(\d+)/', name) for name in shapes]
    return max((int(match[1]) + 1 for match in matches if match), default=0)

  layer = 'encoder/encoder' if scanned else 'encoder/layers_0'
  bias = 'encoder/encoder' if scanned else 'encoder'
  vocab_size, emb_dim = shape('token_embedder/embedding', 2)
  num_heads, *_, buckets = shape(f'{bias}/relpos_bias/rel_embedding', 3 if scanned else 2)
  return T5Config(
    vocab_size=vocab_size,
    emb_dim=emb_dim,
    num_heads=num_heads,
    head_dim=shape(f'{layer}/attention/query/kernel', 3 if scanned else 2)[-1] // num_heads,
    mlp_dim=shape(f'{layer}/mlp/wo/kernel', 3 if scanned else 2)[0],
    num_encoder_layers=layers('encoder'),
    num_decoder_layers=layers('decoder'),
    mlp_activations=('relu',) if f'{TARGET}{layer}/mlp/wi/kernel' in shapes else ('gelu', 'linear'),
    logits_via_embedding=f'{TARGET}decoder/logits_dense/kernel' not in shapes,
    relative_attention_num_buckets=buckets,
    relative_bias_per_layer=scanned,
  )


def _agreed(config: T5Config, shapes: Mapping[str, tuple], folders: list[epath.Path]) -> T5Config:
  """The network, checked against and completed by what T5X wrote next to the weights."""
  file = next(
    (folder / 'config.gin' for folder in folders if (folder / 'config.gin').exists()), None
  )
  settings = _settings(_text_of(file)) if file else {}
  if isinstance(settings.get('mlp_activations'), list | tuple):
    settings['mlp_activations'] = tuple(settings['mlp_activations'])
    if len(settings['mlp_activations']) == len(config.mlp_activations):  # the shapes tell no more
      config = dataclasses.replace(config, mlp_activations=settings['mlp_activations'])
  for name in _CHECKED:
    value = getattr(config, name)
    if settings.get(name, value) != value:
      raise ValueError(
        f'{file} says T5Config.{name} = {foreign_files.shown(settings[name])}, but the weights '
        f'have {value}.'
      )
  total = sum(math.prod(shape) for shape in shapes.values())
  for file in (folder / 'model-info.txt' for folder in folders):
    match = _TOTAL.search(_text_of(file)) if file.exists() else None
    if match and int(match[1]) != total:
      raise ValueError(f'{file} says {match[1]} parameters, but the checkpoint has {total}.')
  return config


def _text_of(file: epath.Path) -> str:
  """The start of a text file beside a checkpoint; a byte that is no text becomes a mark."""
  plain_files.size(file, 'text')
  with file.open('rb') as content:
    return content.read(foreign_files.MOST_JSON).decode(errors='replace')


def _settings(text: str) -> dict[str, Any]:
  """The plain values that a gin file gives T5Config; nothing in it is executed."""
  settings, block = {}, False
  for line in text.splitlines():
    if line.strip() and not line[0].isspace():
      block = _BLOCK.fullmatch(line.strip()) is not None
    match = _BINDING.fullmatch(line.strip()) or (_IN_BLOCK.fullmatch(line) if block else None)
    if match:
      try:
        with warnings.catch_warnings(action='ignore'):  # of escapes that Python does not know
          settings[match[1]] = ast.literal_eval(match[2])
      except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # a macro, or worse
        continue
  return settings
