"""`dss import`: another program's weights as a checkpoint of ours.

Owns the command: the order, and that no partial output is left. Its options are import_flags.py's,
formats pretrained.py's and checkpoints/'s.
"""

import argparse
import gc
import json
import resource
import sys
import time
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from dss_jax.checkpoints import manager, moments, transfer
from dss_jax.commands import import_flags
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.runs import file_names, pretrained
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import fields, json_form, progress, whole_files, whole_folders


def main(argv: Sequence[str]) -> int:
  """Runs `dss import`; returns the exit code."""
  summary = _import(import_flags.parser().parse_args(argv))
  print(json.dumps(summary))
  return 0


def _import(given: argparse.Namespace) -> dict[str, Any]:
  """Imports into a new folder; returns what the last line of the output says."""
  output = whole_files.absolute(fields.expanded(given.output))
  if output.exists():
    raise ValueError(f'OUTPUT {output} exists already; name a new folder, or remove it.')
  weights = pretrained.open_weights(given.path, getattr(given, 'from'))
  vocabulary = given.vocabulary or weights.vocabulary
  print('\n'.join([f'reading {weights.origin}', *weights.notes]), file=sys.stderr)
  if vocabulary is None:
    print('warning: the weights come without a vocabulary; give --vocabulary, the one they were '
          'trained with, or VOCABULARY when you train.', file=sys.stderr)  # fmt: skip
  started = time.perf_counter()
  with whole_folders.new_folder(output) as temporary, progress.bar('reading', total=3) as advance:
    summary = import_weights(weights, vocabulary, temporary, advance)
  seconds = round(time.perf_counter() - started, 1)
  return {'output': fields.expanded(given.output), **summary, 'seconds': seconds}


def import_weights(
  weights: pretrained.Weights,
  vocabulary: str | None,
  folder: epath.Path,
  advance: progress.Advance = lambda done, name: None,
) -> dict[str, Any]:
  """Writes weights into a new folder and compares what was written with what was read.

  Args:
    weights: opened.
    vocabulary: 'bytes', a SentencePiece model, a folder with one, or None.
    folder: empty, or does not exist yet.
    advance: told of each of the three parts: reading, writing, comparing.

  Returns:
    JSON values: source, parameters (how many), optimizer_state (whose was imported, or None),
      vocabulary and this process's peak memory.

  Raises:
    ValueError: a tensor cannot be read, or differs after writing.
  """
  abstract_params = partitioning.on_host(t5.abstract(weights.config)[0])
  params = weights.load(abstract_params)
  state = weights.load_moments and weights.load_moments()
  advance(1, name='writing')
  folder.mkdir(parents=True, exist_ok=True)
  manager.save_weights(RunFolder(folder).checkpoints_folder, params, state)
  checksums = {path: _checksum(array) for path, array in transfer.flatten(params).items()}
  del params
  gc.collect()
  advance(2, name='comparing')
  _compare(folder, abstract_params, checksums)
  if vocabulary not in (None, 'bytes'):
    from dss_jax.tasks.vocabulary import load_vocabulary, model_path

    model = model_path(vocabulary)
    size = load_vocabulary(model).vocab_size
    if size > weights.config.vocab_size:
      raise ValueError(
        f'the vocabulary {model} has {size} ids, more than the {weights.config.vocab_size} rows of '
        'the embedding; --vocabulary names the one that the weights were trained with.'
      )
    RunFolder(folder).save_vocabulary(epath.Path(model).read_bytes())
  values = {
    'model': json_form.to_dict(weights.config),
    'vocabulary': vocabulary if vocabulary in (None, 'bytes') else file_names.VOCABULARY,
    'source': weights.origin,
  }
  RunFolder(folder).save_values(values)
  return {
    'source': weights.origin,
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(abstract_params)),
    'optimizer_state': state and moments.optimizer_of(state),
    'vocabulary': values['vocabulary'],
    'peak_memory_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
  }


def _checksum(array: jax.Array) -> int:
  return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)


def _compare(folder: epath.Path, abstract_params: Any, checksums: dict[transfer.Path, int]) -> None:
  """Raises ValueError if the tensors in `folder` do not have the checksums of what was read."""
  wrong = []
  saved = RunFolder(folder).checkpoints_folder
  for name, part in abstract_params.items():  # part by part: no more memory than reading needed
    restored = transfer.flatten({name: manager.load_weights(saved, {name: part})[name]})
    wrong += [
      '/'.join(path) for path, array in restored.items() if _checksum(array) != checksums[path]
    ]
    del restored
    gc.collect()  # orbax leaves cycles behind that hold the arrays
  if wrong:
    raise ValueError(
      f'{folder} does not read back as it was written: {", ".join(wrong)}; check the disk.'
    )
