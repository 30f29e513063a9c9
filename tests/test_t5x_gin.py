"""T5X's gin files and command lines under `dss train`: translated, or refused with a reason.

The files here are our own writing; T5X's are read in test_t5x_explained.py.
"""

import sys

import gin
import pytest
from t5x_texts import FINETUNE, IMPORTS, NO_VALIDATION, RUN_FILE, SCHEDULED

from dss_jax.settings import gin_files, statements, t5x_names
from dss_jax.settings.errors import ConfigError

TRAIN = (
  '--gin_file=models/t5_1_1/tiny.gin',
  '--gin_file=datasets/embedded_arithmetic.gin',
  '--model_dir=a',
)


@pytest.fixture(autouse=True)
def _clean():
  yield
  gin.clear_config()
  gin.config._LOCATION_PREFIXES[:] = ['']


@pytest.fixture
def run_of(tmp_path):
  """The run of a file with this text, after `arguments`."""

  def run(text, *arguments, before=TRAIN):
    file = tmp_path / 'theirs.gin'
    file.write_text(IMPORTS + text)
    gin_files.parse([*before, f'--gin_file={file}', *arguments], RUN_FILE)
    return gin_files.configured('run_config.RunConfig')

  return run


def _value(config, path):
  for name in path.split('.'):
    config = getattr(config, name)
  return config


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(
  'text, path, value',
  [
    ('train/utils.DatasetConfig.batch_size = 8', 'data.batch_size', 8),
    ('train/utils.DatasetConfig:\n  batch_size = %MINE\nMINE = 6', 'data.batch_size', 6),
    ('train/utils.DatasetConfig.pack = False', 'data.pack', False),
    ('train/utils.DatasetConfig.seed = 9', 'data.seed', 9),
    ("train/utils.DatasetConfig.split = 'train[:9]'", 'data.split', 'train[:9]'),
    ("train_eval/utils.DatasetConfig.split = 'test'", 'eval.split', 'test'),
    ('infer_eval/utils.DatasetConfig.batch_size = 3', 'eval.batch_size', 3),
    ('trainer.Trainer.num_microbatches = 4', 'num_microbatches', 4),
    ('trainer.Trainer.num_microbatches = None', 'num_microbatches', 1),
    ('utils.SaveCheckpointConfig.period = 77', 'save_period', 77),
    ('utils.SaveCheckpointConfig.keep = 3', 'checkpoints_to_keep', 3),
    ('utils.SaveCheckpointConfig.keep = None', 'checkpoints_to_keep', 2**31 - 1),
    ('utils.RestoreCheckpointConfig.path = []', 'initial_checkpoint_path', None),
    ('utils.CheckpointConfig.restore = None', 'initial_checkpoint_path', None),
    ('partitioning.PjitPartitioner.num_partitions = 2', 'mesh.tensor', 2),
    ('partitioning.PjitPartitioner.model_parallel_submesh = (2, 2, 1, 1)', 'mesh.tensor', 4),
    ('partitioning.PjitPartitioner.num_partitions = 1', 'mesh.tensor', 1),
    ('train_script.train.total_steps = 70', 'train_steps', 70),
    ('train_script.train.eval_period = 0', 'eval.period', 0),
    ('train_script.train.stats_period = 5', 'log_period', 5),
    ('train_script.train.random_seed = 4', 'seed', 4),
    ('RANDOM_SEED = None', 'seed', 0),
    ('TRAIN_STEPS_RELATIVE = 12', 'train_steps', 12),
    ('models.EncoderDecoderModel.z_loss = 0.5', 'loss.z_loss', 0.5),
    ('models.EncoderDecoderModel.label_smoothing = 0.25', 'loss.label_smoothing', 0.25),
    ('OPTIMIZER = @adafactor.Adafactor()', 'optimizer.name', 'adafactor'),
    ('OPTIMIZER = @adafactor.Adafactor()', 'optimizer.clip_norm', None),
    ('CLIP_NORM = 2.0\nOPTIMIZER = @adafactor.Adafactor()', 'optimizer.clip_norm', 2.0),
    ('OPTIMIZER = @adafactor.Adafactor()\nCLIP_NORM = 2.0', 'optimizer.clip_norm', 2.0),
    ("CLIP_NORM = 2.0\ninclude 't5x/examples/t5/t5_1_1/small.gin'", 'optimizer.clip_norm', 2.0),
    ('OPTIMIZER = @adafactor.Adafactor()\nOPTIMIZER = "adamw"', 'optimizer.clip_norm', 1.0),
    (SCHEDULED, 'optimizer.learning_rate', 0.5),
    (SCHEDULED, 'optimizer.warmup_steps', 1000),
    (
      f'utils.create_learning_rate_scheduler.base_learning_rate = 0.1\n{SCHEDULED}',
      'optimizer.learning_rate',
      0.1,
    ),
    (f'{SCHEDULED}\nSCHEDULE = "linear"', 'optimizer.learning_rate', 5e-5),
    ('train_script.train.train_dataset_cfg = @train/utils.DatasetConfig()', 'data.pack', False),
    (
      'PACK = True\ntrain_script.train.train_dataset_cfg = @train/utils.DatasetConfig()',
      'data.pack',
      True,
    ),
    (
      'utils.CheckpointConfig.save = @utils.SaveCheckpointConfig()',
      'checkpoints_to_keep',
      2**31 - 1,
    ),
    ('train_script.train.model = @models.EncoderDecoderModel()', 'model.emb_dim', 96),
    (
      'models.EncoderDecoderModel.input_vocabulary = @seqio.ByteVocabulary()',
      'vocabulary',
      'bytes',
    ),
    (
      'models.EncoderDecoderModel.optimizer_def = @adafactor.Adafactor()',
      'optimizer.name',
      'adafactor',
    ),
    ('adafactor.Adafactor.global_norm_clip_threshold = None', 'optimizer.clip_norm', 1.0),
    (f'{NO_VALIDATION}train_script.train.eval_period = 9', 'eval.period', 0),
    (f'EVAL_PERIOD = 9\n{NO_VALIDATION}', 'eval.period', 0),
    ('adafactor.Adafactor.decay_rate = 0.7', 'optimizer.decay_rate', 0.7),
    ('VOCABULARY = @seqio.ByteVocabulary()', 'vocabulary', 'bytes'),
    ("seqio.SentencePieceVocabulary.sentencepiece_model_file = 'x'", 'vocabulary', 'x'),
    ('network.T5Config.num_heads = 3', 'model.num_heads', 3),
    ('import my_project.tasks', 'module', 'my_project.tasks'),
    ("MIXTURE_OR_TASK_MODULE = 'b'\nimport a.tasks", 'module', 'b,a.tasks'),
  ],
)
def test_a_statement_of_t5x_has_its_effect_here(run_of, text, path, value):
  assert _value(run_of(text), path) == value


@pytest.mark.parametrize(
  'text, ours',
  [
    ('train/utils.DatasetConfig.shuffle = False', 'always shuffled'),
    ('infer_eval/utils.DatasetConfig.pack = True', 'its own row'),
    ('utils.SaveCheckpointConfig.period = None', 'SAVE_PERIOD'),
    ("utils.SaveCheckpointConfig.dtype = 'bfloat16'", 'float32'),
    ("utils.RestoreCheckpointConfig.mode = 'all'", 'latest checkpoint'),
    ('partitioning.standard_logical_axis_rules.activation_partitioning_dims = 2', 'MESH_TENSOR'),
    ('partitioning.standard_logical_axis_rules.additional_rules = [("a", "b")]', 'MESH_TENSOR'),
    ('partitioning.PjitPartitioner.activation_partitioning_dims = 1', 'none of the names of T5X'),
    ('train_script.train.model = @mine.Model()', 'a file of models/'),
    ('train_script.train.model = @mine.EncoderDecoderModel()', 'a file of models/'),
    ('train_script.train.trainer_cls = @mine.Trainer', 'NUM_MICROBATCHES'),
    ('utils.CheckpointConfig.save = @mine.SaveCheckpointConfig()', 'SAVE_PERIOD'),
    ('models.EncoderDecoderModel.optimizer_def = @optax.sgd()', "OPTIMIZER = 'adamw'"),
    ('models.EncoderDecoderModel.output_vocabulary = @mine.Vocabulary()', 'VOCABULARY'),
    (
      'models.EncoderDecoderModel.input_vocabulary = @seqio.ByteVocabulary()\n'
      'models.EncoderDecoderModel.output_vocabulary = @seqio.SentencePieceVocabulary()',
      'of inputs and targets',
    ),
    ('train_script.train.infer_eval_dataset_cfg = @mine.Data()', 'validation has both'),
    ('adafactor.Adafactor.global_norm_clip_threshold = 1.0', 'gradient of a mean loss'),
    ('ACTIVATION_PARTITIONING_DIMS = 2', 'MESH_TENSOR'),
    ('models.EncoderDecoderModel.predict_batch_with_aux.num_decodes = 4', '--decoding=beam'),
    ("LOSS_NORMALIZING_FACTOR = 'AVERAGE_PER_SEQUENCE'", 'its own loss weight'),
    ('OPTIMIZER = @optimizers.chain()', "OPTIMIZER = 'adamw'"),
    ('optax.clip.max_delta = 1.0', 'CLIP_NORM'),
    ('train_script.train.actions = {"TRAIN": [@trainer.Mine()]}', 'PATIENCE'),
    ('train_script.train.a_new_argument = 3', 'none of the names of T5X'),
    ('utils.DatasetConfig.batch_size = 3', '`dss evaluate'),
    ('network.Transformer.config = @mine.Config()', 'a file of models/'),
    ('adafactor.Adafactor.beta1 = 0.9', 'without momentum'),
    ('models.EncoderDecoderModel.decode_fn = @mine.sample', '--decoding=beam'),
    ('decoding.temperature_sample.topk = 4', '--decoding=beam'),
    ('network.T5Config.scan_layers = True', 'SCAN_LAYERS'),
    ('network.TransformerConfig.num_layers = 3', 'a file of models/'),
  ],
)
def test_what_has_no_counterpart_is_refused_with_its_place_and_our_name(run_of, text, ours):
  line = len(IMPORTS.splitlines()) + 1
  name = text.split(' =')[0].removeprefix('train_script.').removeprefix('models.')
  with pytest.raises(ConfigError) as caught:
    run_of(text)
  message = str(caught.value)
  assert f"theirs.gin:{line}: T5X's " in message and name in message
  assert ours in message.partition('is refused; here: ')[2]


@pytest.mark.parametrize(
  'text',
  [
    'USE_CACHED_TASKS = True', 'USE_CACHED_TASKS = False', 'USE_HARDWARE_RNG = True',
    'EVAL_STEPS = 20', 'LOSS_NORMALIZING_FACTOR = 233472', 'JSON_WRITE_N_RESULTS = None',
    'partitioning.standard_logical_axis_rules.parameter_partitioning_dims = 2',
    'adafactor.Adafactor.global_norm_clip_threshold = 0.0',
    'train_script.train.model = %MODEL',
    'models.EncoderDecoderModel.optimizer_def = %OPTIMIZER',
    'models.EncoderDecoderModel.input_vocabulary = %VOCABULARY',
    'train/utils.DatasetConfig.use_cached = %USE_CACHED_TASKS\nUSE_CACHED_TASKS = True',
    'seqio.Evaluator.logger_cls = [@seqio.PyLoggingLogger]',
    'adafactor.Adafactor.logical_factor_rules = @adafactor.standard_logical_factor_rules()',
  ],
)  # fmt: skip
def test_what_holds_here_anyway_changes_nothing(run_of, text):
  assert run_of(text) == run_of('')


def test_every_entry_of_the_table_is_translated_needs_nothing_or_is_refused():
  """By each value that T5X's files have: a setting that is named has to exist."""
  fields = set()
  for rule in t5x_names.RULES.values():
    for value in (None, 1, 2, 0.5, True, False, 'train', [], {'inputs': 1}):
      verdict = rule(value) if callable(rule) and not hasattr(rule, 'kind') else rule
      assert verdict.kind == 'translated' or verdict.why
      fields |= {*verdict.settings, *verdict.defaults}
  known = {name for one in statements.of_shipped(RUN_FILE) for name in one.macros} | {'MODEL'}
  for name in fields:
    configurable, _, parameter = name.rpartition('.')
    if configurable:
      module, _, cls = configurable.rpartition('.')
      __import__(module)
      from dss_jax.settings import defaults

      assert defaults.parameter_of(f'{module}.{cls}', parameter), name
    else:
      assert name in known, name


def test_the_later_of_two_statements_counts_and_a_refused_one_may_be_overridden(run_of):
  decodes = 'models.EncoderDecoderModel.predict_batch_with_aux.num_decodes'
  text = f'{decodes} = 4\ntrainer.Trainer.num_microbatches = 4\n'
  with pytest.raises(ConfigError, match='num_decodes is refused'):
    run_of(text)
  assert run_of(text, f'--gin.{decodes}=1', '--num_microbatches=2').num_microbatches == 2


def test_a_binding_of_t5x_counts_more_than_its_macro_and_says_so_on_the_command_line(run_of):
  text = 'train/utils.DatasetConfig.batch_size = 8\nBATCH_SIZE = 32'
  assert run_of(text).data.batch_size == 8
  with pytest.raises(
    ConfigError, match=r'BATCH_SIZE is 16, but .*theirs\.gin:12 binds train/utils'
  ):
    run_of(text, '--gin.BATCH_SIZE=16')
  given = '--gin.train/utils.DatasetConfig.batch_size=16'
  assert run_of(text, given).data.batch_size == 16


@pytest.mark.parametrize('at_start', [True, False])
def test_what_t5x_has_by_default_does_not_depend_on_the_order(run_of, at_start):
  """T5X's own defaults count least, wherever the reference is that brings them."""
  bound = (
    'network.T5Config:\n  emb_dim = 768\n  dropout_rate = 0.0\n'
    'utils.SaveCheckpointConfig.keep = 3\ntrain/utils.DatasetConfig.pack = True\n'
    'utils.create_learning_rate_scheduler.warmup_steps = 7\n'
  )
  referred = (
    'MODEL = @models.EncoderDecoderModel()\n'
    'utils.CheckpointConfig.save = @utils.SaveCheckpointConfig()\n'
    'train_script.train.train_dataset_cfg = @train/utils.DatasetConfig()\n'
    f'{SCHEDULED}\n'
  )
  run = run_of(referred + bound if at_start else bound + referred, before=TRAIN[1:])
  assert (run.model.emb_dim, run.model.dropout_rate, run.model.num_heads) == (768, 0.0, 8)
  assert (run.model.mlp_activations, run.model.remat_policy) == (('relu',), 'full')
  assert (run.checkpoints_to_keep, run.data.pack) == (3, True)
  assert (run.optimizer.warmup_steps, run.optimizer.learning_rate) == (7, 0.5)


def test_a_start_says_what_validation_does_where_t5x_would_do_less(run_of, capsys):
  gin_files._print_once.cache_clear()
  run_of('train_script.train.infer_eval_dataset_cfg = None')
  told = capsys.readouterr().err
  assert "theirs.gin:12: T5X's train.infer_eval_dataset_cfg = None; here validation decodes" in told
  run_of(FINETUNE.replace('finetune', 'pretrain'), before=())
  assert 'pretrain.gin' in (told := capsys.readouterr().err) and 'EVAL_PERIOD = 0' in told
  run_of('train_script.train.infer_eval_dataset_cfg = @infer_eval/utils.DatasetConfig()')
  assert 'EVAL_PERIOD' not in capsys.readouterr().err


def test_two_names_of_one_setting_may_not_contradict_each_other(run_of):
  text = "{}/utils.DatasetConfig.mixture_or_task_name = '{}'\n"
  with pytest.raises(ConfigError, match=r'MIXTURE_OR_TASK_NAME is one for a whole run, and train/'):
    run_of(text.format('train', 'x') + text.format('infer_eval', 'y'))


def test_a_misspelt_macro_of_a_t5x_file_is_refused(run_of):
  with pytest.raises(
    ConfigError, match=r'theirs\.gin:12: .*does not read the macro USE_CACHED_TASK'
  ):
    run_of('USE_CACHED_TASK = True')


# ---------------------------------------------------------------- whole files and command lines


def test_t5xs_own_files_have_a_namesake_here(run_of):
  run = run_of(FINETUNE, before=())
  assert (run.model.emb_dim, run.model.vocab_size, run.model.dtype) == (512, 32128, 'bfloat16')
  assert (run.save_period, run.data.batch_size, run.loss.z_loss) == (5000, 128, 1e-4)
  optimizer = run.optimizer
  assert (optimizer.name, optimizer.learning_rate, optimizer.clip_norm) == ('adafactor', 1e-3, None)
  assert optimizer.factors.product == 'constant'


@pytest.mark.parametrize('name', ['t5x', 'seqio', 'optax'])
def test_the_result_is_the_same_whether_t5x_is_importable_or_not(
  run_of, tmp_path, monkeypatch, name
):
  text = f'{FINETUNE}train/utils.DatasetConfig.batch_size = 8\nOPTIMIZER = @adafactor.Adafactor()'
  without = run_of(text, before=())
  if name == 't5x':
    (tmp_path / 't5x').mkdir()
    (tmp_path / 't5x' / '__init__.py').write_text('raise RuntimeError("it is not to be imported")')
    monkeypatch.syspath_prepend(tmp_path)
  else:
    monkeypatch.setitem(sys.modules, name, None)
  assert run_of(text, before=()) == without


def test_a_command_line_of_t5xs_users_runs_whole(tmp_path):
  (tmp_path / 'configs').mkdir()
  file = tmp_path / 'configs' / 'mine.gin'
  file.write_text(IMPORTS + 'import my_project.tasks\n' + FINETUNE)
  gin_files.parse(
    [
      '--gin_search_paths=/nowhere,' + str(tmp_path),
      '--gin_file="configs/mine.gin"',
      '--gin.MODEL_DIR="/tmp/x"',
      "--gin.MIXTURE_OR_TASK_NAME='other_task'",
      '--gin.TASK_FEATURE_LENGTHS={"inputs": 8, "targets": 4}',
      '--gin.TRAIN_STEPS=1_000',
      '--gin.USE_CACHED_TASKS=False',
      '--gin.utils.SaveCheckpointConfig.period=9',
      '--gin.train_script.train.eval_period=3',
      '--gin_bindings=BATCH_SIZE = 4',
      '--tfds_data_dir', 'gs://bucket/data',
      '--run_mode=train', '--alsologtostderr', '--seqio_additional_cache_dirs=a,b',
    ],
    RUN_FILE,
  )  # fmt: skip
  run = gin_files.configured('run_config.RunConfig')
  assert (run.model_dir, run.data_dir) == ('/tmp/x', 'gs://bucket/data')
  assert run.data.mixture_or_task_name == 'other_task'
  assert run.data.task_feature_lengths == {'inputs': 8, 'targets': 4}
  assert (run.train_steps, run.save_period, run.eval.period) == (1000, 9, 3)
  assert (run.data.batch_size, run.module) == (4, 'my_project.tasks')


@pytest.mark.parametrize(
  'argument, ours',
  [
    ('--multiprocess_gpu=True', 'DSS_COORDINATOR'),
    ('--process_index=1', 'DSS_PROCESS_ID'),
    ('--dry_run=True', '--explain_t5x'),
    ('--run_mode=eval', '`dss evaluate`'),
    ('--gin_bindings=BATCH_SIZE', 'NAME = VALUE'),
  ],
)
def test_a_flag_of_t5x_with_another_form_here_is_answered(argument, ours):
  with pytest.raises(ConfigError, match=ours):
    gin_files.parse([*TRAIN, argument], RUN_FILE)


def test_what_is_translated_is_noted_once(run_of, capsys):
  gin_files._print_once.cache_clear()
  run_of('trainer.Trainer.num_microbatches = 4\nEVAL_STEPS = 3')
  told = capsys.readouterr().err
  assert told.count('\n') == 1 and '2 statements of T5X were translated' in told


def test_the_configuration_that_a_run_keeps_is_in_our_names(run_of, tmp_path):
  run = run_of(FINETUNE + 'trainer.Trainer.num_microbatches = 4', before=())
  kept = gin_files.operative()
  assert 't5x' not in kept.replace('from_t5x', '').replace('theirs', '')
  (tmp_path / 'kept.gin').write_text(kept)
  gin_files.parse([f'--gin_file={tmp_path}/kept.gin'], RUN_FILE)
  assert gin_files.configured('run_config.RunConfig') == run
