"""T5X's T5 and ours: names, the network from the shapes, Adafactor's state.

Owns what T5X's names mean, of its minimal T5 (t5x/examples/t5) and of the one whose layers are
scanned (t5x/examples/scalable_t5). Files are t5x_files.py's. Weights of both are
[in, out], as ours.
"""

import ast
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from dss_jax.checkpoints import t5x_files, transfer
from dss_jax.checkpoints.transfer import Leaf, Moments, Path, Pretrained, Recipe, Tensor
from dss_jax.models import t5
from dss_jax.models.t5 import T5Config

TARGET, STATES, STEP = 'target/', 'state/param_states/', 'state/step'
FACTORED_FROM = 128  # Adafactor factors where both sizes are at least this
STACKS = ('encoder', 'decoder')
MODEL_NAMES = ('spiece.model', 'sentencepiece.model')
_ATTENTION = ('query', 'key', 'value', 'out')
_CHECKED = (
  'vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_encoder_layers',
  'num_decoder_layers', 'mlp_activations', 'logits_via_embedding',
)  # fmt: skip
_BLOCK = re.compile(r'(?:[\w./]+\.)?T5Config:\s*(?:#.*)?')
_BINDING = re.compile(r'(?:[\w./]+\.)?T5Config\.(\w+)\s*=\s*(.+)')
_IN_BLOCK = re.compile(r'\s+(\w+)\s*=\s*(.+)')
_TOTAL = re.compile(r'Total number of parameters: (\d+)')


def recipe(config: T5Config, scanned: bool = False) -> Recipe:
  """Where each of our parameters lies in T5X's state.

  Of scanned layers, the kernels of attention and the relative biases are named as `open_pretrained`
  shows them: heads joined and layers first, and the one bias that all layers have.
  """
  leaves: dict[Path, Leaf] = {('embedding',): _leaf('token_embedder/embedding', 2)}
  for stack, count in zip(
    STACKS, (config.num_encoder_layers, config.num_decoder_layers), strict=True
  ):
    inner = f'{stack}/{stack}' if scanned else stack
    leaves[f'{stack}_bias', 'embedding'] = _leaf(f'{inner}/relpos_bias/rel_embedding', 2)
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
  """Whether a folder is a checkpoint of T5X's form or holds some."""
  return t5x_files.find(path) is not None


def open_pretrained(path: str) -> Pretrained:
  """Opens a checkpoint that T5X wrote and checks that it is a T5.

  Args:
    path: a folder checkpoint_N, or its parent for the latest one in it; local or gs://.

  Raises:
    ValueError: there is none, a file is broken, or it is not a T5 that we have; it says what is.
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
    tensors = {name: _unscanned(origin, name, tensor) for name, tensor in tensors.items()}
  weights = {n: tensor.shape for n, tensor in tensors.items() if n.startswith(TARGET)}
  config = _network(origin, weights, scanned)
  config = _agreed(config, weights, [folder, folder.parent])
  leaves = transfer.check(origin, config, lambda c: recipe(c, scanned), weights)
  moments, notes = _moments_there(config, leaves, tensors, scanned)
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
  """Writes a checkpoint that T5X's `Checkpointer` restores into its minimal T5, in float32.

  Args:
    folder: becomes the checkpoint itself; T5X finds it under the name checkpoint_<step>.
    config: the network.
    params: our parameters by path.
    step: updates made so far.
    moments: Adafactor's state as `adafactor.moments_of` gives it, whose step then is T5X's, or
      None for a fresh one.
  """
  leaves = recipe(config)
  states = _fresh_states(config, leaves)
  if moments is not None:
    step, where = int(moments['step']), _moments(config, leaves, int(moments['step']))
    for kind in ('rows', 'columns', 'full'):
      states.update(transfer.written(getattr(where, kind), transfer.flatten(moments[kind])))
  small = {STEP: np.asarray(step, np.int32), **states}
  t5x_files.write(epath.Path(folder), transfer.written(leaves, params), small)


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


def _unscanned(origin: str, name: str, tensor: Tensor) -> Tensor:
  """Scanned layers as our recipe names them: heads joined, layers first; the rest as it is."""
  if len(tensor.shape) == 4 and name.endswith('/kernel'):
    return _joined(tensor, heads_first=name.endswith('/out/kernel'))
  if not name.startswith(TARGET) or not name.endswith('/relpos_bias/rel_embedding'):
    return tensor
  biases = np.asarray(tensor.read((slice(None),) * 3))
  if not (biases == biases[:, :1]).all():
    raise ValueError(
      f"{origin} has relative biases of its own for every layer, as T5X's scalable_t5 and umT5 "
      'learn them; a T5 has one that all layers share.'
    )
  return Tensor(biases[:, 0].shape, biases.dtype, biases[:, 0].__getitem__)


def _joined(tensor: Tensor, heads_first: bool) -> Tensor:
  """A kernel [embed, layers, heads, kv] or [heads, layers, kv, embed] as [layers, in, out]."""
  if heads_first:
    heads, layers, kv, embed = tensor.shape
    shape = (layers, heads * kv, embed)
  else:
    embed, layers, heads, kv = tensor.shape
    shape = (layers, embed, heads * kv)
  whole = slice(None)

  def read(index: transfer.Index) -> np.ndarray:
    layer, row, column = index
    if heads_first:
      part = tensor.read((whole, layer, whole, column)).transpose(1, 0, 2, 3)
      return part.reshape(part.shape[0], heads * kv, -1)[:, row]
    part = tensor.read((row, layer, whole, whole)).transpose(1, 0, 2, 3)
    return part.reshape(*part.shape[:2], heads * kv)[:, :, column]

  return Tensor(shape, tensor.dtype, read)


# ---------------------------------------------------------------- the network


def _network(origin: str, shapes: Mapping[str, tuple[int, ...]], scanned: bool) -> T5Config:
  """The network whose weights have these shapes."""

  def shape(name: str, rank: int) -> tuple[int, ...]:
    found = shapes.get(TARGET + name)
    if found is None or len(found) != rank:
      raise ValueError(
        f"{origin} is not a T5 of T5X's: expected {TARGET}{name} with {rank} axes, not "
        f'{found or "found"}.'
      )
    return found

  def layers(stack: str) -> int:
    if scanned:
      return shape(f'{stack}/{stack}/mlp/wo/kernel', 3)[1]
    found = [re.match(rf'{TARGET}{stack}/layers_(\d+)/', name) for name in shapes]
    return max((int(match[1]) + 1 for match in found if match), default=0)

  layer = 'encoder/encoder' if scanned else 'encoder/layers_0'
  bias = 'encoder/encoder' if scanned else 'encoder'
  vocab_size, emb_dim = shape('token_embedder/embedding', 2)
  num_heads, buckets = shape(f'{bias}/relpos_bias/rel_embedding', 2)
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
  )


def _agreed(config: T5Config, shapes: Mapping[str, tuple], folders: list[epath.Path]) -> T5Config:
  """The network, with what T5X wrote about it beside the weights, which must agree with them."""
  file = next(
    (folder / 'config.gin' for folder in folders if (folder / 'config.gin').exists()), None
  )
  said = _settings(file.read_text()) if file else {}
  if 'mlp_activations' in said:
    said['mlp_activations'] = tuple(said['mlp_activations'])
    if len(said['mlp_activations']) == len(config.mlp_activations):  # all that the shapes tell
      config = dataclasses.replace(config, mlp_activations=said['mlp_activations'])
  for name in _CHECKED:
    value = getattr(config, name)
    if said.get(name, value) != value:
      raise ValueError(f'{file} says T5Config.{name} = {said[name]}, but the weights have {value}.')
  total = sum(math.prod(shape) for shape in shapes.values())
  for file in (folder / 'model-info.txt' for folder in folders):
    match = _TOTAL.search(file.read_text()) if file.exists() else None
    if match and int(match[1]) != total:
      raise ValueError(f'{file} says {match[1]} parameters, but {total} are there.')
  return config


def _settings(text: str) -> dict[str, Any]:
  """The plain values that a gin file gives T5Config; nothing in it is executed."""
  found, block = {}, False
  for line in text.splitlines():
    if line.strip() and not line[0].isspace():
      block = _BLOCK.fullmatch(line.strip()) is not None
    match = _BINDING.fullmatch(line.strip()) or (_IN_BLOCK.fullmatch(line) if block else None)
    if match:
      try:
        found[match[1]] = ast.literal_eval(match[2])
      except (ValueError, SyntaxError):  # a macro or a reference
        continue
  return found


# ---------------------------------------------------------------- Adafactor's state


def _moments(config: T5Config, weights: Recipe, step: int) -> Moments:
  """Where the state of T5X's Adafactor lies: of each weight, factored as T5X and optax do it."""
  rows, columns, full = {}, {}, {}
  for path, shape in _shapes(config).items():
    leaf = weights[path]

    def state(kind: str, axes: tuple[int, ...], leaf: Leaf = leaf) -> Leaf:
      names = tuple(f'{STATES}{name.removeprefix(TARGET)}/{kind}' for name in leaf.names)
      return Leaf(names, axes, leaf.per_layer)

    if _is_factored(shape[1:] if leaf.per_layer else shape):
      rows[path], columns[path] = state('v_row', (0,)), state('v_col', (0,))
    else:
      full[path] = state('v', leaf.axes)
  return Moments(step, rows, columns, full)


def _moments_there(
  config: T5Config, weights: Recipe, tensors: Mapping[str, Tensor], scanned: bool
) -> tuple[Moments | None, tuple[str, ...]]:
  """Where Adafactor's state is, or None, and what a person should know about it."""
  states = [name for name in tensors if name.startswith('state/') and name != STEP]
  if not states:
    return None, ()
  if STEP not in tensors or not any(name.startswith(STATES) for name in states):
    return None, (f"its optimizer state is left out: it is not Adafactor's, but has {states[0]}",)
  if scanned:
    return None, (
      'its optimizer state is left out: scanned layers have one for a relative bias of each layer',
    )
  step = int(np.asarray(tensors[STEP].read((slice(None),) * len(tensors[STEP].shape))).item())
  where, shapes = _moments(config, weights, step), _shapes(config)
  wanted = transfer.expected_shapes(where.full, shapes)
  for path in where.rows:
    long, short = sorted(shapes[path][-2:], reverse=True)
    wanted.update(dict.fromkeys(where.rows[path].names, (short,)))
    wanted.update(dict.fromkeys(where.columns[path].names, (long,)))
  for name, shape in wanted.items():
    if name not in tensors or tensors[name].shape != shape:
      there = tensors[name].shape if name in tensors else 'missing'
      return None, (
        f'its optimizer state is left out: Adafactor has {name} {shape}, here it is {there}',
      )
  if any(name.endswith('/m') and tensors[name].shape != (1,) for name in tensors):
    return where, ('the momentum of its optimizer is left out: ours has none',)
  return where, ()


def _fresh_states(config: T5Config, weights: Recipe) -> dict[str, np.ndarray]:
  """The state of T5X's Adafactor before the first update; what is not used is one zero."""
  states = {}
  for path, shape in _shapes(config).items():
    leaf = weights[path]
    shape = shape[1:] if leaf.per_layer else shape
    sizes = {'v_row': (1,), 'v_col': (1,), 'v': shape, 'm': (1,)}
    if _is_factored(shape):
      sizes |= {'v_row': (min(shape),), 'v_col': (max(shape),), 'v': (1,)}
    for name in leaf.names:
      place = STATES + name.removeprefix(TARGET)
      states.update({f'{place}/{kind}': np.zeros(s, np.float32) for kind, s in sizes.items()})
  return states


def _shapes(config: T5Config) -> dict[Path, tuple[int, ...]]:
  return {path: leaf.shape for path, leaf in transfer.flatten(t5.abstract(config)[0]).items()}


def _is_factored(shape: tuple[int, ...]) -> bool:
  return len(shape) == 2 and min(shape) >= FACTORED_FROM
