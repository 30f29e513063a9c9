"""Real pairs (label + rationale) that a CPU learns from in a second: ours, torch, T5X, in turn.

    python benchmarks/cpu_training.py --work=DIR --raw_dir=DIR [--t5x=DIR[:DIR...]] [--json=FILE]

T5 1.1 small on CQA with the teacher's rationales, float32, dropout, one vocabulary, the paper's
batch of 64 pairs. The sides are training_sides.py's. Padding counts for nothing: a pair counts when
its label and its rationale have both been learned from. `--t5x` names folders of T5X and of what it
imports; `--t5x_python` a Python that has what those need.
"""

import argparse
import json
import pathlib
import statistics
import sys
from typing import Any

import numpy as np
import pairs
import real_data
import training_sides

from dss_jax.data import pipeline
from dss_jax.settings import gin_files, json_form

MODEL_FILE = 'models/t5_1_1/small.gin'
OURS = (  # lengths in the proportion of CQA's (docs/speed.md); 33 such rows hold 64 pairs
  "--task_feature_lengths={'inputs': 184, 'targets': 72}",
  '--batch_size=33',
)
QUARTERS = 4


def main() -> int:
  """Runs the comparison and prints it."""
  options = _parser().parse_args()
  folder = options.work / 'cpu_training'
  fills = lay_out(folder, options)
  here = pathlib.Path(__file__).with_name('training_sides.py')
  sides = []
  for name in ['ours', 'torch', *(['t5x'] if options.t5x else [])]:
    if name in options.without:
      continue
    python = options.t5x_python if name == 't5x' else sys.executable
    path = options.t5x if name == 't5x' else ''
    sides.append(pairs.Side(name, [python, str(here), name, str(folder)], path))
  if not options.t5x:
    print('T5X is left out: --t5x=DIR[:DIR...] names the folders to import it from.')
  try:
    answers = pairs.alternate(sides, options.rounds, steps=options.steps)
  finally:
    for side in sides:
      side.close()
  rows = pairs.summary(answers)
  curves = {name: _curve(found) for name, found in answers.items() if found[0]['losses'][0]}
  print(f'\nReal pairs a second, {options.rounds} rounds of {options.steps} updates:\n')
  print(pairs.table(rows))
  print('\nMean losses (label, rationale) over each quarter of the pairs:\n')
  print(pairs.table([{'side': name, **curve} for name, curve in curves.items()]))
  print(f'\nReal tokens in a row: {fills}')
  found = {'machine': pairs.machine('jax', 'torch', 'transformers'), 'pairs_per_second': rows,
           'losses': curves, 'fill': fills, 'settings': _settings(folder),
           'every_loss': {name: _losses(answers[name]).tolist() for name in curves}}  # fmt: skip
  print(f'\n{found["machine"]}')
  pairs.write_json(options.json, found)
  return 0


def lay_out(folder: pathlib.Path, options: argparse.Namespace) -> dict[str, Any]:
  """Writes what the sides start from; returns how full the rows of ours and of T5X are."""
  import jax

  from dss_jax.checkpoints import transfer
  from dss_jax.checkpoints.hf import huggingface
  from dss_jax.models import t5

  data_folder, vocabulary = real_data.prepare(options, 'cqa')
  mixture, size = real_data.load(data_folder, vocabulary, 'cqa_dss')
  folder.mkdir(exist_ok=True)
  for task, part in zip(training_sides.TASKS, mixture, strict=True):
    arrays = {name: value for name, value in vars(part.examples).items() if name != 'texts'}
    np.savez(folder / f'{task}.npz', **arrays)
  required = ['--vocabulary=bytes', '--model_dir=unused', '--gin_file=datasets/cqa.gin']
  precision = ['--dtype=float32', f'--dropout_rate={training_sides.DROPOUT}']
  gin_files.parse([f'--gin_file={MODEL_FILE}', f'--vocab_size={size}', *required, *precision,
                *OURS, *options.ours], 'runs/train.gin')  # fmt: skip
  run = gin_files.configured('run_config.RunConfig')
  params = jax.jit(t5.init, static_argnums=0)(run.model, jax.random.key(0))
  (folder / 'hf').mkdir(exist_ok=True)
  huggingface.write(folder / 'hf', run.model, transfer.flatten(params))
  settings = {
    'model': json_form.to_dict(run.model),
    'data': json_form.to_dict(run.data),
    'pairs': options.pairs,
    'learning_rate': options.learning_rate,
  }
  fills = {'ours': _fill(mixture, run.data)}
  if options.t5x:
    packed = seqio_packed(mixture)
    np.savez(folder / 'seqio_packed.npz', **packed)
    in_row = packed['decoder_segment_ids'].max(axis=1).mean() / 2
    settings['t5x_rows'] = max(1, round(options.pairs / in_row))
    fills['t5x'] = {side: float((packed[f'{side}coder_segment_ids'] > 0).mean())
                    for side in ('en', 'de')}  # fmt: skip
  (folder / 'settings.json').write_text(json.dumps(settings))
  return fills


def _fill(mixture, batches: pipeline.DataConfig) -> dict[str, float]:
  """Parts of the encoder's and the decoder's places that hold tokens, and pairs a batch."""
  stream = pipeline.TrainBatches(mixture, batches)
  drawn = [next(stream) for _ in range(200)]
  places = {side: np.mean([(batch.arrays[f'{side}coder_segment_ids'] > 0).mean()
                           for batch in drawn]) for side in ('en', 'de')}  # fmt: skip
  return {name: float(value) for name, value in places.items()} | {
    'pairs': float(np.mean([batch.sequences / 2 for batch in drawn]))
  }


def seqio_packed(mixture) -> dict[str, np.ndarray]:
  """One shuffled epoch as SeqIO packs it for T5X in rows of 512 and 256."""
  import seqio
  import tensorflow as tf

  sequences = [one for part in mixture for one in training_sides._sequences(part.examples)]
  order = np.random.default_rng(0).permutation(len(sequences))

  def rows():
    for index in order:
      inputs, targets = sequences[index]
      yield {'inputs': inputs, 'targets': targets}

  spec = tf.TensorSpec([None], tf.int32)
  dataset = tf.data.Dataset.from_generator(rows, output_signature={'inputs': spec, 'targets': spec})
  converter = seqio.EncDecFeatureConverter(pack=True)
  packed = list(converter(dataset, {'inputs': 512, 'targets': 256}).as_numpy_iterator())
  return {name: np.stack([row[name] for row in packed]) for name in packed[0]}


def _curve(answers) -> dict[str, Any]:
  """Mean label and rationale loss over each quarter of a side's updates."""
  losses = _losses(answers)
  parts = np.array_split(losses, QUARTERS)
  means = [' '.join(f'{value:.3f}' for value in part.mean(axis=0)) for part in parts if len(part)]
  count = sum(answer['pairs'] for answer in answers)
  return {f'quarter {i + 1}': mean for i, mean in enumerate(means)} | {
    'pairs': count,
    'seconds an update': statistics.median(
      answer['seconds'] * len(answers) / len(losses) for answer in answers
    ),
  }


def _losses(answers) -> np.ndarray:
  """Label and rationale loss of each of a side's updates, [updates, 2]."""
  return np.array([loss for answer in answers for loss in answer['losses']])


def _settings(folder: pathlib.Path) -> dict[str, Any]:
  return json.loads((folder / 'settings.json').read_text())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
  real_data.add_arguments(parser)
  parser.add_argument('--rounds', type=int, default=5, help='counted, after one that is not')
  parser.add_argument('--steps', type=int, default=2, help='updates of each side in a round')
  parser.add_argument('--pairs', type=int, default=64, help='in a batch of torch and T5X')
  parser.add_argument('--learning_rate', type=float, default=5e-5, help="the paper's by default")
  parser.add_argument('--without', action='append', default=[], choices=('torch', 't5x'))
  parser.add_argument(
    '--ours', action='append', default=[], help='of our model or rows: --ours=--batch_size=8'
  )
  parser.add_argument('--t5x', help='folders of T5X and of what it imports, separated by colons')
  parser.add_argument('--t5x_python', default=sys.executable)
  parser.add_argument('--json', help='a file for the figures')
  return parser


if __name__ == '__main__':
  sys.exit(main())
