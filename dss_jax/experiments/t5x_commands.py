"""A student as a job of T5X's trainer: the command of `dss t5x` that trains it.

Owns which setting of a run is which macro of gin/t5x/, and refusing what T5X's trainer does not do.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from dss_jax.experiments.comparison import Cell
from dss_jax.models.config import T5Config
from dss_jax.runs import pretrained
from dss_jax.runs.run_config import RunConfig
from dss_jax.settings import statements

FOLDER = 't5x'  # below the sweep's: T5X's runs are no runs of ours
TRAIN, ADAFACTOR = 't5x/train.gin', 't5x/adafactor.gin'
# emb_dim, num_heads, head_dim, mlp_dim and layers of each file of t5x/models/.
SIZES = {
  'tiny': (96, 4, 24, 192, 2),
  'small': (512, 6, 64, 1024, 8),
  'base': (768, 12, 64, 2048, 12),
  'large': (1024, 16, 64, 2816, 24),
  'xl': (2048, 32, 64, 5120, 24),
  'xxl': (4096, 64, 64, 10240, 24),
}
RELEASED = re.compile(r'google/t5-v1_1-(\w+)')  # by Hugging Face: the weights of T5X's checkpoint
_CHECKPOINT = re.compile(r'.*checkpoint_\d+/?')
# What T5X's finetune.gin and base.gin have and ours do not set.
_OF_T5X: Mapping[str, Any] = {
  'BATCH_SIZE': 128, 'DROPOUT_RATE': 0.1, 'EVALUATOR_NUM_EXAMPLES': None,
  'MIXTURE_OR_TASK_MODULE': None, 'network.T5Config.vocab_size': 32128,
}  # fmt: skip
# What a command has of each part of a run's settings. What it has not must be as it is by default,
# except what changes neither the loss nor the update: memory's, and MAX_DECODE_LENGTH, which is of
# the data set's file; T5X's validation decodes up to its longest target.
_HAS: Mapping[str, tuple[str, ...]] = {
  'data': (
    'mixture_or_task_name', 'task_feature_lengths', 'batch_size', 'split', 'fraction', 'pack',
    'seed',
  ),
  'loss': ('rationale_weight', 'alpha', 'z_loss', 'label_smoothing'),
  'model': (
    'vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_encoder_layers',
    'num_decoder_layers', 'mlp_activations', 'logits_via_embedding', 'dtype', 'dropout_rate',
    'remat_policy', 'scan_layers',
  ),
  'optimizer': (
    'name', 'learning_rate', 'schedule', 'warmup_steps', 'decay_steps', 'clip_norm', 'weight_decay',
  ),
  'mesh': ('tensor',),
  'eval': ('period', 'split', 'num_examples', 'batch_size', 'max_decode_length'),
}  # fmt: skip
_ADAFACTOR_HAS = ('name', 'learning_rate')
_OF_ADAFACTOR: Mapping[str, Any] = {'schedule': 'constant', 'clip_norm': None}  # t5x/adafactor.gin


def command(cell: Cell, run: RunConfig) -> list[str]:
  """The arguments of `dss`, for a shell: 't5x', the gin files, and what differs from these.

  Args:
    cell: a student of a sweep.
    run: its settings.

  Raises:
    ValueError: T5X's trainer cannot train it; the message has the setting.
  """
  for problem in _problems(run):
    raise ValueError(f'--commands=t5x: {cell.folder.name}: {problem}')
  size = _size(run.model)
  is_adafactor = run.optimizer.name == 'adafactor'
  files = [f't5x/models/{size}.gin', TRAIN, *([ADAFACTOR] if is_adafactor else [])]
  dtype = 'float32' if size == 'tiny' else 'bfloat16'
  known = {**_OF_T5X, 'network.T5Config.dtype': dtype, **_defaults(tuple(files))}
  folder = cell.folder.parent / FOLDER / cell.folder.name
  changed = {
    name: value for name, value in _settings(run, folder).items()
    if name not in known or known[name] != value
  }  # fmt: skip
  data = [f'--tfds_data_dir={run.data_dir}'] if run.data_dir else []
  return [
    't5x',
    *(f'--gin_file={file}' for file in files),
    *data,
    *(f'--gin.{name}={_text(value)}' for name, value in changed.items()),
  ]


def _text(value: Any) -> str:
  """A value as gin reads it, with the double quotes that a shell's single ones can hold."""
  return json.dumps(value) if isinstance(value, str | dict) else repr(value)


@functools.cache
def _defaults(files: Sequence[str]) -> Mapping[str, Any]:
  """The macros of our files for T5X."""
  texts = [(statements.gin_root() / file).read_text() for file in files]
  return {one.name: one.value for text in texts for one in statements.of_text(text)[0]}


def _size(network: T5Config) -> str | None:
  layers = network.num_encoder_layers
  asked = (network.emb_dim, network.num_heads, network.head_dim, network.mlp_dim, layers)
  return next((name for name, size in SIZES.items() if size == asked), None)


def _problems(run: RunConfig) -> Iterator[str]:
  """What T5X's trainer does not do."""
  network, optimizer = run.model, run.optimizer
  is_t5 = network.mlp_activations == ('gelu', 'linear') and not network.logits_via_embedding
  is_even = network.num_encoder_layers == network.num_decoder_layers
  if not (is_t5 and is_even and not network.relative_bias_per_layer and _size(network)):
    yield f'MODEL is none of the networks of gin/t5x/models: T5 1.1 {", ".join(SIZES)}.'
  if run.method is not None and run.method.is_grouped:
    yield f'METHOD {run.method.name} compares the rows of an example, which T5X would split.'
  if optimizer.schedule == 'factors':
    yield "the schedule of T5X's factors is bound in a gin file of T5X's."
  yield from _changed(run)
  if run.data.seed != run.seed:
    yield f'the seed of the data, {run.data.seed}, is RANDOM_SEED there, {run.seed}.'
  if optimizer.decay_steps not in (None, run.train_steps):
    yield f'the rate falls until TRAIN_STEPS there, {run.train_steps}, not {optimizer.decay_steps}.'
  yield from _of_the_start(run)


def _changed(run: RunConfig) -> Iterator[str]:
  """Settings that no command has, and that are not as they are by default."""
  for part, names in _HAS.items():
    settings = getattr(run, part)
    is_adafactor = part == 'optimizer' and settings.name == 'adafactor'
    names = _ADAFACTOR_HAS if is_adafactor else names
    for field in dataclasses.fields(settings):
      value, default = getattr(settings, field.name), field.default
      if is_adafactor:
        default = _OF_ADAFACTOR.get(field.name, default)
      if field.name not in names and value != default:
        yield (
          f'{type(settings).__name__}.{field.name} is {value!r}, but no setting of gin/t5x is for '
          f'that; there it is {default!r}.'
        )


def _of_the_start(run: RunConfig) -> Iterator[str]:
  """What T5X's trainer would not start from, or not as our own does."""
  network = run.model
  start = run.initial_checkpoint_path
  released = RELEASED.fullmatch(str(start))
  is_read = start is None or released or _CHECKPOINT.fullmatch(str(start))
  if not is_read or (released and released[1] != _size(network)):
    yield (
      f'INITIAL_CHECKPOINT_PATH {start} is no checkpoint of T5X (.../checkpoint_N); '
      '`dss export --to=t5x` writes one.'
    )
  elif start is not None and not released:
    name = {'adamw': 'AdamW', 'adafactor': 'Adafactor'}[run.optimizer.name]
    if pretrained.open_weights(str(start)).optimizer == name:
      yield (
        f'INITIAL_CHECKPOINT_PATH {start} has the state of {name}, with which our own trainer goes '
        'on, and T5X with a new one (t5x/train.gin): start from weights of another OPTIMIZER.'
      )


def _settings(run: RunConfig, folder: epath.Path) -> dict[str, Any]:
  """All of a run's settings that T5X's trainer takes, by macro or binding."""
  optimizer, validation = run.optimizer, run.eval
  settings: dict[str, Any] = {
    'MODEL_DIR': str(folder),
    'MIXTURE_OR_TASK_NAME': run.data.mixture_or_task_name,
    'MIXTURE_OR_TASK_MODULE': run.module,
    'METHOD': run.method.name if run.method else None,
    'TASK_FEATURE_LENGTHS': dict(run.data.task_feature_lengths),
    'VOCABULARY': str(run.vocabulary),
    'BATCH_SIZE': run.data.batch_size,
    'TRAIN_SPLIT': run.data.split,
    'TRAIN_FRACTION': run.data.fraction,
    'PACK': run.data.pack,
    'RANDOM_SEED': run.seed,
    'TRAIN_STEPS': run.train_steps,
    'RATIONALE_WEIGHT': run.loss.rationale_weight,
    'ALPHA': run.loss.alpha,
    'Z_LOSS': run.loss.z_loss,
    'LABEL_SMOOTHING': run.loss.label_smoothing,
    'DROPOUT_RATE': run.model.dropout_rate,
    'LEARNING_RATE': optimizer.learning_rate,
    'NUM_PARTITIONS': run.mesh.tensor,
    'NUM_MICROBATCHES': None if run.num_microbatches == 1 else run.num_microbatches,
    'EVAL_PERIOD': validation.period,
    'EVAL_SPLIT': validation.split,
    'EVAL_BATCH_SIZE': validation.batch_size,
    'EVALUATOR_NUM_EXAMPLES': validation.num_examples,
    'LOG_PERIOD': run.log_period,
    # Ours saves at every validation; T5X wants one period to divide the other.
    'SAVE_PERIOD': validation.period or run.save_period,
    'CHECKPOINTS_TO_KEEP': run.checkpoints_to_keep,
  }
  if optimizer.name == 'adamw':
    settings |= {
      'SCHEDULE': optimizer.schedule,
      'WARMUP_STEPS': optimizer.warmup_steps,
      'CLIP_NORM': optimizer.clip_norm,
      'WEIGHT_DECAY': optimizer.weight_decay,
    }
  if run.mesh.tensor == 1:  # as many as the size's file has
    del settings['NUM_PARTITIONS']
  start = run.initial_checkpoint_path
  if start is None or not RELEASED.fullmatch(str(start)):
    settings['INITIAL_CHECKPOINT_PATH'] = None if start is None else str(start)
  return {**settings, **_network(run)}


def _network(run: RunConfig) -> dict[str, Any]:
  """What a network has of its own beside its size."""
  from dss_jax.tasks import vocabulary

  rows = run.model.vocab_size
  if rows is None and str(run.vocabulary) != _defaults((TRAIN,))['VOCABULARY']:
    rows = vocabulary.padded_vocab_size(vocabulary.load_vocabulary(str(run.vocabulary)))
  sizes = {'network.T5Config.vocab_size': rows} if rows else {}
  return {**sizes, 'network.T5Config.dtype': run.model.dtype}
