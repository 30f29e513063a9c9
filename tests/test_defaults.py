"""Defaults, which are written at the fields alone; the values are those of the paper's recipe."""

import gin
import pytest

from dss_jax.settings import defaults, gin_files, json_form, statements

TINY = '--gin_file=models/t5_1_1/tiny.gin'
MODEL = {
  'vocab_size': None, 'emb_dim': 96, 'num_heads': 4, 'head_dim': 24, 'mlp_dim': 192,
  'num_encoder_layers': 2, 'num_decoder_layers': 2, 'mlp_activations': ['gelu', 'linear'],
  'logits_via_embedding': False, 'dtype': 'float32', 'dropout_rate': 0.1,
  'relative_attention_num_buckets': 32, 'relative_attention_max_distance': 128,
  'remat_policy': 'none', 'scan_layers': 'auto', 'relative_bias_per_layer': False,
}  # fmt: skip
RUN = {
  'model_dir': 'runs/a',
  'model': MODEL,
  'data': {
    'mixture_or_task_name': 'svamp_dss', 'task_feature_lengths': {'inputs': 7, 'targets': 5},
    'batch_size': 128, 'split': 'train', 'fraction': 1.0, 'pack': True, 'seed': 0,
    'rationale_scores': None, 'rationales_kept': 1.0,
  },
  'vocabulary': 'bytes',
  'train_steps': 10_000,
  'method': None,
  'loss': {'rationale_weight': None, 'alpha': None, 'z_loss': 0.0, 'label_smoothing': 0.0},
  'optimizer': {
    'name': 'adamw', 'learning_rate': 5e-5, 'schedule': 'linear', 'warmup_steps': 0,
    'decay_steps': 10_000, 'clip_norm': 1.0, 'weight_decay': 0.0, 'b1': 0.9, 'b2': 0.999,
    'eps': 1e-8, 'decay_rate': 0.8, 'factors': None,
  },
  'mesh': {'data': -1, 'fsdp': 1, 'tensor': 1},
  'eval': {
    'period': 1000, 'split': 'validation', 'num_examples': None, 'batch_size': 64,
    'max_decode_length': 64, 'patience': None,
  },
  'seed': 0, 'num_microbatches': 1, 'initial_checkpoint_path': None, 'log_period': 50,
  'save_period': 1000, 'checkpoints_to_keep': 1, 'module': None, 'data_dir': None,
  'choices': None,
}  # fmt: skip
STUDENT = {
  'model_dir': 'a', 'step': 'best',
  'decoding': {
    'method': 'greedy', 'max_length': 64, 'beams': 4, 'length_penalty': 1.0, 'temperature': 1.0,
  },
  'max_decode_length': None, 'batch_size': 64, 'seed': 0,
  'mesh': {'data': -1, 'fsdp': 1, 'tensor': 1}, 'module': None, 'data_dir': None,
}  # fmt: skip
PLANNED = {
  **RUN, 'model_dir': '', 'vocabulary': '', 'mesh': {'data': 1, 'fsdp': 8, 'tensor': 1},
  'data': {
    **RUN['data'], 'mixture_or_task_name': '',
    'task_feature_lengths': {'inputs': 512, 'targets': 128},
  },
}  # fmt: skip
SVAMP = (
  TINY, '--dataset=svamp', "--task_feature_lengths={'inputs': 7, 'targets': 5}",
  '--vocabulary=bytes', '--model_dir=runs/a',
)  # fmt: skip
SWEEP = {
  'model_dir': 'runs/a', 'methods': ['standard', 'dss'], 'equal_compute': True, 'split': 'test',
  'grid': None, 'workers': 1, 'rationales': 0, 'topology': None, 'price_file': None, 'cell': None,
}  # fmt: skip


@pytest.mark.parametrize(
  'verb, argv, selector, values',
  [
    ('train', SVAMP, 'run_config.RunConfig', RUN),
    ('compare', SVAMP, 'run_config.RunConfig', RUN),
    ('compare', SVAMP, 'comparison.SweepConfig', SWEEP),
    ('sweep', SVAMP, 'comparison.SweepConfig', SWEEP),
    (
      'plan', (TINY, '--topology=v5e-8'), 'plan.PlanConfig',
      {'run': PLANNED, 'topology': 'v5e-8', 'price_file': None},
    ),
    (
      'evaluate', ('--model_dir=a',), 'evaluation.EvaluateConfig',
      {
        **STUDENT, 'task': None, 'split': 'test', 'num_examples': None, 'output': None,
        'rationale_scores': None,
      },
    ),
    ('predict', ('--model_dir=a',), 'predict.PredictConfig', {**STUDENT, 'output': None}),
  ],
)  # fmt: skip
def test_what_nobody_sets_is_the_fields_default(verb, argv, selector, values):
  gin_files.parse(argv, f'runs/{verb}.gin')
  assert json_form.to_dict(gin_files.configured(selector)) == values


def test_run_files_repeat_no_default():
  """A macro that a run file of a verb defines has another value than its field."""
  for verb in ('train', 'compare', 'sweep', 'evaluate', 'predict', 'plan'):
    said = statements.of_shipped(f'runs/{verb}.gin')
    for name, reading in defaults.readers(said).items():
      given = [one.value for one in said if one.name == name]
      assert not {repr(one.parameter.default) for one in reading} & set(map(repr, given)), name


def test_a_macro_that_no_field_has_a_default_for_is_told_when_it_is_used(tmp_path):
  (tmp_path / 'mine.gin').write_text('TRAIN_STEPS = %NOWHERE\n')
  gin_files.parse([*SVAMP, f'--gin_file={tmp_path}/mine.gin'], 'runs/train.gin')
  with pytest.raises(ValueError, match='no gin file defines the macro %NOWHERE; there are ALPHA'):
    gin_files.configured('run_config.RunConfig')


@pytest.fixture(autouse=True)
def _clean_gin():
  yield
  gin.clear_config()
  gin.config._LOCATION_PREFIXES[:] = ['']
