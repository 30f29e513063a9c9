"""The sides of cpu_training.py, each a process: `python benchmarks/training_sides.py SIDE FOLDER`.

Owns what one update of each is. All start from the same weights and tokens, which cpu_training.py
left in FOLDER, train in float32 with dropout by AdamW at the paper's settings, and count the real
pairs (a label and a rationale sequence) that they have learned from.

  ours    packed rows, as `dss train` does it
  torch   the paper's code: the same examples as two batches padded to their longest, two forward
          passes, alpha 0.5, AdamW; transformers' T5, all cores
  t5x     T5X's own network, model, loss and train step on rows packed by SeqIO; PYTHONPATH has it
"""

import functools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
ALPHA, DECAY_STEPS, CLIP_NORM, DROPOUT = 0.5, 10_000, 1.0, 0.1
TASKS = ('label', 'rationale')

Update = Callable[[], tuple[float, list[float]]]
"""Makes one update; returns its real pairs and the losses of label and rationale."""


def ours(folder: pathlib.Path, settings: dict[str, Any]) -> tuple[Update, Callable[[], Any]]:
  """What `dss train` does in a step, with its prefetching."""
  import jax

  from dss_jax.checkpoints import transfer
  from dss_jax.checkpoints.hf import huggingface
  from dss_jax.data import pipeline
  from dss_jax.models import t5
  from dss_jax.parallel import partitioning
  from dss_jax.training import losses, optimizers, steps, train_state

  opened = huggingface.open_pretrained(str(folder / 'hf'))
  model = t5.T5Config(**settings['model'])
  params = transfer.read_all(opened.recipe, opened.tensors)
  optimizer = optimizers.make_optimizer(
    optimizers.OptimizerConfig(
      learning_rate=settings['learning_rate'], decay_steps=DECAY_STEPS, clip_norm=CLIP_NORM
    ),
    t5.logical_axes(model),
  )
  mesh = partitioning.make_mesh(partitioning.MeshConfig())
  places = jax.tree.map(lambda x: x.sharding, train_state.abstract(model, optimizer, mesh))
  make = jax.jit(lambda params: train_state.from_params(params, optimizer), out_shardings=places)
  state = make(params)
  jax.set_mesh(mesh)
  step = jax.jit(
    steps.make_train_step(model, losses.Objective(weights=(ALPHA, 1.0 - ALPHA)), optimizer, seed=0),
    donate_argnums=0,
  )
  mixture = [pipeline.TaskExamples(task, 1.0, examples(folder, task)) for task in TASKS]
  batches = pipeline.Prefetch(
    pipeline.TrainBatches(mixture, pipeline.DataConfig(**settings['data'])),
    lambda batch: (batch, partitioning.put_batch(mesh, batch.arrays)),
  )

  def update():
    nonlocal state
    batch, arrays = next(batches)
    state, metrics = step(state, arrays)
    return batch.sequences / 2, [metrics[f'{task}/loss'] for task in TASKS]

  return update, lambda: jax.block_until_ready(state)


def torch(folder: pathlib.Path, settings: dict[str, Any]) -> tuple[Update, Callable[[], Any]]:
  """`TaskPrefixTrainer.compute_loss` of the released code, and what its Trainer does around it."""
  import torch
  import transformers

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  torch.manual_seed(0)
  model = transformers.T5ForConditionalGeneration.from_pretrained(
    folder / 'hf', dropout_rate=DROPOUT
  ).train()
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=settings['learning_rate'], weight_decay=0.0, fused=True
  )
  schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, DECAY_STEPS)
  by_task = [_sequences(examples(folder, task)) for task in TASKS]
  order = _endless(len(by_task[0]))

  def padded(sequences, value):
    longest = max(map(len, sequences))
    wide = [np.pad(one, (0, longest - len(one)), constant_values=value) for one in sequences]
    return torch.tensor(np.stack(wide), dtype=torch.long)

  def collated(rows):
    inputs = padded([row[0] for row in rows], 0)
    labels = padded([row[1] for row in rows], -100)
    return {'input_ids': inputs, 'attention_mask': (inputs > 0).long(), 'labels': labels}

  def update():
    drawn = [next(order) for _ in range(settings['pairs'])]
    label, rationale = (model(**collated([rows[i] for i in drawn])).loss for rows in by_task)
    loss = ALPHA * label + (1.0 - ALPHA) * rationale
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    schedule.step()
    return float(len(drawn)), [label.detach(), rationale.detach()]

  return update, lambda: None


def t5x(folder: pathlib.Path, settings: dict[str, Any]) -> tuple[Update, Callable[[], Any]]:
  """T5X's train step, jitted as its partitioner does on one device."""
  import jax
  import seqio
  from t5x import models, optimizers, partitioning, train_state, trainer
  from t5x.examples.t5 import network

  rate = np.float32(settings['learning_rate'])
  vocabulary = seqio.PassThroughVocabulary(settings['model']['vocab_size'])
  names = ('vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_encoder_layers',
           'num_decoder_layers', 'mlp_activations', 'dropout_rate', 'dtype')  # fmt: skip
  config = network.T5Config(**{name: settings['model'][name] for name in names})
  model = models.EncoderDecoderModel(
    network.Transformer(config), vocabulary, vocabulary, optimizers.adamw(rate)
  )
  with np.load(folder / 'seqio_packed.npz') as packed:
    arrays = dict(packed)
  rows = settings['t5x_rows']
  batches = [
    {name: array[start : start + rows] for name, array in arrays.items()}
    for start in range(0, len(arrays['encoder_input_tokens']) - rows + 1, rows)
  ]
  shapes = {name: array.shape for name, array in batches[0].items()}
  types = {name: array.dtype for name, array in batches[0].items()}
  variables = jax.jit(lambda key: model.get_initial_variables(key, shapes, types))(
    jax.random.key(0)
  )
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  with partitioner.mesh:
    state = train_state.FlaxOptimTrainState.create(model.optimizer_def, variables)
  keys = iter(range(1 << 30))

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, batch, key):
    return trainer.train_with_lr(state, batch, rate, key, model, num_microbatches=None)

  order = _endless(len(batches))

  def update():
    nonlocal state
    batch = batches[next(order)]
    state, _ = step(state, batch, jax.random.key(next(keys)))
    segments = batch['decoder_segment_ids'].max(axis=1)
    return float(segments.sum()) / 2, []

  return update, lambda: jax.block_until_ready(state.params)


def examples(folder: pathlib.Path, task: str):
  """The tokenised examples of a task, from FOLDER."""
  from dss_jax.data.examples import Examples

  with np.load(folder / f'{task}.npz') as arrays:
    return Examples(**arrays)


def _sequences(part) -> list[tuple[np.ndarray, np.ndarray]]:
  """(inputs, targets) of every example."""
  sides = [
    np.split(tokens, offsets[1:-1])
    for tokens, offsets in (
      (part.inputs, part.input_offsets),
      (part.targets, part.target_offsets),
    )
  ]
  return list(zip(*sides, strict=True))


def _endless(count: int):
  """Indices below `count` in a new random order every epoch."""
  random = np.random.default_rng(0)
  while True:
    yield from random.permutation(count).tolist()


def main() -> None:
  """Answers requests of `steps` updates with pairs, seconds and losses."""
  import pairs

  side, folder = sys.argv[1], pathlib.Path(sys.argv[2])
  settings = json.loads((folder / 'settings.json').read_text())
  update, finish = {'ours': ours, 'torch': torch, 't5x': t5x}[side](folder, settings)

  def answer(steps: int) -> dict[str, Any]:
    finish()
    began, worked = time.perf_counter(), time.process_time()
    made = [update() for _ in range(steps)]
    finish()
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    count = sum(pairs for pairs, _ in made)
    losses = [[float(loss) for loss in losses] for _, losses in made]
    return {
      'rate': count / seconds,
      'unit': 'pairs',
      'pairs': count,
      'seconds': seconds,
      'processor_seconds': worked / count,
      'losses': losses,
    }

  pairs.serve(answer)


if __name__ == '__main__':
  main()
