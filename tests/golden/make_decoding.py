"""Writes decoding.npz: tiny T5s and what Hugging Face's `generate` makes of them.

    python tests/golden/make_decoding.py

Needs torch and transformers (5.23); the tests that read the file need neither. Weights are int8
multiples of 1/32 from numpy's RandomState, whose stream never changes.
"""

import pathlib

import numpy as np

PATH = pathlib.Path(__file__).with_name('decoding.npz')
VOCAB, EMBED, HEADS, HEAD_DIM, MLP, LAYERS = 32, 16, 2, 8, 24, 2
MAX_LENGTH = 12
VARIANTS = {'t5_1_1': 8, 't5_1_0': 3}
"""Each variant and the seed of its weights, chosen so that outputs end at many lengths."""
SETTINGS = {
  'greedy': {'num_beams': 1},
  'beam2': {'num_beams': 2},
  'beam4': {'num_beams': 4},
  'beam4_sum': {'num_beams': 4, 'length_penalty': 0.0},
  'beam3_long': {'num_beams': 3, 'length_penalty': 2.0},
}


def make_model(variant: str, seed: int):
  """A Hugging Face T5 with random weights, and those weights as int8 tensors by name."""
  import torch
  import transformers

  gated = variant == 't5_1_1'
  config = transformers.T5Config(
    vocab_size=VOCAB, d_model=EMBED, d_kv=HEAD_DIM, d_ff=MLP, num_heads=HEADS, num_layers=LAYERS,
    num_decoder_layers=LAYERS, feed_forward_proj='gated-gelu' if gated else 'relu',
    tie_word_embeddings=not gated, dropout_rate=0.0, decoder_start_token_id=0,
  )  # fmt: skip
  model = transformers.T5ForConditionalGeneration(config).eval()
  if gated:  # transformers 5 ties it all the same
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCAB, EMBED))
  random = np.random.RandomState(seed)
  tensors = {}
  with torch.no_grad():
    for name, parameter in sorted(model.named_parameters()):
      values = random.standard_normal(tuple(parameter.shape)) * _scale(name)
      if name in ('shared.weight', 'lm_head.weight'):
        values[1] *= 2.0  # the EOS: likelier to be an extreme, so that outputs end
      if 'layer_norm' in name:
        values += 1.0
      tensors[name] = np.clip(np.round(values * 32), -127, 127).astype(np.int8)
      parameter.copy_(torch.tensor(tensors[name] / np.float32(32)))
  if not gated:
    tensors.pop('lm_head.weight', None)
  return model, tensors


def _scale(name: str) -> float:
  if 'shared' in name or 'lm_head' in name:
    return 0.5  # small against the layers' part, or a tied T5 repeats itself
  return 0.1 if 'layer_norm' in name else 0.6


def make_inputs(rows: int, seed: int) -> np.ndarray:
  """Token ids [rows, 10], padded with 0 to the right of 1 to 10 tokens."""
  random = np.random.RandomState(seed)
  lengths = random.randint(1, 11, rows)
  tokens = random.randint(2, VOCAB, (rows, 10))
  return np.where(np.arange(10) < lengths[:, None], tokens, 0).astype(np.int32)


def generate(model, inputs: np.ndarray, **settings) -> tuple[np.ndarray, np.ndarray | None]:
  """Tokens [rows, MAX_LENGTH], 0 after the EOS, and the scores [rows] of beam search."""
  import torch

  with torch.no_grad():
    output = model.generate(
      torch.tensor(inputs),
      attention_mask=torch.tensor(inputs > 0).long(),
      max_new_tokens=MAX_LENGTH,
      do_sample=False,
      return_dict_in_generate=True,
      output_scores=True,
      **settings,
    )
  tokens = output.sequences.numpy()[:, 1:]  # without the start token
  tokens = np.pad(tokens, ((0, 0), (0, MAX_LENGTH - tokens.shape[1])))
  after_eos = np.cumsum(tokens == 1, axis=1) > (tokens == 1)
  tokens = np.where(after_eos, 0, tokens).astype(np.int32)
  scores = None if settings['num_beams'] == 1 else output.sequences_scores.numpy()
  return tokens, scores


def main() -> None:
  arrays = {'inputs': make_inputs(8, seed=0)}
  for variant, seed in VARIANTS.items():
    model, tensors = make_model(variant, seed)
    arrays |= {f'{variant}/weights/{name}': tensor for name, tensor in tensors.items()}
    for name, settings in SETTINGS.items():
      tokens, scores = generate(model, arrays['inputs'], **settings)
      arrays[f'{variant}/tokens/{name}'] = tokens.astype(np.int8)
      if scores is not None:
        arrays[f'{variant}/scores/{name}'] = scores
  np.savez_compressed(PATH, **arrays)


if __name__ == '__main__':
  main()
