"""Makes the tiny Hugging Face checkpoints of tests/golden/hf, with the logits that they compute.

    python tests/golden/make_hf.py        (needs torch and transformers 5)

Folders: T5 1.0 in safetensors; T5 1.1 in safetensors of several shards; T5 1.1 in bfloat16; T5 1.1
in Flax's msgpack. transformers writes all but the last, which flax.serialization writes under the
names of transformers 4's FlaxT5ForConditionalGeneration (version 5 has no Flax models).

Owns the checkpoints; test_hf_files.py compares with them.
"""

import json
import pathlib
import shutil
import sys

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent / 'hf'
FORMS = {'t5_1_0': False, 't5_1_1': True, 't5_1_1_bf16': True, 't5_1_1_flax': True}  # gated?
SIZES = {'vocab_size': 24, 'd_model': 8, 'd_kv': 4, 'd_ff': 12, 'num_heads': 2, 'num_layers': 1}


def batch() -> dict[str, np.ndarray]:
  """Inputs [2, 9] and what the decoder is given [2, 5], which begins with 0; nothing is padding."""
  random = np.random.RandomState(0)
  inputs, given = random.randint(2, 24, size=(2, 9)), random.randint(2, 24, size=(2, 5))
  given[:, 0] = 0
  return {'inputs': inputs.astype(np.int32), 'given': given.astype(np.int32)}


def model(form: str):
  """transformers' model in float32, with weights that are a function of their names."""
  import torch
  import transformers

  sys.path.insert(0, str(FOLDER.parent.parent))
  from golden import make_t5

  gated = FORMS[form]
  settings = transformers.T5Config(
    **SIZES,
    num_decoder_layers=2,
    feed_forward_proj='gated-gelu' if gated else 'relu',
    tie_word_embeddings=not gated,
    decoder_start_token_id=0,
  )
  made = transformers.T5ForConditionalGeneration(settings).eval()
  if gated:  # transformers 5 ties the logits on construction whatever the config says
    made.lm_head.weight = torch.nn.Parameter(torch.zeros_like(made.lm_head.weight))
  parameters = dict(made.named_parameters())
  drawn = make_t5.weights({name: tuple(p.shape) for name, p in parameters.items()})
  with torch.no_grad():
    for name, parameter in parameters.items():
      value = torch.tensor(drawn[name])
      parameter.copy_(value.bfloat16().float() if form.endswith('bf16') else value)
  return made


def logits(made) -> np.ndarray:
  """What the model computes for the batch [2, 5, vocab]."""
  import torch

  given = {name: torch.tensor(value, dtype=torch.long) for name, value in batch().items()}
  with torch.no_grad():
    return made(input_ids=given['inputs'], decoder_input_ids=given['given']).logits.numpy()


def save(form: str, folder: pathlib.Path) -> None:
  """Writes a checkpoint and logits.npy."""
  import torch

  made = model(form)
  folder.mkdir(parents=True)
  np.save(folder / 'logits.npy', logits(made))
  if form.endswith('flax'):
    _save_flax(made, folder)
  else:
    made = made.to(torch.bfloat16) if form.endswith('bf16') else made
    made.save_pretrained(folder, max_shard_size='6KB' if form == 't5_1_1' else '1GB')


def _save_flax(made, folder: pathlib.Path) -> None:
  """As transformers 4.57's FlaxT5ForConditionalGeneration.save_pretrained."""
  from flax import serialization

  tree: dict = {}
  for name, parameter in made.named_parameters():
    *modules, _ = name.split('.')
    value, last = parameter.detach().numpy(), 'kernel'
    if modules[-1].endswith('norm'):
      last = 'weight'
    elif modules[-1] in ('shared', 'relative_attention_bias'):
      last = 'embedding'
    else:
      value = np.ascontiguousarray(value.T)
    node = tree
    for module in modules:
      node = node.setdefault(module, {})
    node[last] = value
  (folder / 'flax_model.msgpack').write_bytes(serialization.to_bytes(tree))
  config = {**made.config.to_diff_dict(), 'tie_word_embeddings': False}
  for name in ('scale_decoder_outputs', 'transformers_version'):  # which version 4 has not so
    del config[name]
  (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n')


if __name__ == '__main__':
  shutil.rmtree(FOLDER, ignore_errors=True)
  for each in FORMS:
    save(each, FOLDER / each)
