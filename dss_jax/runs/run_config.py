"""What a training run is: one frozen dataclass of all its settings.

Owns the settings, which of them may change when a run is continued, and setting the process up for
them. Their file is run_folder.py's; doing the run is training_loop.py's.
"""

import dataclasses
import functools
import importlib
import os

from etils import epath

from dss_jax import methods
from dss_jax.data import pipeline, shared_tables
from dss_jax.methods import Choices, Method, Row
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.settings import arguments, fields, whole_files
from dss_jax.training import losses, optimizers

# These settings may change when a run is continued: what is learned does not depend on them.
MAY_CHANGE_ON_RESUME = (
  'checkpoints_to_keep',
  'data.rationale_scores',  # the data's fingerprint is compared
  'data_dir',  # likewise
  'eval.batch_size',
  'initial_checkpoint_path',
  'log_period',
  'mesh.data',
  'mesh.fsdp',
  'mesh.tensor',
  'method.source',
  'method.summary',
  'model.remat_policy',
  'model.scan_layers',
  'model_dir',
  'num_microbatches',
  'save_period',
  'train_steps',
  'vocabulary',  # its content is compared
)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Validation while training.

  Attributes:
    period: steps between validations; the last step is always validated. 0: never.
    split: never the test split; the best checkpoint is chosen by it.
    num_examples: how many examples are decoded; None for all.
    batch_size: rows decoded at once.
    max_decode_length: most tokens of a decoded label.
    patience: stop after this many validations without a new best accuracy; None: never.
  """

  period: int = 1000
  split: str = 'validation'
  num_examples: int | None = None
  batch_size: int = 64
  max_decode_length: int = 64
  patience: int | None = None

  def __post_init__(self):
    fields.check(self)
    macros = {
      'period': 'EVAL_PERIOD',
      'batch_size': 'EVAL_BATCH_SIZE',
      'max_decode_length': 'MAX_DECODE_LENGTH',
      'num_examples': 'EVALUATOR_NUM_EXAMPLES',
      'patience': 'PATIENCE',
    }
    for name, macro in macros.items():
      least = 0 if name == 'period' else 1
      given = getattr(self, name)
      if given is not None and not least <= given <= fields.MOST:
        raise ValueError(
          f'EvalConfig.{name} ({macro}) is at least {least} and below 2^31, not {given}.'
        )
    if self.patience is not None and not self.period:
      raise ValueError('PATIENCE counts validations; set EVAL_PERIOD above 0, or PATIENCE = None.')


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """A training run.

  Attributes:
    model_dir: the run folder, for checkpoints and metrics; a run found there is continued.
    model: the network; a vocab_size of None becomes the vocabulary's, rounded up to 128.
    data: what it is trained on.
    vocabulary: 'bytes', a SentencePiece model, or a folder that holds one.
    method: what is learned from an example; None: the method of the mixture's rows (see
      `set_up_tasks`).
    loss: settings of the objective.
    optimizer: the update.
    mesh: how the devices share the work.
    eval: validation.
    train_steps: updates in all; for gin `pretrained.train_steps`.
    seed: of parameters, dropout and data order.
    num_microbatches: parts that a batch is computed in; the result is the same, with less memory.
    initial_checkpoint_path: what the first parameters are read from: a folder of `dss train` (its
      best checkpoint) or `dss import`, a Hugging Face folder or id, or a T5X checkpoint; None
      starts from random ones.
    log_period: steps between lines of training metrics.
    save_period: steps between checkpoints; every validation and the last step save one too.
    checkpoints_to_keep: how many of the latest are kept, besides the best.
    module: a module of yours that is imported to register more SeqIO tasks.
    data_dir: where prepared data sets are; None: TFDS_DATA_DIR or ~/tensorflow_datasets.
    choices: of the data set's questions, for a method that scores them; `set_up_tasks` fills it in.
  """

  model_dir: fields.Path
  model: t5.T5Config
  data: pipeline.DataConfig
  vocabulary: fields.Path
  train_steps: int
  method: Method | None = None
  loss: losses.LossConfig = dataclasses.field(default_factory=losses.LossConfig)
  optimizer: optimizers.OptimizerConfig = dataclasses.field(
    default_factory=optimizers.OptimizerConfig
  )
  mesh: partitioning.MeshConfig = dataclasses.field(default_factory=partitioning.MeshConfig)
  eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
  seed: int = 0
  num_microbatches: int = 1
  initial_checkpoint_path: fields.Path | None = None
  log_period: int = 50
  save_period: int = 1000
  checkpoints_to_keep: int = 1
  module: str | None = None
  data_dir: fields.Path | None = None
  choices: Choices | None = None

  def __post_init__(self):
    fields.check(self)
    for name in (
      'train_steps', 'num_microbatches', 'log_period', 'save_period', 'checkpoints_to_keep'
    ):  # fmt: skip
      if not 1 <= (given := getattr(self, name)) <= fields.MOST:
        raise ValueError(
          f'RunConfig.{name} ({name.upper()}) is at least 1 and below 2^31, not {given}.'
        )
    if not 0 <= self.seed < 2**32:
      raise ValueError(f'RunConfig.seed (RANDOM_SEED) is from 0 to 2**32 - 1, not {self.seed}.')
    if self.data.batch_size % self.num_microbatches:
      raise ValueError(
        f'NUM_MICROBATCHES {self.num_microbatches} does not divide BATCH_SIZE '
        f'{self.data.batch_size}.'
      )

  @property
  def objective(self) -> losses.Objective:
    """What is minimised: the method's loss terms with the run's settings."""
    method = self.method or methods.get(methods.DEFAULT)
    if not method.is_grouped:
      return losses.objective(method.loss, self.loss, self.train_steps)
    mark = _tokens_of_mark(method.mark, str(self.vocabulary)) if method.mark else ()
    group = method.rows_per_example(self.choices)
    return losses.objective(method.loss, self.loss, self.train_steps, group, mark)

  def output_length(self, row: Row | None) -> int:
    """Most tokens of a row's output: MAX_DECODE_LENGTH of a label alone, else as in training.

    Args:
      row: None for a task that `register_dataset` did not make.
    """
    if row is not None and row.is_label_alone:
      return self.eval.max_decode_length
    return self.data.task_feature_lengths['targets']


def method(name: str | Method | None = None, module: str | None = None) -> Method | None:
  """The method that METHOD names, for gin.

  Args:
    name: of a registered method, or the method itself; None is left to `set_up_tasks`.
    module: a module of yours to import first, which registers tasks or methods.

  Raises:
    ValueError: no such method.
  """
  if not isinstance(name, str):
    return name
  if module and name not in methods.names():
    arguments.import_modules([module])
  return methods.get(name)


def task_name(dataset: str | None = None, method: str | Method | None = None) -> str:
  """The SeqIO task or mixture of a method on a data set: 'svamp' and 'dss' make 'svamp_dss'.

  Args:
    dataset: set by datasets/NAME.gin.
    method: set by methods/NAME.gin; None: dss, or that of MIXTURE_OR_TASK_NAME.

  Raises:
    ValueError: no data set was named.
  """
  if dataset is None:
    raise ValueError(
      'no data set is named; give --gin_file=datasets/NAME.gin, or --mixture_or_task_name=NAME.'
    )
  name = method.name if isinstance(method, Method) else method or methods.DEFAULT
  return f'{dataset}_{name}'


def set_up_tasks(run: RunConfig) -> RunConfig:
  """Registers tasks and sets the process's vocabulary.

  Returns:
    The run with its vocab_size and its method filled in. The method is METHOD, else the one whose
    rows MIXTURE_OR_TASK_NAME has, else step by step.

  Raises:
    ValueError: the vocabulary is missing, or larger than the model's embedding; or METHOD is not
      the one of MIXTURE_OR_TASK_NAME, or its rows do not fit PACK or BATCH_SIZE.
  """
  if run.data_dir:
    run = dataclasses.replace(run, data_dir=str(whole_files.absolute(run.data_dir)))
    os.environ['TFDS_DATA_DIR'] = str(run.data_dir)
  tasks = importlib.import_module('dss_jax.tasks')
  from dss_jax.tasks import plain_tasks
  from dss_jax.tasks.vocabulary import padded_vocab_size

  if run.module:
    arguments.import_modules([run.module])
  run = _with_choices(_with_method(run))
  _check_groups(run)
  vocabulary = tasks.set_vocabulary(run.vocabulary)
  plain_tasks.check_vocabulary(run.data.mixture_or_task_name)
  shared_tables.depend_on((sentencepiece_model(), os.environ.get('TFDS_DATA_DIR'), run.module))
  size = run.model.vocab_size
  if size is None:
    size = padded_vocab_size(vocabulary)
  elif size < vocabulary.vocab_size:
    raise ValueError(
      f'VOCAB_SIZE {size} is smaller than the vocabulary {run.vocabulary} with its '
      f'{vocabulary.vocab_size} ids; VOCAB_SIZE = None takes the size that fits.'
    )
  return dataclasses.replace(run, model=dataclasses.replace(run.model, vocab_size=size))


def evaluation_task(run: RunConfig) -> str:
  """The task with gold labels that a run's students are judged by; call `set_up_tasks` first.

  Raises:
    ValueError: there is no such task or mixture.
  """
  from dss_jax.tasks import plain_tasks, registration

  assert run.method is not None
  if plain := plain_tasks.judge_of(run.data.mixture_or_task_name):
    return plain
  dataset = registration.dataset_of(run.data.mixture_or_task_name)
  return registration.evaluation_task(dataset.name, run.method)


def _with_method(run: RunConfig) -> RunConfig:
  """The run with its method filled in; registers the tasks of the method."""
  from dss_jax.tasks import registration, sources

  if run.method is not None:
    methods.register(run.method)
  sources.add_prepared_datasets()
  registration.add_methods()
  name = run.data.mixture_or_task_name
  if run.method is None:
    try:
      return dataclasses.replace(run, method=registration.method_of(name))
    except ValueError:  # tasks of somebody else's: labels, and maybe rationales
      return dataclasses.replace(run, method=methods.get(methods.DEFAULT))
  own = registration.own_method(name)
  if own not in (None, run.method):
    raise ValueError(
      f'METHOD is {run.method.name}, but MIXTURE_OR_TASK_NAME {name} is of {own.name}; give only '
      'one of the two.'
    )
  return run


def rows_per_example(run: RunConfig) -> int:
  """Rows of an example with one rationale in a run that may not be set up yet."""
  method = run.method or methods.get(methods.DEFAULT)
  if method.answer.each_choice:
    if run.module:
      arguments.import_modules([run.module])
    run = _with_choices(_with_method(run))
  return method.rows_per_example(run.choices)


def _with_choices(run: RunConfig) -> RunConfig:
  """The run with the choices of its data set, if its method scores them."""
  from dss_jax.tasks import registration

  assert run.method is not None
  if not run.method.answer.each_choice:
    return run
  choices = registration.dataset_of(run.data.mixture_or_task_name).choices
  return dataclasses.replace(run, choices=choices)


def _check_groups(run: RunConfig) -> None:
  """Refuses batches that would split the rows of an example whose loss needs them together."""
  assert run.method is not None
  if not run.method.is_grouped:
    return
  if run.data.pack:
    raise ValueError(
      f'METHOD {run.method.name} compares rows of an example, which are not packed: set '
      'PACK = False.'
    )
  group, rows = run.method.rows_per_example(run.choices), run.data.batch_size
  if rows % (group * run.num_microbatches):
    parts = (
      f' in each of NUM_MICROBATCHES {run.num_microbatches}' if run.num_microbatches > 1 else ''
    )
    raise ValueError(
      f'BATCH_SIZE {rows} counts rows, and an example of METHOD {run.method.name} is {group} of '
      f'them{parts}: expected a multiple of {group * run.num_microbatches}, such as '
      f'{rows * group} for {rows} examples.'
    )


@functools.lru_cache(maxsize=8)
def _tokens_of_mark(mark: str, vocabulary: str) -> tuple[int, ...]:
  """The tokens of a text that stands between two others in inputs.

  Raises:
    ValueError: it has other tokens there than alone, so that it could not be found.
  """
  from dss_jax.tasks.vocabulary import load_vocabulary

  known = load_vocabulary(vocabulary)
  ids, before = tuple(known.encode(mark)), tuple(known.encode('a'))
  between = tuple(known.encode(f'a {mark} a'))
  if not any(between[at : at + len(ids)] == ids for at in range(len(before), len(between))):
    raise ValueError(
      f'VOCABULARY {vocabulary} has other tokens for {mark!r} between two words than alone, so '
      'that the rationale of an input cannot be found; use another VOCABULARY, or another METHOD.'
    )
  return ids


def check_vocabulary(vocabulary: str, origin: str) -> None:
  """Raises ValueError if the process's vocabulary is not `vocabulary`, that of `origin`."""
  from dss_jax.tasks.vocabulary import model_path

  path = None if vocabulary == 'bytes' else epath.Path(model_path(vocabulary))
  if (path.read_bytes() if path else b'') != sentencepiece_model():
    raise ValueError(
      f'VOCABULARY is another one than that of {origin}, so ids would stand for other pieces; '
      f'set VOCABULARY to {path or "bytes"}.'
    )


def sentencepiece_model() -> bytes:
  """The process's vocabulary as a .model file; empty for bytes."""
  from dss_jax.tasks.vocabulary import get_vocabulary

  # The file, not seqio's `sp_model`: that has the extra ids in it, which loading would add again.
  path = getattr(get_vocabulary(), 'sentencepiece_model_file', None)
  return epath.Path(path).read_bytes() if path else b''
