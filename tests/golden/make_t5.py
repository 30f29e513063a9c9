"""Makes the golden files of the network: what Hugging Face's T5 computes for known weights.

    python tests/golden/make_t5.py        (needs torch and transformers 5)

The weights are not stored: `weights` draws each from a seed made of its name, so that a test
makes the same ones with numpy alone. A file holds a padded batch, the encoder's output, the logits,
the mean cross-entropy of the real target tokens and its gradient for every weight, in float32.

Owns the reference model and the batch; the tests that compare with them are in test_huggingface.py.
"""

import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
VERSIONS = ('1_0', '1_1')
SIZES = {'vocab_size': 40, 'd_model': 16, 'd_kv': 4, 'd_ff': 20, 'num_heads': 3, 'num_layers': 2}
DECODER_LAYERS = 3


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Random float32 weights under Hugging Face's names; each depends on its name and shape alone."""
  drawn = {}
  for name, shape in shapes.items():
    noise = np.random.RandomState(zlib.crc32(name.encode())).normal(size=shape)
    if 'layer_norm' in name:
      noise = 1 + 0.2 * noise
    elif name != 'shared.weight':
      noise *= shape[-1] ** -0.5
    drawn[name] = noise.astype(np.float32)
  return drawn


def batch() -> dict[str, np.ndarray]:
  """A padded batch: inputs [3, 48], which reach the far buckets, and targets [3, 24]."""
  random = np.random.RandomState(0)
  inputs, targets = random.randint(2, 40, size=(3, 48)), random.randint(2, 40, size=(3, 24))
  for row, (input_length, target_length) in enumerate([(48, 24), (20, 5), (7, 11)]):
    inputs[row, input_length:] = 0
    targets[row, target_length:] = 0
  return {'inputs': inputs.astype(np.int32), 'targets': targets.astype(np.int32)}


def reference_model(version: str):
  """Hugging Face's `T5ForConditionalGeneration` with the weights above, in float32, no dropout."""
  import torch
  import transformers

  gated = version == '1_1'
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      **SIZES,
      num_decoder_layers=DECODER_LAYERS,
      feed_forward_proj='gated-gelu' if gated else 'relu',
      tie_word_embeddings=not gated,
      dropout_rate=0.0,
      decoder_start_token_id=0,
    )
  ).eval()
  if gated:  # transformers 5 ties the logits on construction whatever the config says
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
  parameters = dict(model.named_parameters())
  drawn = weights({name: tuple(p.shape) for name, p in parameters.items()})
  with torch.no_grad():
    for name, parameter in parameters.items():
      parameter.copy_(torch.tensor(drawn[name]))
  return model


def reference(version: str) -> dict[str, np.ndarray]:
  """The batch, and `encoded`, `logits`, `loss` and a `gradient/<name>` for every weight."""
  import torch

  model, given = reference_model(version), batch()
  inputs, targets = (torch.tensor(given[name], dtype=torch.long) for name in ('inputs', 'targets'))
  output = model(
    input_ids=inputs,
    attention_mask=(inputs > 0).long(),
    labels=torch.where(targets > 0, targets, -100),
  )
  output.loss.backward()
  gradients = {f'gradient/{name}': p.grad.numpy() for name, p in model.named_parameters()}
  return {
    **given,
    'encoded': output.encoder_last_hidden_state.detach().numpy(),
    'logits': output.logits.detach().numpy(),
    'loss': output.loss.detach().numpy(),
    **gradients,
  }


def buckets() -> dict[str, np.ndarray]:
  """Hugging Face's buckets of the relative positions -300 to 300, for three sets of settings."""
  import torch
  from transformers.models.t5.modeling_t5 import T5Attention

  distances = np.arange(-300, 301, dtype=np.int32)
  made = {'distances': distances}
  for bidirectional, number, furthest in [(True, 32, 128), (False, 32, 128), (True, 16, 64)]:
    bucket = T5Attention._relative_position_bucket(
      torch.tensor(distances, dtype=torch.long), bidirectional, number, furthest
    )
    made[f'{int(bidirectional)}_{number}_{furthest}'] = bucket.numpy().astype(np.int32)
  return made


if __name__ == '__main__':
  for version in VERSIONS:
    np.savez_compressed(FOLDER / f't5_{version}.npz', **reference(version))
  np.savez_compressed(FOLDER / 'relative_position_buckets.npz', **buckets())
