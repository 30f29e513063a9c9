"""The texts beside an exported T5X checkpoint: its gin file and its README.

Owns what T5X needs to be told of the network, the vocabulary and AdamW. The checkpoint is
export_weights.py's.
"""

import pathlib
from typing import Any

import seqio
from etils import epath

from dss_jax import methods
from dss_jax.methods import Method
from dss_jax.models.t5 import T5Config
from dss_jax.runs import model_card
from dss_jax.training.optimizers import OptimizerConfig

GIN = 'model.gin'
_NETWORK = (
  'vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_encoder_layers',
  'num_decoder_layers', 'mlp_activations', 'logits_via_embedding',
)  # fmt: skip


def gin(
  model: T5Config,
  vocabulary: seqio.Vocabulary | None,
  path: epath.Path,
  adamw: OptimizerConfig | None,
) -> str:
  """A gin file for T5X: the network, its vocabulary, and AdamW where the checkpoint has its state.

  Args:
    model: the network.
    vocabulary: of the checkpoint.
    path: where the vocabulary's model is.
    adamw: its settings; None leaves T5X's own optimizer, Adafactor.
  """
  example, base = 't5', 't5_1_1' if len(model.mlp_activations) == 2 else 't5_1_0'
  if model.relative_bias_per_layer:
    example, base = 'scalable_t5', 't5_1_1'  # all settings of the network follow below
  lines = [
    '# The network and the vocabulary of the checkpoint beside this file; of AdamW, the optimizer.',
    'from __gin__ import dynamic_registration',
    *(['import optax'] if adamw else []),
    'import seqio',
    *(['from t5x import optimizers'] if adamw else []),
    f'from t5x.examples.{example} import network',
    f"include 't5x/examples/{example}/{base}/base.gin'",
    'network.T5Config:',
    *(f'  {name} = {getattr(model, name)!r}' for name in _NETWORK),
  ]
  if isinstance(vocabulary, seqio.ByteVocabulary):
    lines.append('VOCABULARY = @seqio.ByteVocabulary()')
  elif vocabulary is not None:
    lines += [
      'VOCABULARY = @seqio.SentencePieceVocabulary()',
      'seqio.SentencePieceVocabulary:',
      f'  sentencepiece_model_file = {str(path)!r}',
      f'  extra_ids = {vocabulary.extra_ids}',
    ]
  return '\n'.join([*lines, *(_adamw(adamw) if adamw else [])]) + '\n'


def readme(
  output: pathlib.PurePath | Any,
  place: str,
  step: int,
  model: T5Config,
  method: Method | None,
  state: str | None,
) -> str:
  """How T5X continues from the checkpoint.

  Args:
    output: the folder.
    place: the checkpoint's name in it.
    step: updates made, as T5X counts.
    model: the network.
    method: that the student learned by, if it did.
    state: whose state is in the checkpoint, 'Adafactor', 'AdamW' or None.
  """
  method = method or methods.get(methods.DEFAULT)
  example = 'scalable_t5' if model.relative_bias_per_layer else 't5'
  what = "a fresh optimizer's state" if state is None else f'the state of {state}'
  note = ''
  if state == 'AdamW':
    note = (
      f'\nIts optimizer is AdamW, which `{GIN}` sets up at a constant learning rate; bind another\n'
      'schedule to `optax.adamw.learning_rate`. To continue with Adafactor, which has another\n'
      'state, restore the weights alone:\n'
      '`utils.RestoreCheckpointConfig.fallback_to_scratch = True` with\n'
      "`state_utils.apply_assignment_map.assignment_map = ((r'state.*', None),)`.\n"
    )
  templates = ', '.join(model_card.code(row.input) for row in (method.answer, *method.other_rows))
  return f"""# {output.name}, for T5X

`{place}` holds float32 weights and {what} at step {step}, for T5X's network
t5x/examples/{example}. `{GIN}` is its network and vocabulary; the vocabulary's path there is
where it was exported to. To continue with T5X:

    python -m t5x.train --gin_search_paths=T5X_FOLDER \\
      --gin_file={output / GIN} \\
      --gin_file=t5x/configs/runs/finetune.gin \\
      --gin.INITIAL_CHECKPOINT_PATH="'{output / place}'" \\
      --gin.TRAIN_STEPS={step + 1000} ...

where TRAIN_STEPS counts the {step} steps already made. The inputs follow the templates
{templates}.
{note}"""


def _adamw(config: OptimizerConfig) -> list[str]:
  """T5X's own chain of clipping and AdamW, whose state has the names that we write."""
  clips = config.clip_norm is not None
  first = 'optax.clip_by_global_norm' if clips else 'optax.identity'
  names = ('b1', 'b2', 'eps', 'weight_decay')
  return [
    'OPTIMIZER = @optimizers.chain()',
    f'optimizers.chain.transformations = [@{first}(), @optax.adamw()]',
    *([f'optax.clip_by_global_norm.max_norm = {config.clip_norm}'] if clips else []),
    'optax.adamw:',
    '  learning_rate = @optax.constant_schedule()',
    *(f'  {name} = {getattr(config, name)}' for name in names),
    f'optax.constant_schedule.value = {config.learning_rate}',
  ]
