"""Makes the golden file of the method: the paper's training in torch with Hugging Face's T5.

    PYTHONPATH=tests python tests/golden/make_loss.py        (needs torch and transformers 5)

Twenty updates of the released code on one paired batch: two forward passes, alpha label loss +
(1 - alpha) rationale loss, each the mean over the real target tokens of its rows; clipping at 1,
AdamW with a linear schedule, no dropout. The file holds the losses along the way, and some entries
of the weights at the end; the weights at the start are make_t5's.

Source: google-research/distilling-step-by-step, `TaskPrefixTrainer.compute_loss` in model_utils.py.

Owns the batch and the reference; the tests that compare with it are in test_paper_training.py.
"""

import pathlib

import jax
import numpy as np
from golden import make_t5

from dss_jax.checkpoints.hf import huggingface
from dss_jax.models import t5

PATH = pathlib.Path(__file__).with_name('loss.npz')
ALPHA, LEARNING_RATE, STEPS, CLIP_NORM = 0.4, 1e-3, 20, 1.0
WEIGHT_DECAYS = (0.0, 0.01)
PAIRS = 6
TASKS = ('label', 'rationale')


def rows() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
  """Task -> (inputs, targets) of each of the PAIRS examples, EOS included; labels are short."""
  random = np.random.RandomState(3)
  sequence = lambda low, high: np.append(random.randint(3, 40, random.randint(low, high)), 1)  # noqa: E731
  return {
    'label': [(sequence(5, 30), sequence(1, 5)) for _ in range(PAIRS)],
    'rationale': [(sequence(5, 30), sequence(6, 20)) for _ in range(PAIRS)],
  }


def sample(params) -> np.ndarray:
  """Of every weight in our form some entries and the sum: float32, one behind the other."""
  found = []
  for weight in jax.tree.leaves(params):
    flat = np.asarray(weight, np.float32).ravel()
    found.append(np.append(flat[:: max(1, len(flat) // 40)], flat.sum(dtype=np.float64)))
  return np.concatenate(found).astype(np.float32)


def trained(version: str, weight_decay: float):
  """The model after STEPS updates, and float64 [STEPS, 3]: loss, label loss and rationale loss."""
  import torch
  import transformers

  model = make_t5.reference_model(version)
  batches = {task: _collated(pairs) for task, pairs in rows().items()}
  optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=weight_decay)
  schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, STEPS)
  history = []
  for _ in range(STEPS):
    label, rationale = (model(**batches[task]).loss for task in TASKS)
    loss = ALPHA * label + (1.0 - ALPHA) * rationale
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    schedule.step()
    history.append([loss.item(), label.item(), rationale.item()])
  return model, np.array(history)


def reference() -> dict[str, np.ndarray]:
  """`<version>/<weight decay>/losses` and `.../sample` of all trainings."""
  found = {}
  for version in make_t5.VERSIONS:
    for weight_decay in WEIGHT_DECAYS:
      model, history = trained(version, weight_decay)
      params = params_of(model, version)
      found[f'{version}/{weight_decay}/losses'] = history
      found[f'{version}/{weight_decay}/sample'] = sample(params)
  return found


def config_of(version: str) -> t5.T5Config:
  """The network of make_t5 in our form, without dropout."""
  sizes = make_t5.SIZES
  return t5.T5Config(
    vocab_size=sizes['vocab_size'],
    emb_dim=sizes['d_model'],
    num_heads=sizes['num_heads'],
    head_dim=sizes['d_kv'],
    mlp_dim=sizes['d_ff'],
    num_encoder_layers=sizes['num_layers'],
    num_decoder_layers=make_t5.DECODER_LAYERS,
    mlp_activations=('gelu', 'linear') if version == '1_1' else ('relu',),
    logits_via_embedding=version == '1_0',
    dtype='float32',
    dropout_rate=0.0,
  )


def params_of(model, version: str) -> t5.Params:
  """The parameters of a Hugging Face model in our form."""
  arrays = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
  return huggingface.params_from_state_dict(arrays, config_of(version))


def _collated(pairs):
  """A batch as Hugging Face's collator makes it: padding has label -100."""
  import torch

  def padded(sequences, value):
    longest = max(map(len, sequences))
    wide = [np.pad(s, (0, longest - len(s)), constant_values=value) for s in sequences]
    return torch.tensor(np.stack(wide), dtype=torch.long)

  inputs = padded([pair[0] for pair in pairs], 0)
  return {
    'input_ids': inputs,
    'attention_mask': (inputs > 0).long(),
    'labels': padded([pair[1] for pair in pairs], -100),
  }


if __name__ == '__main__':
  np.savez_compressed(PATH, **reference())
