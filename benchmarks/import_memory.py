"""Memory and time of `dss import`: random weights of a size, written as Hugging Face's, imported.

    python benchmarks/import_memory.py --model=models/t5_1_1/large.gin [--folder=DIR]

Prints JSON: bytes of the weights, of the largest single tensor, the peak of the importing
process's memory over what it uses before it reads (anonymous pages: what the weights cost), the
ratio of that to the weights, and seconds. Needs twice the weights on the disk, while it runs.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from dss_jax.checkpoints import transfer
from dss_jax.checkpoints.hf import huggingface
from dss_jax.models import t5
from dss_jax.settings import gin_files

VOCAB_SIZE = 32128
POLL_SECONDS = 0.02


class _Random:
  """Stands for an array [layers, ...] or [...]: makes each part when it is asked for."""

  def __init__(self, shape: tuple[int, ...]):
    self.shape = shape

  def __iter__(self):
    return (_random(self.shape[1:]) for _ in range(self.shape[0]))

  def __array__(self, dtype=None, copy=None):
    return _random(self.shape)


def _random(shape: tuple[int, ...]) -> np.ndarray:
  return np.random.default_rng(math.prod(shape)).standard_normal(shape, np.float32)


def _write(model: str, folder: pathlib.Path) -> dict[str, tuple[int, ...]]:
  """Writes the weights; returns the shapes of our arrays."""
  arguments = [
    f'--gin_file={model}', f'--vocab_size={VOCAB_SIZE}', '--vocabulary=bytes', '--model_dir=unused',
    '--gin_file=datasets/svamp.gin',
  ]  # fmt: skip
  gin_files.parse(arguments, 'runs/train.gin')
  network = gin_files.configured('run_config.RunConfig').model
  shapes = {path: leaf.shape for path, leaf in transfer.flatten(t5.abstract(network)[0]).items()}
  folder.mkdir(parents=True)
  huggingface.write(folder, network, {path: _Random(shape) for path, shape in shapes.items()})
  return shapes


def _anonymous_bytes(process: int) -> int:
  try:
    status = pathlib.Path(f'/proc/{process}/status').read_text()
  except OSError:
    return 0
  values = dict(line.split(':', 1) for line in status.splitlines())
  return int(values.get('RssAnon', '0 kB').split()[0]) * 1024


def _peak(command: list[str]) -> tuple[int, float, str]:
  """Runs a command; returns the peak of its anonymous memory, seconds, and its last line."""
  started = time.perf_counter()
  peak = 0
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    while process.poll() is None:
      peak = max(peak, _anonymous_bytes(process.pid))
      time.sleep(POLL_SECONDS)
    last = process.stdout.read().splitlines()[-1]
  if process.returncode:
    raise SystemExit(process.returncode)
  return peak, time.perf_counter() - started, last


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--model', default='models/t5_1_1/large.gin')
  parser.add_argument('--folder', help='where a folder is made, and removed at the end')
  options = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=options.folder) as made:
    folder = pathlib.Path(made)
    shapes = _write(options.model, folder / 'hf')
    # What the program needs without any weights to speak of: the same command on a tiny model.
    _write('models/t5_1_1/tiny.gin', folder / 'tiny')
    found = {}
    for name in ('tiny', 'hf'):
      command = [sys.executable, '-m', 'dss_jax', 'import', '--from=hf']
      paths = [f'--path={folder / name}', f'--output={folder / name}_out']
      found[name] = _peak([*command, *paths])
  weights = 4 * sum(math.prod(shape) for shape in shapes.values())
  added = found['hf'][0] - found['tiny'][0]
  print(
    json.dumps(
      {
        'model': options.model,
        'weights_bytes': weights,
        'largest_array_bytes': 4 * max(math.prod(shape) for shape in shapes.values()),
        'program_bytes': found['tiny'][0],
        'peak_bytes': found['hf'][0],
        'peak_over_weights': round(added / weights, 3),
        'seconds': round(found['hf'][1], 1),
        'import': json.loads(found['hf'][2]),
      }
    )
  )


if __name__ == '__main__':
  main()
