"""Training T5 on a GPU in bfloat16: tokens a second and MFU of ours and of torch, in turn.

    python benchmarks/gpu_training.py [--model=large] [--batch=32] [--json=FILE]

Every row is 512 inputs and 128 targets without padding, so both sides do the same work: weights
and AdamW in float32, products in bfloat16, dropout, gradients clipped to a norm of 1. torch is
transformers' T5 with sdpa attention, compiled. MFU is what the model needs, counted from its shapes
(dss_jax/models/flops.py), over the rate at which this card multiplies two bfloat16 matrices of
8,192 x 8,192, which JAX measures here first (1,024 x 1,024 with --platform=cpu). Needs the extra
`gpu` and a torch for CUDA; `--platform=cpu --model=tiny --batch=8 --rounds=1 --steps=1` tries it
out without a card.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pairs
import tpu_steps
from tpu_steps import INPUTS, TARGETS, VOCAB_SIZE

LEARNING_RATE, CLIP_NORM = 5e-5, 1.0
SIDE = 8192  # of the matrices whose product is the card's peak


def main() -> int:
  """Runs the comparison and prints it."""
  options = _parser().parse_args()
  if options.side:
    serve(options)
    return 0
  here = [sys.executable, str(pathlib.Path(__file__).resolve()), *sys.argv[1:]]
  sides = [pairs.Side(name, [*here, f'--side={name}'], platform=options.platform) for name in SIDES]
  try:
    peak = sides[0].ask(peak=True)['flops']
    answers = pairs.alternate(sides, options.rounds, steps=options.steps)
  finally:
    for side in sides:
      side.close()
  rows = pairs.summary(answers)
  for row in rows:
    found = answers[row['side']]
    row |= {'MFU': row['median'] * found[0]['flops_a_token'] / peak, 'loss': found[-1]['loss']}
  print(f'\nT5 1.1 {options.model}, {options.batch} rows, tokens a second:\n')
  print(pairs.table(rows))
  machine = pairs.machine('jax', 'torch', 'transformers') | {'peak TFLOP/s': peak / 1e12}
  print(f'\n{machine}')
  pairs.write_json(options.json, {'machine': machine, 'tokens_per_second': rows})
  return 0


def ours(options: argparse.Namespace) -> Callable[[], Any]:
  """An update as `dss train` makes it; the metrics' loss, not waited for."""
  import jax

  from dss_jax.models import t5
  from dss_jax.parallel import partitioning
  from dss_jax.training import losses, optimizers, steps, train_state

  model = _model(options)
  mesh = partitioning.make_mesh(partitioning.MeshConfig())
  optimizer = optimizers.make_optimizer(
    optimizers.OptimizerConfig(
      schedule='constant', learning_rate=LEARNING_RATE, clip_norm=CLIP_NORM
    ),
    t5.logical_axes(model),
  )
  state = train_state.create(model, optimizer, mesh, 0)
  inputs, targets = _tokens(options.batch)
  ones = np.ones_like(targets)
  batch = partitioning.put_batch(mesh, {
    'encoder_input_tokens': inputs,
    'encoder_segment_ids': np.ones_like(inputs),
    'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
    'decoder_target_tokens': targets,
    'decoder_segment_ids': ones,
    'decoder_task_ids': np.zeros_like(targets),
    'decoder_loss_weights': ones.astype(np.float32),
  })  # fmt: skip
  jax.set_mesh(mesh)
  made = steps.make_train_step(model, losses.Objective(), optimizer, seed=0)
  step = train_state.jit_update(made, state)

  def update():
    nonlocal state
    state, metrics = step(state, batch)
    return metrics['loss']

  return update


def torch(options: argparse.Namespace) -> Callable[[], Any]:
  """An update of transformers' T5."""
  import torch
  import transformers

  model = _model(options)
  device = torch.device(options.platform)
  config = transformers.T5Config(
    vocab_size=VOCAB_SIZE, d_model=model.emb_dim, d_kv=model.head_dim, d_ff=model.mlp_dim,
    num_layers=model.num_encoder_layers, num_decoder_layers=model.num_decoder_layers,
    num_heads=model.num_heads, feed_forward_proj='gated-gelu', tie_word_embeddings=False,
    dropout_rate=model.dropout_rate, attn_implementation='sdpa', use_cache=False,
    decoder_start_token_id=0,
  )  # fmt: skip
  torch.manual_seed(0)
  torch.set_float32_matmul_precision('high')
  network = transformers.T5ForConditionalGeneration(config).to(device).train()
  optimizer = torch.optim.AdamW(
    network.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=device.type == 'cuda'
  )
  inputs, targets = (torch.tensor(x, dtype=torch.long).to(device) for x in _tokens(options.batch))
  forward = torch.compile(lambda: network(input_ids=inputs, labels=targets).loss)

  def update():
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, torch.bfloat16):
      loss = forward()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
    optimizer.step()
    return loss.detach()

  return update


SIDES = {'ours': ours, 'torch': torch}


def serve(options: argparse.Namespace) -> None:
  """Answers requests of `steps` updates, and what two matrices' product takes."""
  from dss_jax.models import flops

  tokens = options.batch * (INPUTS + TARGETS)
  needed = flops.train_step(_model(options), options.batch, INPUTS, TARGETS)
  update = None

  def answer(steps: int = 0, peak: bool = False) -> dict[str, Any]:
    nonlocal update
    if peak:
      return {'flops': matmul_rate(SIDE if options.platform == 'cuda' else SIDE // 8)}
    update = update or SIDES[options.side](options)
    float(update())
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(steps):
      loss = update()
    loss = float(loss)  # waits
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    return {
      'rate': tokens * steps / seconds,
      'unit': 'tokens',
      'processor_seconds': worked / (tokens * steps),
      'flops_a_token': needed / tokens,
      'loss': loss,
    }

  pairs.serve(answer)


def matmul_rate(side: int) -> float:
  """FLOPs a second of a product of two bfloat16 matrices, the median of ten times twenty."""
  import jax
  import jax.numpy as jnp

  x = jnp.ones((side, side), jnp.bfloat16)
  product = jax.jit(lambda a, b: (a @ b) * jnp.bfloat16(1 / side))
  jax.block_until_ready(product(x, x))
  times = []
  for _ in range(10):
    began, y = time.perf_counter(), x
    for _ in range(20):
      y = product(y, x)
    jax.block_until_ready(y)
    times.append((time.perf_counter() - began) / 20)
  return 2 * side**3 / float(np.median(times))


def _model(options: argparse.Namespace):
  model = tpu_steps.model_of(options.model, 'gpu')
  return dataclasses.replace(model, remat_policy=options.remat, scan_layers=not options.unrolled)


def _tokens(rows: int) -> tuple[np.ndarray, np.ndarray]:
  random = np.random.default_rng(0)
  return tuple(random.integers(2, VOCAB_SIZE, (rows, n), dtype=np.int32) for n in (INPUTS, TARGETS))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
  parser.add_argument('--model', default='base', help='a file of gin/models/t5_1_1')
  parser.add_argument('--batch', type=int, default=32, help='rows')
  parser.add_argument('--remat', default='none', help='REMAT_POLICY of ours')
  parser.add_argument('--unrolled', action='store_true', help='SCAN_LAYERS False')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--steps', type=int, default=20, help='updates of each side in a round')
  parser.add_argument('--platform', choices=('cuda', 'cpu'), default='cuda')
  parser.add_argument('--side', choices=SIDES, help=argparse.SUPPRESS)
  parser.add_argument('--json', help='a file for the figures')
  return parser


if __name__ == '__main__':
  os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.45')  # the other side has the rest
  sys.exit(main())
