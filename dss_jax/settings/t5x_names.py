"""Which names are T5X's, and what each means here: a finite table.

Owns the table and its kinds of entries. What a whole set of files becomes by it is
t5x_translation.py's. A name that is not in the table is refused, never ignored.

Source: T5X, t5x/configs/runs/*.gin, t5x/examples/t5/**/*.gin, and the signatures of what they bind.
"""

from collections.abc import Callable, Mapping
from typing import Any

from dss_jax.settings import fields, statements, t5x_model, t5x_optimizer
from dss_jax.settings.statements import Reference, Statement
from dss_jax.settings.t5x_verdicts import (
  MODULES,
  PACKAGES,
  Becomes,
  Rule,
  Verdict,
  differs,
  is_of_t5x,
  nothing,
  only,
  refers,
  refused,
  translated,
)

ANY_SEED = nothing('any seed will do: RANDOM_SEED is 0 if nothing else is given')
_ONE = translated(NUM_MICROBATCHES=1)
_ALL = translated(CHECKPOINTS_TO_KEEP=fields.MOST)
_SCRATCH = translated(INITIAL_CHECKPOINT_PATH=None)
_MESH = nothing('MESH_TENSOR is 1, or what the topology says')
_ALWAYS_SAVES = refused(
  'a run can always be continued: SAVE_PERIOD is how often it saves, and CHECKPOINTS_TO_KEEP how '
  'many are kept'
)
_CACHE = 'tasks are tokenised when a run starts; the examples are the same'
_EVALUATE = '`dss evaluate --model_dir=FOLDER` scores a student: SPLIT, BATCH_SIZE, DECODING'
_INFER = '`dss predict --model_dir=FOLDER --input=FILE` writes answers'
_SEEDED = 'the order is drawn from RANDOM_SEED and is the same after a restart'
_LENGTHS = 'validation cuts inputs at TASK_FEATURE_LENGTHS, and a start warns of those it cuts'


def _submesh(value: Any) -> Verdict:
  if value is None:
    return nothing('MESH_TENSOR says how many devices share the same rows')
  product = 1
  for size in value if isinstance(value, list | tuple) else [value]:
    product *= size if isinstance(size, int) else 0
  return translated(MESH_TENSOR=product)


def _restore(value: Any) -> Verdict:
  if value is None:
    return _SCRATCH
  why = 'INITIAL_CHECKPOINT_PATH says what is restored'
  return nothing(why) if is_of_t5x(value, 'RestoreCheckpointConfig') else refused(why)


def _saved(value: Any) -> Verdict:
  if value is None:
    return _ALWAYS_SAVES
  why = 'SAVE_PERIOD and CHECKPOINTS_TO_KEEP say what is saved'
  return refers('SaveCheckpointConfig', why, CHECKPOINTS_TO_KEEP=fields.MOST)(value)


def _validates(what: str) -> Callable[[Any], Verdict]:
  """A rule for one of the two parts of validation."""

  def rule(value: Any) -> Verdict:
    if value is None:
      return differs(f'validation {what} too; EVAL_PERIOD = 0 trains without validation')
    return refers('DatasetConfig', 'validation has both, the loss and decoded examples')(value)

  return rule


def _actions(value: Any) -> Verdict:
  names = {leaf.configurable.rpartition('.')[2] for leaf in statements.leaves(value)
           if isinstance(leaf, Reference)}  # fmt: skip
  if not value or names == {'TerminateOnNanAction'}:
    return nothing('a loss that is not finite always ends a run')
  return refused('PATIENCE ends a run early; other actions have no counterpart')


def _dataset(scope: str) -> dict[str, Rule]:
  """The parameters of one DatasetConfig."""
  training, decoding = scope == 'train', scope == 'infer_eval'
  split = 'TRAIN_SPLIT' if training else 'EVAL_SPLIT'
  rules: dict[str, Rule] = {
    'mixture_or_task_name': Becomes('MIXTURE_OR_TASK_NAME'),
    'task_feature_lengths': Becomes('TASK_FEATURE_LENGTHS'),
    'split': Becomes(split),
    'module': Becomes('MIXTURE_OR_TASK_MODULE', ((None, nothing('nothing is imported')),)),
    'use_cached': nothing(_CACHE),
    'use_custom_packing_ops': nothing('rows are packed by our own code'),
    'use_memory_cache': nothing('examples are kept in memory'),
    'trim_output_features': only((True,), 'examples are cut at TASK_FEATURE_LENGTHS'),
  }
  if training:
    rules |= {
      'batch_size': Becomes('BATCH_SIZE'),
      'shuffle': only((True,), f'training examples are always shuffled; {_SEEDED}'),
      'seed': Becomes('dss_jax.data.pipeline.DataConfig.seed', ((None, nothing(_SEEDED)),)),
      'pack': Becomes('PACK'),
    }
  else:
    why = 'the loss of validation takes every example once'
    rules |= {
      'batch_size': Becomes('EVAL_BATCH_SIZE') if decoding else nothing(why),
      'shuffle': only((False,), 'validation has its examples in order'),
      'seed': nothing('validation has its examples in order'),
      'pack': only((False,), 'each decoded input has its own row') if decoding else nothing(why),
    }
  if decoding:
    rules['task_feature_lengths'] = nothing(_LENGTHS)
  prefix = f'{scope}/' if scope else ''
  return {f'{prefix}DatasetConfig.{name}': rule for name, rule in rules.items()}


LOSS_OF_VALIDATION = 'train.train_eval_dataset_cfg'
DECODED_BY_VALIDATION = 'train.infer_eval_dataset_cfg'
TRAIN: dict[str, Rule] = {
  'train.model_dir': Becomes('MODEL_DIR'),
  'train.train_dataset_cfg': refers('DatasetConfig', 'training data is always loaded', PACK=False),
  LOSS_OF_VALIDATION: _validates('computes the loss of the whole EVAL_SPLIT'),
  DECODED_BY_VALIDATION: _validates(
    'decodes EVALUATOR_NUM_EXAMPLES of EVAL_SPLIT, by default all of it,'
  ),
  'train.checkpoint_cfg': refers('CheckpointConfig', 'checkpoints are orbax checkpoints'),
  'train.partitioner': refers('PjitPartitioner', 'the mesh is MESH_DATA, MESH_FSDP, MESH_TENSOR'),
  'train.trainer_cls': refers('Trainer', 'an update is the same: NUM_MICROBATCHES'),
  'train.total_steps': t5x_optimizer.TOTAL_STEPS,
  'train.relative_steps': Becomes('TRAIN_STEPS_RELATIVE'),
  'train.eval_steps': nothing('the loss of validation takes the whole split'),
  'train.eval_period': Becomes('EVAL_PERIOD'),
  'train.stats_period': Becomes('LOG_PERIOD', ((None, nothing('LOG_PERIOD is 50')),)),
  'train.random_seed': Becomes('RANDOM_SEED', ((None, ANY_SEED),)),
  'train.use_hardware_rng': nothing('random numbers follow from RANDOM_SEED on every device'),
  'train.summarize_config_fn': nothing('config.gin of the run folder has the configuration'),
  'train.inference_evaluator_cls': refers('Evaluator', 'tasks have their own metric functions'),
  'train.run_eval_before_training': only((False,), 'validation starts after the first steps'),
  'train.actions': _actions,
  'train.concurrent_metrics': nothing('metrics are logged while the next step runs'),
  'train.use_orbax': nothing('checkpoints are orbax checkpoints'),
  'train.gc_period': nothing('the garbage collector runs as usual'),
  **_dataset('train'),
  **_dataset('train_eval'),
  **_dataset('infer_eval'),
  'CheckpointConfig.restore': _restore,
  'CheckpointConfig.save': _saved,
  'RestoreCheckpointConfig.path': Becomes(
    'INITIAL_CHECKPOINT_PATH', (([], _SCRATCH), ((), _SCRATCH))
  ),
  'RestoreCheckpointConfig.mode': only(
    ('specific', 'latest'), 'a folder is read at its latest checkpoint'
  ),
  'RestoreCheckpointConfig.dtype': only(('float32', None), 'parameters are float32'),
  'RestoreCheckpointConfig.strict': only((True,), 'every weight has to be there'),
  'RestoreCheckpointConfig.fallback_to_scratch': only((False,), 'every weight has to be there'),
  'RestoreCheckpointConfig.checkpointer_cls': nothing('both of its layouts are read'),
  'RestoreCheckpointConfig.restore_dataset': only(
    (False,), 'a run starts with its first batch, and continues where it was'
  ),
  'SaveCheckpointConfig.period': Becomes(
    'SAVE_PERIOD', ((None, _ALWAYS_SAVES), (0, _ALWAYS_SAVES))
  ),
  'SaveCheckpointConfig.keep': Becomes('CHECKPOINTS_TO_KEEP', ((None, _ALL),)),
  'SaveCheckpointConfig.dtype': only(('float32', None), 'parameters are float32'),
  'SaveCheckpointConfig.save_dataset': nothing('a checkpoint always notes its place in the data'),
  'SaveCheckpointConfig.keep_dataset_checkpoints': nothing(
    'a checkpoint always notes its place in the data'
  ),
  'SaveCheckpointConfig.checkpoint_steps': only((None, [], ()), 'SAVE_PERIOD says when'),
  'PjitPartitioner.num_partitions': Becomes('MESH_TENSOR', ((None, _MESH), (1, _MESH))),
  'PjitPartitioner.model_parallel_submesh': _submesh,
  'PjitPartitioner.logical_axis_rules': refers(
    'standard_logical_axis_rules', 'one table says which axis is sharded: MESH_FSDP, MESH_TENSOR'
  ),
  'standard_logical_axis_rules.activation_partitioning_dims': only(
    (1,), 'MESH_TENSOR: activations are sharded over rows, heads, mlp and vocabulary, never embed'
  ),
  'standard_logical_axis_rules.parameter_partitioning_dims': nothing(
    'weights are always sharded over MESH_DATA, MESH_FSDP and MESH_TENSOR'
  ),
  'standard_logical_axis_rules.additional_rules': only(
    (None, (), []), 'one table says which axis is sharded: MESH_FSDP, MESH_TENSOR'
  ),
  'PjitPartitioner.params_on_devices': only((True,), 'parameters are on the devices'),
  'PjitPartitioner.backend': only((None,), 'JAX_PLATFORMS says which devices are used'),
  'Trainer.num_microbatches': Becomes('NUM_MICROBATCHES', ((None, _ONE), (0, _ONE))),
  'TerminateOnNanAction.*': nothing('a loss that is not finite always ends a run'),
  'Evaluator.num_examples': Becomes('EVALUATOR_NUM_EXAMPLES'),
  'Evaluator.use_memory_cache': nothing('validation keeps its examples in memory'),
  'Evaluator.logger_cls': nothing('metrics.jsonl, TensorBoard and the log have the metrics'),
  'JSONLogger.write_n_results': nothing('`dss evaluate` writes all its records to OUTPUT'),
}
RULES: Mapping[str, Rule] = {
  **TRAIN,
  **_dataset(''),
  # In training these are of train/, train_eval/ or infer_eval/.
  **{
    f'DatasetConfig.{name}': refused(_EVALUATE)
    for name in ('batch_size', 'shuffle', 'seed', 'pack', 'split')
  },
  **t5x_model.RULES,
  **t5x_optimizer.RULES,
  'precompile.*': refused('`dss plan` compiles a run without its machine'),
  'evaluate.*': refused(_EVALUATE),
  'infer.*': refused(_INFER),
  'create_task_from_tfexample_file.*': refused(_INFER),
  **{
    f'{name}.*': refused(t5x_model.EXPORT)
    for name in (
      'save', 'create_preprocessor', 'create_preprocessor_from_task', 'create_postprocessor',
      'create_inference_function', 'ExportableModule', 'Feature', 'get_input_vocabulary',
      'get_output_vocabulary',
    )
  },
}  # fmt: skip
# Macros of T5X's run and model files that have another name or form here: the binding of T5X's that
# reads each there.
MACROS: Mapping[str, str] = {
  'USE_CACHED_TASKS': 'train/DatasetConfig.use_cached',
  'USE_HARDWARE_RNG': 'train.use_hardware_rng',
  'SHUFFLE_TRAIN_EXAMPLES': 'train/DatasetConfig.shuffle',
  'JSON_WRITE_N_RESULTS': 'JSONLogger.write_n_results',
  'EVALUATOR_USE_MEMORY_CACHE': 'Evaluator.use_memory_cache',
  'EVAL_STEPS': 'train.eval_steps',
  'LOSS_NORMALIZING_FACTOR': 'EncoderDecoderModel.loss_normalizing_factor',
  'NUM_PARTITIONS': 'PjitPartitioner.num_partitions',
  'MODEL_PARALLEL_SUBMESH': 'PjitPartitioner.model_parallel_submesh',
  'ACTIVATION_PARTITIONING_DIMS': 'standard_logical_axis_rules.activation_partitioning_dims',
  'PARAMETER_PARTITIONING_DIMS': 'standard_logical_axis_rules.parameter_partitioning_dims',
}
# Macros whose values in T5X's files are of T5X's own classes, or which T5X reads in another way.
VALUES: Mapping[str, Rule] = {
  'MODEL': t5x_model.model,
  'VOCABULARY': t5x_model.vocabulary,
  'OPTIMIZER': t5x_optimizer.optimizer,
  'RANDOM_SEED': ANY_SEED,
}
# The same name and meaning here as there: a binding of T5X's decides, as it does in T5X.
SHARED = frozenset((
  'MODEL_DIR', 'MIXTURE_OR_TASK_NAME', 'MIXTURE_OR_TASK_MODULE', 'TASK_FEATURE_LENGTHS',
  'TRAIN_STEPS', 'TRAIN_STEPS_RELATIVE', 'INITIAL_CHECKPOINT_PATH', 'BATCH_SIZE', 'EVAL_PERIOD',
  'EVALUATOR_NUM_EXAMPLES', 'RANDOM_SEED', 'Z_LOSS', 'LABEL_SMOOTHING', 'DROPOUT_RATE',
))  # fmt: skip
# Macros that nothing reads here nor in T5X's train files.
ANSWERS: Mapping[str, str] = {
  'INFER_EVAL_DATASET': 'EVAL_SPLIT is the split that validation scores',
  'TRAIN_EVAL_DATASET': 'EVAL_SPLIT is the split that validation scores',
  'CHECKPOINT_PERIOD': 'SAVE_PERIOD is how often a run saves',
  'CHECKPOINT_PATH': "MODEL_DIR and STEP name a student of `dss train`; `dss import` reads T5X's",
  'EVAL_OUTPUT_DIR': 'OUTPUT is the file that is written',
  'INFER_OUTPUT_DIR': 'OUTPUT is the file that is written',
  'MODEL_OUTPUT_DIR': t5x_model.EXPORT,
  'MODEL_NAME': t5x_model.EXPORT,
  'OUTPUT_FEATURES': t5x_model.EXPORT,
  'MIXTURE_OR_TASK_SPLIT': 'SPLIT is the split, or TRAIN_SPLIT in training',
  'ACTIVATION_DTYPE': 'DTYPE is of activations',
  'BASE_LEARNING_RATE': 'LEARNING_RATE is the rate',
  'BEAM_SIZE': 'BEAMS is the number of beams, with DECODING = beam',
  'FEATURE_LENGTHS': 'TASK_FEATURE_LENGTHS has the lengths',
  'TF_EXAMPLE_FILE_PATHS': _INFER,
  'TF_EXAMPLE_FILE_TYPE': _INFER,
}
_KNOWN = {rule.rpartition('/')[2].rpartition('.')[0] for rule in RULES}


def short(configurable: str) -> str:
  """The name of T5X's class or function in the table: without its modules."""
  parts = configurable.split('.')
  tails = ('.'.join(parts[at:]) for at in range(len(parts)))
  return next((tail for tail in tails if tail in _KNOWN), parts[-1])


def is_theirs(statement: Statement) -> bool:
  """Whether a statement is T5X's: gin cannot read it where there is no T5X."""
  if statement.name:
    if statement.name in VALUES:
      is_value = any(_is_theirs(one.configurable) for one in statement.references)
      return is_value or (statement.name == 'RANDOM_SEED' and statement.value is None)
    return statement.name in MACROS or any(
      _is_theirs(one.configurable) for one in statement.references
    )
  return _is_theirs(statement.configurable)


def is_hidden(statement: Statement) -> bool:
  """Whether gin may not see a statement of T5X's; it may see a macro with a plain value."""
  return is_theirs(statement) and not (statement.name in MACROS and not statement.references)


def rule_of(statement: Statement) -> Rule | None:
  """The entry of the table for a statement of T5X's; None for a name that T5X's files lack."""
  if statement.name:
    if statement.name in MACROS:
      return RULES[MACROS[statement.name]]
    if statement.name in ANSWERS:
      return refused(ANSWERS[statement.name])
    return VALUES.get(statement.name)
  name = short(statement.configurable)
  return RULES.get(f'{name}.*', RULES.get(key_of(statement)))


def key_of(statement: Statement) -> str:
  """The entry's name in the table for a binding of T5X's; '' for a macro."""
  if statement.name:
    return ''
  scope = f'{statement.scope}/' if statement.scope else ''
  return f'{scope}{short(statement.configurable)}.{statement.parameter}'


def answer(macro: str) -> str | None:
  """A sentence on a macro of T5X's that nothing reads in dss_jax; None for other names."""
  return f'{macro} is a macro of T5X; here {ANSWERS[macro]}.' if macro in ANSWERS else None


def _is_theirs(configurable: str) -> bool:
  first, _, rest = configurable.partition('.')
  if first in PACKAGES:
    return True
  if first in MODULES:
    return short(rest) in _KNOWN or short(configurable) in _KNOWN
  return configurable in _KNOWN
