"""Weights between our layout and another program's: what goes where, checked, read in parts.

Owns the form of a table of names (`Recipe`), the check that it accounts for every tensor, and the
reading and writing of single slices through it, so that only what is asked for is in memory; a
number that is NaN or infinite is refused where it is read.
huggingface.py and t5x.py own the other programs' names, and their files.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dss_jax.checkpoints import foreign_files
from dss_jax.models import t5
from dss_jax.models.t5 import T5Config

Index = tuple[slice, ...]
Path = tuple[str, ...]
SHOWN = 5  # names in a message
LARGEST = 1 << 22  # of a network's sizes; a T5 has at most 256,384 ids
MOST_LAYERS = 1024  # of a stack; a T5 has at most 24
FAMILIES = {
  (('relu',), True, False): 'T5 1.0',
  (('gelu', 'linear'), False, False): 'T5 1.1 (also LM-adapted, Flan-T5, mT5 and ByT5)',
  (('gelu', 'linear'), False, True): 'umT5',
}


class Tensor(NamedTuple):
  """A tensor of another program's checkpoint, not read yet.

  Attributes:
    shape: of the full tensor.
    dtype: as stored.
    read: returns the part at an index of slices (one per dimension), in `dtype`.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[Index], np.ndarray]


class Leaf(NamedTuple):
  """Where one of our arrays is in another program's checkpoint.

  Attributes:
    names: of one tensor, or, if `per_layer`, of one tensor per layer.
    axes: `ours = theirs.transpose(axes)`, for each layer if `per_layer`.
    per_layer: our first axis counts layers, and each layer is a tensor of theirs.
  """

  names: tuple[str, ...]
  axes: tuple[int, ...]
  per_layer: bool = False


Recipe = Mapping[Path, Leaf]
MakeRecipe = Callable[[T5Config], Recipe]


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
  """Weights that another program wrote: opened and checked, not read.

  Attributes:
    origin: where they are, for messages: 'Hugging Face google/t5-v1_1-base'.
    config: the network, with our own defaults for dropout and the activations' dtype.
    recipe: where each parameter is.
    tensors: what the checkpoint holds.
    vocabulary: the value for VOCABULARY, or None if the checkpoint has none.
    moments: the optimizer's state, or None.
    notes: lines to show to the user, such as what was left out.
  """

  origin: str
  config: T5Config
  recipe: Recipe
  tensors: Mapping[str, Tensor]
  vocabulary: str | None = None
  moments: 'Moments | AdamMoments | None' = None
  notes: tuple[str, ...] = ()


class Moments(NamedTuple):
  """Where Adafactor's second moments are among another program's tensors.

  A parameter is either factored (in `rows` and `columns`) or not (in `full`).

  Attributes:
    step: updates made so far.
    rows, columns: of each factored parameter, the means over its longer axis (the last of two
      equal ones) and over the other one: optax's v_row and v_col, stacked over layers.
    full: the second moments of the other parameters.
  """

  step: int
  rows: Recipe
  columns: Recipe
  full: Recipe


class AdamMoments(NamedTuple):
  """Where AdamW's means are among another program's tensors.

  Attributes:
    step: updates made so far.
    mu, nu: the means of each parameter's gradients, and of their squares.
  """

  step: int
  mu: Recipe
  nu: Recipe


def flatten(tree: Any) -> dict[Path, Any]:
  """The leaves of a nested dict by their path of keys."""
  leaves = jax.tree.leaves_with_path(tree)
  return {tuple(str(key.key) for key in path): leaf for path, leaf in leaves}


def unflatten(leaves: Mapping[Path, Any]) -> dict[str, Any]:
  """The nested dict of leaves by path."""
  tree: dict[str, Any] = {}
  for path, leaf in leaves.items():
    node = tree
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = leaf
  return tree


def shapes_of(tree: Any) -> dict[Path, tuple[int, ...]]:
  """The shapes of the leaves of a nested dict by path."""
  return {path: tuple(np.shape(leaf)) for path, leaf in flatten(tree).items()}


def check_means(
  optimizer: str, kinds: Sequence[str], mine: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
  """Refuses an optimizer's means that belong to other parameters, or have other shapes.

  Args:
    optimizer: whose they are, for people.
    kinds: the names of its means.
    mine: the means that are expected: for each kind a nested dict of arrays.
    given: those that came.

  Raises:
    ValueError: they differ.
  """
  for kind in kinds:
    wanted, there = shapes_of(mine[kind]), shapes_of(given[kind])
    for path in sorted({*wanted, *there}):
      if wanted.get(path) != there.get(path):
        raise ValueError(
          f"{optimizer}'s state has {kind} of {'/'.join(path)} with shape "
          f'{there.get(path, "none")}; expected {wanted.get(path, "none")}.'
        )


def placed_like(value: Any, leaf: Any) -> Any:
  """The value with the dtype and sharding of `leaf`; within jit, XLA chooses the sharding."""
  if not isinstance(value, jax.Array):
    value = np.asarray(value)
  value = value.astype(leaf.dtype)
  return value if isinstance(leaf, jax.core.Tracer) else jax.device_put(value, leaf.sharding)


def expected_shapes(recipe: Recipe, ours: Mapping[Path, tuple[int, ...]]) -> dict[str, tuple]:
  """The shape of each of their tensors, from the shapes of our arrays."""
  shapes = {}
  for path, leaf in recipe.items():
    shape = ours[path][1:] if leaf.per_layer else ours[path]
    shapes.update(dict.fromkeys(leaf.names, tuple(shape[axis] for axis in np.argsort(leaf.axes))))
  return shapes


def check(
  origin: str,
  config: T5Config,
  make_recipe: MakeRecipe,
  shapes: Mapping[str, tuple[int, ...]],
  allowed: tuple[str, ...] = (),
) -> Recipe:
  """The recipe of a network, which must use every tensor exactly once.

  Args:
    origin: what is read, for messages.
    config: the network that the tensors should belong to.
    make_recipe: returns the recipe of a network.
    shapes: of the tensors that are there.
    allowed: names of unused tensors that may be there.

  Raises:
    ValueError: a tensor is missing, left over or of another shape; the message names it, and the
      family that would fit.
  """
  _check_sizes(origin, config)
  recipe = make_recipe(config)
  names = list(itertools.chain.from_iterable(leaf.names for leaf in recipe.values()))
  assert len(names) == len(set(names)), 'a recipe names a tensor twice'
  wanted = expected_shapes(recipe, _our_shapes(config))
  there = {name: tuple(shape) for name, shape in shapes.items() if name not in allowed}
  problems = [
    *_listed('missing', [name for name in wanted if name not in there]),
    *_listed('left over', [name for name in there if name not in wanted]),
    *_listed(
      'of another shape',
      [
        f'{name} {there[name]}, expected {shape}'
        for name, shape in wanted.items()
        if name in there and there[name] != shape
      ],
    ),
  ]
  if problems:
    raise ValueError(
      f'{origin} does not hold {_family(config)}: {"; ".join(problems)}.'
      f'{_fitting(config, make_recipe, there)}'
    )
  return recipe


def read(leaf: Leaf, tensors: Mapping[str, Tensor], index: Index, out: np.ndarray) -> None:
  """Reads the part at `index` of one of our arrays into `out`, tensor by tensor."""
  if not leaf.per_layer:
    out[...] = _read_one(leaf.names[0], leaf.axes, tensors, index)
    return
  for row, name in zip(out, leaf.names[index[0]], strict=True):
    row[...] = _read_one(name, leaf.axes, tensors, index[1:])


def load(recipe: Recipe, tensors: Mapping[str, Tensor], like: Any) -> Any:
  """Our arrays; each host reads only the parts that its devices hold.

  Args:
    recipe: where they are.
    tensors: of the checkpoint.
    like: nested dict of ShapeDtypeStructs with shardings.

  Returns:
    The nested dict of jax arrays.

  Raises:
    ValueError: a part cannot be read.
  """
  return unflatten(
    {path: _load(recipe[path], tensors, leaf) for path, leaf in flatten(like).items()}
  )


def read_all(recipe: Recipe, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
  """Our complete arrays, as float32 numpy arrays, in a nested dict."""
  arrays = {}
  for path, leaf in recipe.items():
    shape = tuple(tensors[leaf.names[0]].shape[axis] for axis in leaf.axes)
    shape = (len(leaf.names), *shape) if leaf.per_layer else shape
    arrays[path] = np.empty(shape, np.float32)
    read(leaf, tensors, (slice(None),) * len(shape), arrays[path])
  return unflatten(arrays)


def written(recipe: Recipe, arrays: Mapping[Path, Any]) -> Iterator[tuple[str, np.ndarray]]:
  """The other program's tensors, name and array, made one by one from our arrays."""
  for path, leaf in recipe.items():
    back = np.argsort(leaf.axes)
    parts = arrays[path] if leaf.per_layer else [arrays[path]]
    for name, part in zip(leaf.names, parts, strict=True):
      yield name, np.ascontiguousarray(np.asarray(part).transpose(back))


def _load(leaf: Leaf, tensors: Mapping[str, Tensor], like: jax.ShapeDtypeStruct) -> jax.Array:
  def part(index: Index | None) -> np.ndarray:
    index = index or ()  # of a scalar
    shape = [len(range(*at.indices(size))) for at, size in zip(index, like.shape, strict=True)]
    out = _aligned(shape, like.dtype)
    read(leaf, tensors, index, out)
    return out

  return jax.make_array_from_callback(like.shape, like.sharding, part)


def _aligned(shape, dtype) -> np.ndarray:
  """An empty array whose memory a CPU device takes over instead of copying it."""
  size, alignment = math.prod(shape) * np.dtype(dtype).itemsize, 64
  raw = np.empty(size + alignment, np.uint8)
  start = -raw.ctypes.data % alignment
  return raw[start : start + size].view(dtype).reshape(shape)


def _read_one(name: str, axes: tuple[int, ...], tensors: Mapping[str, Tensor], index: Index):
  theirs = tuple(index[ours] for ours in np.argsort(axes))
  try:
    part = tensors[name].read(theirs).transpose(axes)
  except (OSError, EOFError, ValueError, RuntimeError, MemoryError) as error:
    raise ValueError(f'{name} cannot be read: {error}.') from error
  if not is_finite(part):
    raise ValueError(
      f'{name} holds NaN or infinity, so nothing could be trained from it or answered with it: '
      'take weights whose values are all finite, such as an earlier checkpoint.'
    )
  return part


def is_finite(array: np.ndarray) -> bool:
  """Whether no number of an array is NaN or infinite; needs no memory of the array's size."""
  if not array.size:
    return True
  with np.errstate(invalid='ignore'):
    return bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def _check_sizes(origin: str, config: T5Config) -> None:
  """Refuses a network whose table of names or shapes alone would fill the memory."""
  layers = ('num_encoder_layers', 'num_decoder_layers')
  most = {field.name: LARGEST for field in dataclasses.fields(config)}
  most.update(dict.fromkeys(layers, MOST_LAYERS))
  for name, limit in most.items():
    value = getattr(config, name)
    if type(value) is int and value > limit:
      raise ValueError(f'{origin} has {name} {value}; expected at most {limit}.')


def _our_shapes(config: T5Config) -> dict[Path, tuple[int, ...]]:
  return {path: leaf.shape for path, leaf in flatten(t5.abstract(config)[0]).items()}


def _listed(problem: str, names: list[str]) -> list[str]:
  if not names:
    return []
  names = [foreign_files.shown(name) for name in names]
  more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
  return [f'{problem}: {", ".join(names[:SHOWN])}{more}']


def _family(config: T5Config) -> str:
  names = ('mlp_activations', 'logits_via_embedding', 'relative_bias_per_layer')
  values = tuple(getattr(config, name) for name in names)
  settings = [f'{name} {value}' for name, value in zip(names, values, strict=True)]
  return FAMILIES.get(values) or f'a T5 with {", ".join(settings)}'


def _fitting(config: T5Config, make_recipe: MakeRecipe, there: Mapping[str, tuple]) -> str:
  """A sentence that names the family that these tensors belong to, if there is one."""
  either = (False, True)
  for activations, tied, own in itertools.product((('gelu', 'linear'), ('relu',)), either, either):
    other = dataclasses.replace(
      config,
      mlp_activations=activations,
      logits_via_embedding=tied,
      relative_bias_per_layer=own,
    )
    if set(expected_shapes(make_recipe(other), _our_shapes(other))) == set(there):
      return f' They are the tensors of {_family(other)}.'
  return ''
