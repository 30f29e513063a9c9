"""Which names are T5X's, and what each means here: a finite table.

Owns the table and its kinds of entries. What a whole set of files becomes by it is
t5x_translation.py's. A name that is not in the table is refused, never ignored.

Source: T5X, t5x/configs/runs/*.gin, t5x/examples/t5/**/*.gin, and the signatures of what they bind.
"""

from collections.abc import Mapping
from typing import Any

from dss_jax.settings import fields, statements, t5x_optimizer
from dss_jax.settings.statements import Reference, Statement
from dss_jax.settings.t5x_verdicts import (
  TRANSLATED,
  Becomes,
  Rule,
  Verdict,
  nothing,
  only,
  refers,
  refused,
  translated,
)

PACKAGES = ('t5x', '__main__', 'seqio', 'optax')
_NETWORK = 'dss_jax.models.t5.T5Config'
_SIZES = ('emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_encoder_layers', 'num_decoder_layers')
# What T5X's network is where a file does not say; ours has T5 1.1's activations.
NETWORK_DEFAULTS: Mapping[str, str] = {
  'vocab_size': '32128', 'emb_dim': '512', 'num_heads': '8', 'head_dim': '64', 'mlp_dim': '2048',
  'num_encoder_layers': '6', 'num_decoder_layers': '6', 'mlp_activations': "('relu',)",
  'logits_via_embedding': 'False', 'dtype': "'float32'", 'dropout_rate': '0.1',
}  # fmt: skip
ANY_SEED = nothing('any seed will do: RANDOM_SEED is 0 if nothing else is given')
_ONE = translated(NUM_MICROBATCHES=1)
_ALL = translated(CHECKPOINTS_TO_KEEP=fields.MOST)
_SCRATCH = translated(INITIAL_CHECKPOINT_PATH=None)
_MESH = nothing('MESH_TENSOR is 1, or what the topology says')
_ALWAYS_SAVES = refused(
  'a run can always be continued: SAVE_PERIOD is how often it saves, and CHECKPOINTS_TO_KEEP how '
  'many are kept'
)
_MODEL_IS = 'the network is a T5, trained as an encoder and decoder'
_OTHER_NETWORK = f"MODEL is a file of models/; {_MODEL_IS}, of which T5X's minimal T5 is the same"
_GREEDY = (
  'validation decodes greedily; `dss evaluate --decoding=beam` or `=temperature` does otherwise'
)
_CACHE = 'tasks are tokenised when a run starts; the examples are the same'
_EXPORT = '`dss export` writes a student for other programs'
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
    return translated(INITIAL_CHECKPOINT_PATH=None)
  return nothing('INITIAL_CHECKPOINT_PATH says what is restored')


def _saved(value: Any) -> Verdict:
  if value is None:
    return _ALWAYS_SAVES
  return nothing('SAVE_PERIOD and CHECKPOINTS_TO_KEEP say what is saved')


def _normalizing(value: Any) -> Verdict:
  if value is None or isinstance(value, int | float):
    return nothing(
      "the loss of each task is divided by its own loss weight; Adafactor's update does not depend "
      'on the scale of a loss'
    )
  return refused('the loss of each task is divided by its own loss weight; leave it out')


def _actions(value: Any) -> Verdict:
  names = {leaf.configurable.rpartition('.')[2] for leaf in statements.leaves(value)
           if isinstance(leaf, Reference)}  # fmt: skip
  if not value or names == {'TerminateOnNanAction'}:
    return nothing('a loss that is not finite always ends a run')
  return refused('PATIENCE ends a run early; other actions have no counterpart')


def _vocabulary(value: Any) -> Verdict:
  if isinstance(value, Reference) and value.configurable.endswith('ByteVocabulary'):
    return Verdict(TRANSLATED, settings={'VOCABULARY': "'bytes'"})
  if isinstance(value, Reference) and value.configurable.endswith('SentencePieceVocabulary'):
    return nothing('VOCABULARY is its sentencepiece_model_file')
  return refused("VOCABULARY is a SentencePiece .model file, or 'bytes'")


def _model(value: Any) -> Verdict:
  if isinstance(value, Reference) and value.configurable.endswith('EncoderDecoderModel'):
    settings = {f'{_NETWORK}.{name}': text for name, text in NETWORK_DEFAULTS.items()}
    return Verdict(
      TRANSLATED,
      settings={
        'MODEL': f'@{_NETWORK}()',
        **settings,
        f'{_NETWORK}.remat_policy': '%REMAT_POLICY',
        f'{_NETWORK}.scan_layers': '%SCAN_LAYERS',
        'REMAT_POLICY': "'full'",
      },
    )
  return refused(f'MODEL is a file of models/; {_MODEL_IS}')


def _is_minimal(name: str) -> Rule:
  """A reference to a part of T5X's minimal T5; scalable_t5 and decoders are other networks."""

  def rule(value: Any) -> Verdict:
    parts = value.configurable.split('.') if isinstance(value, Reference) else []
    if parts[-1:] == [name] and not {'scalable_t5', 'decoder_only'} & set(parts):
      return nothing(_MODEL_IS)
    return refused(_OTHER_NETWORK)

  return rule


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


TRAIN: dict[str, Rule] = {
  'train.model': nothing('MODEL is the network'),
  'train.model_dir': Becomes('MODEL_DIR'),
  'train.train_dataset_cfg': refers('DatasetConfig', 'training data is always loaded'),
  'train.train_eval_dataset_cfg': nothing(
    'validation computes the loss too; EVAL_PERIOD = 0: none'
  ),
  'train.infer_eval_dataset_cfg': nothing('validation decodes too; EVAL_PERIOD = 0: none'),
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
  'PjitPartitioner.activation_partitioning_dims': only(
    (1,), 'MESH_TENSOR: activations are sharded over rows, heads, mlp and vocabulary, never embed'
  ),
  'PjitPartitioner.parameter_partitioning_dims': nothing(
    'weights are always sharded over MESH_DATA, MESH_FSDP and MESH_TENSOR'
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
MODEL: dict[str, Rule] = {
  'EncoderDecoderModel.module': _is_minimal('Transformer'),
  'EncoderDecoderModel.input_vocabulary': nothing('VOCABULARY is of inputs and targets'),
  'EncoderDecoderModel.output_vocabulary': nothing('VOCABULARY is of inputs and targets'),
  'EncoderDecoderModel.optimizer_def': nothing('OPTIMIZER is the optimizer'),
  'EncoderDecoderModel.z_loss': Becomes('Z_LOSS'),
  'EncoderDecoderModel.label_smoothing': Becomes('LABEL_SMOOTHING'),
  'EncoderDecoderModel.loss_normalizing_factor': _normalizing,
  'EncoderDecoderModel.decode_fn': refused(_GREEDY),
  'EncoderDecoderModel.predict_batch_with_aux.num_decodes': only((1,), _GREEDY),
  'EncoderDecoderModel.predict_batch_with_aux.return_all_decodes': only((False,), _EXPORT),
  'network.Transformer.config': _is_minimal('T5Config'),
  **{f'network.T5Config.{name}': Becomes(f'{_NETWORK}.{name}') for name in NETWORK_DEFAULTS},
  'network.T5Config.scan_layers': refused('SCAN_LAYERS says it, in a file of models/'),
  'network.T5Config.remat_policy': refused('REMAT_POLICY says it, in a file of models/'),
  **{
    f'{name}.*': refused(_OTHER_NETWORK)
    for name in (
      'DecoderOnlyModel',
      'DecoderOnlyModel.predict_batch_with_aux',
      'network.DecoderWrapper',
      'network.TransformerConfig',
    )
  },
  'temperature_sample.*': refused(_GREEDY),
  'beam_search.*': refused(_GREEDY),
  'SentencePieceVocabulary.sentencepiece_model_file': Becomes('VOCABULARY'),
  'SentencePieceVocabulary.extra_ids': only((100, None), 'a vocabulary has 100 extra ids'),
  'ByteVocabulary.extra_ids': only((0,), "VOCABULARY 'bytes' has no extra ids"),
}
RULES: Mapping[str, Rule] = {
  **TRAIN,
  **_dataset(''),
  # In training these are of train/, train_eval/ or infer_eval/.
  **{
    f'DatasetConfig.{name}': refused(_EVALUATE)
    for name in ('batch_size', 'shuffle', 'seed', 'pack', 'split')
  },
  **MODEL,
  **t5x_optimizer.RULES,
  'precompile.*': refused('`dss plan` compiles a run without its machine'),
  'evaluate.*': refused(_EVALUATE),
  'infer.*': refused(_INFER),
  'create_task_from_tfexample_file.*': refused(_INFER),
  **{
    f'{name}.*': refused(_EXPORT)
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
  'ACTIVATION_PARTITIONING_DIMS': 'PjitPartitioner.activation_partitioning_dims',
  'PARAMETER_PARTITIONING_DIMS': 'PjitPartitioner.parameter_partitioning_dims',
}
# Macros whose values in T5X's files are of T5X's own classes, or which T5X reads in another way.
VALUES: Mapping[str, Rule] = {
  'MODEL': _model,
  'VOCABULARY': _vocabulary,
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
  'MODEL_OUTPUT_DIR': _EXPORT,
  'MODEL_NAME': _EXPORT,
  'OUTPUT_FEATURES': _EXPORT,
  'MIXTURE_OR_TASK_SPLIT': 'SPLIT is the split, or TRAIN_SPLIT in training',
  'ACTIVATION_DTYPE': 'DTYPE is of activations',
  'BASE_LEARNING_RATE': 'LEARNING_RATE is the rate',
  'BEAM_SIZE': 'BEAMS is the number of beams, with DECODING = beam',
  'FEATURE_LENGTHS': 'TASK_FEATURE_LENGTHS has the lengths',
  'TF_EXAMPLE_FILE_PATHS': _INFER,
  'TF_EXAMPLE_FILE_TYPE': _INFER,
}
_MODULES = (
  'utils', 'trainer', 'partitioning', 'models', 'adafactor', 'optimizers', 'network', 'checkpoints',
  'decoding', 'export_lib', 'gin_utils', 'train_script', 'eval_script', 'infer_script',
)  # fmt: skip
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
  if f'{name}.*' in RULES:
    return RULES[f'{name}.*']
  scoped = f'{statement.scope}/{name}' if statement.scope else name
  return RULES.get(f'{scoped}.{statement.parameter}')


def answer(macro: str) -> str | None:
  """A sentence on a macro of T5X's that nothing reads in dss_jax; None for other names."""
  return f'{macro} is a macro of T5X; here {ANSWERS[macro]}.' if macro in ANSWERS else None


def _is_theirs(configurable: str) -> bool:
  first, _, rest = configurable.partition('.')
  if first in PACKAGES:
    return True
  if first in _MODULES:
    return short(rest) in _KNOWN or short(configurable) in _KNOWN
  return configurable in _KNOWN
