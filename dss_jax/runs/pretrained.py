"""Weights to start from: a run folder, an imported one, or a checkpoint of another program.

Owns what INITIAL_CHECKPOINT_PATH and `dss import` accept, how the kinds are told apart, and the
network and vocabulary that come with the weights. Formats are read in checkpoints/.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from etils import epath

from dss_jax.checkpoints import manager, moments, transfer
from dss_jax.checkpoints.hf import huggingface
from dss_jax.checkpoints.t5x import t5x
from dss_jax.models.t5 import Params, T5Config
from dss_jax.parallel import distributed
from dss_jax.runs import run_config
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import fields, json_form, plain_files
from dss_jax.training import train_state
from dss_jax.training.train_state import TrainState

ACCEPTED = (
  'a folder that `dss train` or `dss import` wrote, a Hugging Face folder or id such as '
  'google/t5-v1_1-base, or a T5X checkpoint'
)
# These settings of a network are the user's choice, not a property of its weights.
NETWORK_CHOICES = ('dropout_rate', 'dtype', 'remat_policy', 'scan_layers')
_HUB_ID = re.compile(r'[\w.-]+(/[\w.-]+)?')


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
  """Weights that can be read.

  Attributes:
    origin: where they come from, for people.
    config: the network that they belong to.
    vocabulary: the setting VOCABULARY that fits, or None where they came without one.
    load: reads the parameters; takes a nested dict of ShapeDtypeStructs with their shardings.
    load_moments: reads the optimizer's state (see checkpoints/moments.py), or None where there is
      none. Takes ShapeDtypeStructs with shardings of the same form, or None for whole arrays.
    optimizer: whose state that is, 'AdamW' or 'Adafactor'; None where that is not known before it
      is read, as in a folder of `dss import`.
    notes: lines for the log.
  """

  origin: str
  config: T5Config
  vocabulary: str | None
  load: Callable[[Params], Params]
  load_moments: Callable[..., dict[str, Any]] | None = None
  optimizer: str | None = None
  notes: tuple[str, ...] = ()


@functools.cache  # a start asks for the network, the vocabulary and the weights of one path
def open_weights(path: str, program: str | None = None) -> Weights:
  """Opens the weights at a path, whichever program wrote them; once per path in a process.

  Args:
    path: local, gs://, or a Hugging Face id where no such folder is.
    program: 'hf' or 't5x' to accept that alone; None to accept any.

  Raises:
    ValueError: the path holds no weights, or a part is missing; the message says what was expected.
  """
  path = fields.expanded(path)
  program = program or _program_of(path)
  if program == 'ours':
    return _ours(path)
  opened = {'hf': huggingface, 't5x': t5x}[program].open_pretrained(path)
  there = opened.moments
  return Weights(
    origin=opened.origin,
    config=opened.config,
    vocabulary=opened.vocabulary,
    load=functools.partial(transfer.load, opened.recipe, opened.tensors),
    load_moments=there and functools.partial(_load_moments, there, opened.tensors),
    optimizer=there and moments.NAMES[there._fields[1:]],
    notes=opened.notes,
  )


def network(path: str | None, **chosen: Any) -> T5Config:
  """The network of INITIAL_CHECKPOINT_PATH, for gin: models/pretrained.gin.

  Args:
    path: INITIAL_CHECKPOINT_PATH.
    **chosen: settings that do not depend on the weights: dropout_rate, dtype, ...

  Raises:
    ValueError: no path is given, or it holds no weights.
  """
  return dataclasses.replace(_opened_for_gin(path).config, **chosen)


def vocabulary(path: str | None) -> str:
  """The vocabulary that came with INITIAL_CHECKPOINT_PATH, for gin: models/pretrained.gin.

  Raises:
    ValueError: it came without one.
  """
  weights = _opened_for_gin(path)
  if weights.vocabulary is None:
    raise ValueError(
      f'{weights.origin} came without a vocabulary; give --vocabulary=spiece.model, the one it was '
      'trained with.'
    )
  return weights.vocabulary


def train_steps(
  train_steps: int = 10_000,
  train_steps_relative: int | None = None,
  initial_checkpoint_path: fields.Path | None = None,
  counts_pretraining: bool = False,
) -> int:
  """The length of a run in updates, for gin; schedules and all else that counts updates use it.

  T5X includes the steps of pretraining in TRAIN_STEPS; we count from the start of the run.

  Args:
    train_steps: updates in all. Refused where the run starts from a T5X checkpoint of fewer steps,
      as T5X would include those.
    train_steps_relative: updates from where the run starts; where given, TRAIN_STEPS is ignored.
    initial_checkpoint_path: what the run starts from.
    counts_pretraining: whether `train_steps` is meant as T5X counts it, as in T5X's own files.

  Raises:
    ValueError: `train_steps` may be meant as T5X counts it; both readings are spelled out. Or it is
      meant so, and the checkpoint has as many, or is not T5X's.
  """
  for name, value in {
    'TRAIN_STEPS': train_steps,
    'TRAIN_STEPS_RELATIVE': train_steps_relative,
  }.items():
    if value is not None and value < 1:
      raise ValueError(f'{name} is at least 1, not {value}.')
  if train_steps_relative is not None:
    return train_steps_relative
  before = _t5x_step(initial_checkpoint_path)
  if before is None and counts_pretraining and initial_checkpoint_path is not None:
    raise ValueError(
      f'TRAIN_STEPS = {train_steps:,} counts the steps of a T5X checkpoint, and '
      f'INITIAL_CHECKPOINT_PATH {initial_checkpoint_path} is none: give --train_steps_relative=N '
      'for the updates from there.'
    )
  if before is None or (train_steps <= before and not counts_pretraining):
    return train_steps
  updates = train_steps - before
  if counts_pretraining and updates > 0:
    return updates
  if counts_pretraining:
    raise ValueError(
      f'TRAIN_STEPS = {train_steps:,} counts the steps of the T5X checkpoint '
      f'INITIAL_CHECKPOINT_PATH too, which has {before:,}: nothing would be trained. Give '
      f'--train_steps_relative={train_steps} for so many updates from there.'
    )
  raise ValueError(
    f'TRAIN_STEPS = {train_steps:,}, but INITIAL_CHECKPOINT_PATH is a T5X checkpoint of step '
    f'{before:,}. As T5X counts, that is {updates:,} updates: give '
    f'--train_steps_relative={updates}; if you do mean {train_steps:,} updates, give '
    f'--train_steps_relative={train_steps}.'
  )


def first_step(initial_checkpoint_path: fields.Path | None = None) -> int:
  """The step of the T5X checkpoint that a run starts from, for gin; 0 where it is no such one."""
  return _t5x_step(initial_checkpoint_path) or 0


def check_network(weights: Weights, wanted: T5Config) -> None:
  """Raises ValueError if the network of a run is not that of the weights."""
  changed = json_form.differences(weights.config, wanted, ignore=NETWORK_CHOICES)
  if changed:
    raise ValueError(
      f'INITIAL_CHECKPOINT_PATH {weights.origin} holds another network than MODEL (there -> here): '
      f'{"; ".join(changed)}. --gin_file=models/pretrained.gin takes that of the weights.'
    )


def start(
  path: str, model: T5Config, optimizer: optax.GradientTransformation, abstract_state: TrainState
) -> TrainState:
  """The state before the first update of a run that starts from a checkpoint's parameters.

  The optimizer's state is kept where the checkpoint has one and `optimizer` is the same.

  Args:
    path: INITIAL_CHECKPOINT_PATH.
    model: the network of the run.
    optimizer: of the run.
    abstract_state: the state as ShapeDtypeStructs with shardings.

  Raises:
    ValueError: it is not a checkpoint, has another network or vocabulary, or a tensor of it holds
      a NaN or an infinity.
  """
  weights = open_weights(path)
  check_network(weights, model)
  if weights.vocabulary is not None:
    run_config.check_vocabulary(weights.vocabulary, weights.origin)
  params = weights.load(abstract_state.params)
  make = functools.partial(train_state.from_params, optimizer=optimizer)
  place = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
  state = jax.jit(make, out_shardings=place, donate_argnums=0)(params)
  notes = [f'starting from {weights.origin}', *weights.notes]
  if weights.load_moments is not None:
    continued, name = _continued(weights, state, abstract_state)
    notes.append(
      f'its {name} state is left out: OPTIMIZER is another one'
      if continued is None
      else f'its {name} state is continued'
    )
    state = continued or state
  _check_finite(state, weights.origin)
  distributed.log('\n'.join(notes))
  return state


def _continued(
  weights: Weights, state: TrainState, abstract_state: TrainState
) -> tuple[TrainState | None, str]:
  """The state with the optimizer's of the weights, or None; and whose theirs is.

  Another optimizer's is not read where it is known to be that.
  """
  assert weights.load_moments is not None
  like = moments.moments_of(abstract_state.opt_state)
  if weights.optimizer and (like is None or moments.optimizer_of(like) != weights.optimizer):
    return None, weights.optimizer
  loaded = weights.load_moments(like if weights.optimizer else None)
  continued = moments.with_moments(state.opt_state, loaded)
  name = moments.optimizer_of(loaded)
  return None if continued is None else state._replace(opt_state=continued), name


def _check_finite(state: TrainState, origin: str) -> None:
  """Raises ValueError if a number of the given weights, or of their optimizer, is not finite."""
  leaves = {
    name: leaf
    for tree in (state.params, state.opt_state)
    for path, leaf in jax.tree.leaves_with_path(tree)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
    for name in [jax.tree_util.keystr(path, simple=True, separator='/')]
  }
  count = jax.jit(lambda tree: jax.tree.map(lambda leaf: (~jnp.isfinite(leaf)).sum(), tree))
  wrong = {name: int(number) for name, number in jax.device_get(count(leaves)).items() if number}
  if wrong:
    name, number = next(iter(wrong.items()))
    raise ValueError(
      f'INITIAL_CHECKPOINT_PATH {origin}: {number:,} of the {leaves[name].size:,} numbers of the '
      f'tensor {name} are NaN or infinite, and so in {len(wrong)} of {len(leaves)} tensors. '
      'Nothing can be learned from them; start from other weights.'
    )


def _opened_for_gin(path: str | None) -> Weights:
  if path is None:
    raise ValueError(
      f'models/pretrained.gin takes the network of INITIAL_CHECKPOINT_PATH: set that to {ACCEPTED}.'
    )
  return open_weights(path)


def _program_of(path: str) -> str:
  """The program that wrote what is at `path`: 'ours', 'hf' or 't5x'."""
  folder = epath.Path(path)
  if not plain_files.exists(folder):
    if _HUB_ID.fullmatch(path):
      return 'hf'
    raise ValueError(f'there is no folder {path}; expected {ACCEPTED}.')
  # A Hugging Face folder has a config.json too.
  if RunFolder(folder).settings_file.exists():
    return 'ours' if 'model' in RunFolder(folder).load_values() else 'hf'
  if t5x.is_checkpoint(path):
    return 't5x'
  raise ValueError(f'{path} holds no weights that can be read; expected {ACCEPTED}.')


def _t5x_step(path: str | None) -> int | None:
  """The step of the T5X checkpoint at `path`; None where there is no such checkpoint."""
  if path is None:
    return None
  path = fields.expanded(path)
  if RunFolder(path).settings_file.exists():
    return None
  return t5x.step_of(path)


def _ours(path: str) -> Weights:
  folder = RunFolder(path)
  values = folder.load_values()
  checkpoints = folder.checkpoints_folder
  read = functools.partial(_load_our_moments, checkpoints)
  return Weights(
    origin=path,
    config=json_form.from_dict(T5Config, values['model'], f'{folder.settings_file}: model'),
    vocabulary=folder.vocabulary(values),
    load=functools.partial(_load_ours, folder),
    load_moments=read if manager.has_moments(checkpoints) else None,
  )


def _load_ours(folder: RunFolder, abstract_params: Params) -> Params:
  with folder.read_checkpoints() as checkpoints:
    return checkpoints.restore_params('best', abstract_params)


def _load_our_moments(checkpoints: epath.Path, like: Any = None) -> dict[str, Any]:
  return manager.load_moments(checkpoints)


def _load_moments(
  where: transfer.Moments | transfer.AdamMoments,
  tensors: Mapping[str, transfer.Tensor],
  like: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  found: dict[str, Any] = {'step': where.step}
  for kind in where._fields[1:]:
    recipe = getattr(where, kind)
    if like is None:
      found[kind] = transfer.read_all(recipe, tensors)
    else:
      found[kind] = transfer.load(recipe, tensors, like[kind])
  return found
