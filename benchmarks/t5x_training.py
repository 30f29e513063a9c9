"""The same experiment under `dss train` and under T5X's own trainer, from one checkpoint.

  python benchmarks/t5x_training.py --data_dir=DIR --vocabulary=svamp=svamp.model \
    --vocabulary=cqa=cqa.model --work=FOLDER --curves=FILE.csv

Needs T5X beside us. Owns the comparison: both start from the same random weights of a tiny student,
in T5X's form, and take the same batches. Curves: the loss of every step of both, in the file.
Speed: runs of both in turn on the first data set, not packed, with a line of the log every 25
steps; steps a second are the median of the lines after step 50, memory is the largest that the
process had.
"""

import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from dss_jax.checkpoints import transfer
from dss_jax.checkpoints.t5x import t5x
from dss_jax.models import t5
from dss_jax.runs.run_folder import RunFolder
from dss_jax.tasks.vocabulary import load_vocabulary, padded_vocab_size

SIZES: dict[str, Any] = {
  'emb_dim': 96,
  'num_heads': 4,
  'head_dim': 24,
  'mlp_dim': 192,
  'num_encoder_layers': 2,
  'num_decoder_layers': 2,
}
ENGINES = ('dss train', 'dss t5x')
T5X_GIN = """from __gin__ import dynamic_registration
import __main__ as train_script
from t5x.examples.t5 import network
network.T5Config.vocab_size = {rows}
train_script.train.train_eval_dataset_cfg = None
train_script.train.infer_eval_dataset_cfg = None
"""
SEEN = 50  # steps before those that are timed


class Run(NamedTuple):
  """What a run gave.

  Attributes:
    losses: by step.
    rates: steps a second until the step, by step.
    peak_bytes: the process's largest memory.
    wall: the whole process, in seconds.
    processor: what it used of all cores, in seconds.
  """

  losses: dict[int, float]
  rates: dict[int, float]
  peak_bytes: int
  wall: float
  processor: float


def start_from(vocabulary: str, folder: pathlib.Path) -> tuple[str, int]:
  """A checkpoint of random weights in T5X's form, and the rows of its embedding."""
  rows = padded_vocab_size(load_vocabulary(vocabulary))
  config = t5.T5Config(vocab_size=rows, **SIZES)
  place = folder / 'checkpoint_0'
  if not place.exists():
    t5x.write(str(place), config, transfer.flatten(t5.init(config, jax.random.key(0))), 0)
  return str(place), rows


def command_of(
  engine: str,
  dataset: str,
  folder: pathlib.Path,
  options: argparse.Namespace,
  log: int,
  pack: bool,
) -> list[str]:
  """The command line of a run, after `dss`."""
  vocabulary = options.vocabularies[dataset]
  start, rows = start_from(vocabulary, options.work / dataset)
  settings = {
    'MODEL_DIR': str(folder),
    'VOCABULARY': vocabulary,
    'INITIAL_CHECKPOINT_PATH': start,
    'BATCH_SIZE': options.batch_size,
    'LEARNING_RATE': 2e-3,
    'DROPOUT_RATE': 0.0,
    'LOG_PERIOD': log,
    'SAVE_PERIOD': 10**6,
    'PACK': pack,
    'TRAIN_STEPS': options.steps,
  }
  shared = [f'--gin_file=datasets/{dataset}.gin', '--gin_file=methods/dss.gin']
  if engine == 'dss train':
    settings |= {'TRAIN_STEPS_RELATIVE': settings.pop('TRAIN_STEPS'), 'EVAL_PERIOD': 0}
    flags = [f'--{name.lower()}={value}' for name, value in settings.items()]
    files = ['--gin_file=models/t5_1_1/tiny.gin']
    return ['train', *files, *shared, *flags, f'--data_dir={options.data_dir}']
  more = options.work / f'{dataset}.gin'
  more.write_text(T5X_GIN.format(rows=rows))
  flags = [f'--gin.{name}={value!r}' for name, value in settings.items()]
  files = ['--gin_file=t5x/models/tiny.gin', '--gin_file=t5x/train.gin']
  return [
    't5x',
    *files,
    *shared,
    f'--gin_file={more}',
    *flags,
    f'--tfds_data_dir={options.data_dir}',
  ]


def run(engine: str, dataset: str, options: argparse.Namespace, log: int, pack: bool) -> Run:
  """One run of an engine in a new folder."""
  folder = options.work / f'{engine.replace(" ", "_")}_{dataset}_{time.time_ns()}'
  command = command_of(engine, dataset, folder, options, log, pack)
  began = time.time()
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '3'}
  with (options.work / 'log.txt').open('w') as said:
    process = subprocess.Popen(
      [sys.executable, '-m', 'dss_jax', *command], env=environment, stdout=said, stderr=said
    )
    _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise SystemExit((options.work / 'log.txt').read_text()[-3000:])
  losses, rates = ours(folder, options) if engine == 'dss train' else theirs(folder)
  used = usage.ru_utime + usage.ru_stime
  return Run(losses, rates, usage.ru_maxrss * 1024, time.time() - began, used)


def ours(
  folder: pathlib.Path, options: argparse.Namespace
) -> tuple[dict[int, float], dict[int, float]]:
  """Loss and steps a second that `dss train` logged; steps of unpacked batches."""
  rows = [row for row in RunFolder(folder).metric_rows() if 'loss' in row]
  rates = {row['step']: row.get('examples_per_second', 0) / options.batch_size for row in rows}
  return {row['step']: row['loss'] for row in rows}, rates


def theirs(folder: pathlib.Path) -> tuple[dict[int, float], dict[int, float]]:
  """Loss and steps a second that T5X logged."""
  from tensorboard.backend.event_processing import event_accumulator

  events = event_accumulator.EventAccumulator(str(folder / 'train'), size_guidance={'tensors': 0})
  events.Reload()

  def values(name: str) -> dict[int, float]:
    from tensorboard.util import tensor_util

    return {e.step: float(tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(name)}

  return values('loss'), values('timing/steps_per_second')


def curves(options: argparse.Namespace) -> dict[str, Any]:
  """The losses of both engines at every step of every data set, written to the file."""
  rows, differences = [], {}
  for dataset in options.vocabularies:
    ours, theirs = (run(engine, dataset, options, 1, True).losses for engine in ENGINES)
    steps = sorted(set(ours) & set(theirs))
    assert len(steps) == options.steps, (len(ours), len(theirs))
    rows += [(dataset, step, f'{ours[step]:.6f}', f'{theirs[step]:.6f}') for step in steps]
    apart = [abs(ours[step] - theirs[step]) / ours[step] for step in steps]
    differences[dataset] = {
      'first': ours[1],
      'last': ours[steps[-1]],
      'largest difference': max(apart),
      'at step': steps[int(np.argmax(apart))],
    }
  with options.curves.open('w', newline='') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(('dataset', 'step', *ENGINES))
    writer.writerows(rows)
  return differences


def speed(options: argparse.Namespace) -> dict[str, Any]:
  """Steps a second and memory of both, run in turn."""
  found: dict[str, list[Run]] = {engine: [] for engine in ENGINES}
  dataset = next(iter(options.vocabularies))
  for _ in range(options.pairs):
    for engine in ENGINES:
      found[engine].append(run(engine, dataset, options, 25, False))
  return {
    engine: {
      'steps a second': [
        round(float(np.median([rate for step, rate in one.rates.items() if step > SEEN])), 3)
        for one in runs
      ],
      'peak memory MB': [round(one.peak_bytes / 1e6) for one in runs],
      'whole command s': [round(one.wall, 1) for one in runs],
      'processor s': [round(one.processor, 1) for one in runs],
    }
    for engine, runs in found.items()
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data_dir', required=True, help='what `dss prepare` wrote')
  parser.add_argument('--vocabulary', action='append', required=True, help='DATASET=FILE.model')
  parser.add_argument('--work', required=True, type=pathlib.Path)
  parser.add_argument('--curves', type=pathlib.Path, help='a file; without one, speed alone')
  parser.add_argument('--steps', type=int, default=100)
  parser.add_argument('--batch_size', type=int, default=8)
  parser.add_argument('--pairs', type=int, default=2)
  options = parser.parse_args()
  options.work = options.work.absolute()
  options.work.mkdir(parents=True, exist_ok=True)
  options.vocabularies = dict(text.split('=', 1) for text in options.vocabulary)
  losses = curves(options) if options.curves else {}
  result = {'losses': losses, 'speed': speed(options), 'load': os.getloadavg()}
  print(json.dumps(result, indent=2))


if __name__ == '__main__':
  main()
