"""T5X's names of settings that dss_jax lacks, and the settings that replace them.

Source: T5X, t5x/configs/runs/{finetune,pretrain,eval,infer}.gin and t5x/examples/t5/*/base.gin.
"""

from dss_jax.settings.errors import ConfigError

# Parameters and macros of T5X's partitioner, answered wherever they are set: files that set them
# import modules of T5X, which dss_jax lacks.
PARTITIONER = {
  'num_partitions': 'MESH_TENSOR, with the same number',
  'model_parallel_submesh': 'MESH_TENSOR, with the product of its sizes',
  'activation_partitioning_dims': 'MESH_TENSOR; activations are sharded over rows, heads, mlp and '
  'vocabulary, never over embed',
  'parameter_partitioning_dims': 'MESH_FSDP: above 1 for 2 dimensions, 1 for 1',
}
# Macros, answered if nothing reads them.
MACROS = {
  'USE_CACHED_TASKS': 'has no counterpart here: tasks are tokenised when a run starts; leave it '
  'out',
  'USE_HARDWARE_RNG': 'has no counterpart here: random numbers follow from RANDOM_SEED on every '
  'device; leave it out',
  'SHUFFLE_TRAIN_EXAMPLES': 'has no counterpart here: training examples are always shuffled, by '
  'RANDOM_SEED; leave it out',
  'JSON_WRITE_N_RESULTS': 'has no counterpart here: `dss evaluate` writes all its records to '
  'OUTPUT, as many as NUM_EXAMPLES says',
  'EVALUATOR_USE_MEMORY_CACHE': 'has no counterpart here: validation keeps its examples in memory; '
  'leave it out',
  'EVAL_STEPS': 'is EVALUATOR_NUM_EXAMPLES here: examples, not batches; None takes all',
  'INFER_EVAL_DATASET': 'is EVAL_SPLIT here, the split that validation scores',
  'TRAIN_EVAL_DATASET': 'is EVAL_SPLIT here, the split that validation scores',
  'LOSS_NORMALIZING_FACTOR': 'has no counterpart here: the loss of each task is divided by its own '
  'loss weight, as with None in T5X; leave it out',
  'CHECKPOINT_PERIOD': 'is SAVE_PERIOD here',
  'CHECKPOINT_PATH': 'is MODEL_DIR and STEP here: a run folder of `dss train`; `dss import` reads '
  "T5X's checkpoints",
  'EVAL_OUTPUT_DIR': 'is OUTPUT here, a file',
  'INFER_OUTPUT_DIR': 'is OUTPUT here, a file',
  'MIXTURE_OR_TASK_SPLIT': 'is SPLIT here, or TRAIN_SPLIT for training',
  'ACTIVATION_DTYPE': 'is DTYPE here',
  'BASE_LEARNING_RATE': 'is LEARNING_RATE here',
}


def refuse_partitioner(name: str) -> None:
  """Raises ConfigError where a macro, binding or flag sets T5X's partitioner."""
  last = name.replace('/', '.').rpartition('.')[2].lower()
  if last in PARTITIONER:
    raise ConfigError(f"{name} is a setting of T5X's; here it is {PARTITIONER[last]}.")


def answer(macro: str) -> str | None:
  """A sentence on a macro of T5X that nothing reads in dss_jax; None for other names."""
  return f"{macro} is a macro of T5X's; it {MACROS[macro]}." if macro in MACROS else None
