"""The real data sets of the benchmarks: prepared, with a vocabulary, and tokenised.

Owns where they are kept (--work) and how they are made: by `dss prepare` and `dss vocab`, once.
The raw files are those of the paper's release, in --raw_dir or $DSS_RAW_DIR.
"""

import argparse
import importlib
import os
import pathlib
import subprocess
import sys

from dss_jax.data import pipeline

VOCABULARY_SIZE = 8000


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """--work, --raw_dir and --vocabulary."""
  parser.add_argument('--work', required=True, type=pathlib.Path, help='a folder, kept')
  parser.add_argument('--raw_dir', default=os.environ.get('DSS_RAW_DIR'), help='or $DSS_RAW_DIR')
  parser.add_argument('--vocabulary', help='a .model file; default: 8,000 pieces of the data set')


def prepare(options: argparse.Namespace, dataset: str) -> tuple[str, str]:
  """The data folder that holds `dataset`, and the vocabulary's file."""
  options.work.mkdir(parents=True, exist_ok=True)
  folder = str(options.work.absolute() / 'data')
  if not (pathlib.Path(folder) / 'dss' / dataset).is_dir():
    if not options.raw_dir:
      raise SystemExit('--raw_dir, or DSS_RAW_DIR, says where the raw files of the release are.')
    _dss('prepare', f'--dataset={dataset}', f'--raw_dir={options.raw_dir}', f'--data_dir={folder}')
  model = options.vocabulary or str(options.work.absolute() / f'{dataset}.model')
  if not pathlib.Path(model).exists():
    size = f'--size={VOCABULARY_SIZE}'
    _dss('vocab', f'--task={dataset}_dss', f'--data_dir={folder}', f'--output={model}', size)
  return folder, model


def load(folder: str, vocabulary: str, mixture: str) -> tuple[list[pipeline.TaskExamples], int]:
  """The tokenised train split of a mixture, and the rows that the embedding needs."""
  os.environ['TFDS_DATA_DIR'] = folder
  tasks = importlib.import_module('dss_jax.tasks')
  from dss_jax.tasks.vocabulary import padded_vocab_size

  size = padded_vocab_size(tasks.set_vocabulary(vocabulary))
  return pipeline.load_mixture(mixture, 'train'), size


def _dss(*arguments: str) -> None:
  subprocess.run([sys.executable, '-m', 'dss_jax', *arguments], check=True, stdout=sys.stderr)
