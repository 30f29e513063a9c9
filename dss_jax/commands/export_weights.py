"""`dss export`: a student of ours as a model of Hugging Face or as a checkpoint of T5X.

Owns the command: what is read, what is written in which order, the comparison of what
was written with what was read, and that no partial output is left. Its options are
export_flags.py's, formats checkpoints/'s, the model card model_card.py's.
"""

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio
from etils import epath

from dss_jax.checkpoints import finished, manager, moments, transfer
from dss_jax.checkpoints.hf import huggingface, tokenizer
from dss_jax.checkpoints.t5x import t5x, t5x_adafactor
from dss_jax.commands import export_flags, t5x_texts
from dss_jax.inference import evaluator
from dss_jax.models import t5
from dss_jax.models.t5 import T5Config
from dss_jax.parallel import partitioning
from dss_jax.runs import card_facts, file_names, model_card, pretrained, run_config
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import arguments, fields, json_form, plain_files, whole_files, whole_folders
from dss_jax.settings.printable import printable
from dss_jax.tasks import set_vocabulary
from dss_jax.training import optimizers, train_state

README = 'README.md'
COMPARED = 2000  # inputs of the validation split that the tokenizer is compared on


class _Checkpoint(NamedTuple):
  """What is exported.

  Attributes:
    folder: of `dss train` or `dss import`.
    values: of its config.json.
    run: its settings, or None where it was only imported.
    model: the network.
    step: of the checkpoint.
    params: by path, on the host.
    moments: the optimizer's state as `moments.moments_of` gives it, or None.
    fingerprint: of the data of training, or None.
  """

  folder: epath.Path
  values: Mapping[str, Any]
  run: run_config.RunConfig | None
  model: T5Config
  step: int
  params: dict[transfer.Path, Any]
  moments: dict[str, Any] | None
  fingerprint: int | None


def main(argv: Sequence[str]) -> int:
  """Runs `dss export`; returns the exit code."""
  given = options(argv)
  print(json.dumps({'output': given.output, **_export(given)}))
  return 0


def _export(given: argparse.Namespace) -> dict[str, Any]:
  """Exports into a new or empty folder; returns the summary of `export`."""
  output = whole_files.absolute(fields.expanded(given.output))
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise ValueError(f'OUTPUT {output} exists and is not empty; name a new folder, or empty it.')
  if RunFolder(output.parent.parent).checkpoints_folder == output.parent:
    raise ValueError(f'OUTPUT {output} would be a checkpoint of a run; name another folder.')
  what = (given.checkpoint, given.step, given.to)
  has_module = bool(given.modules)
  if '://' in str(output):
    with tempfile.TemporaryDirectory(prefix='dss-export-') as folder:
      summary = export(*what, pathlib.Path(folder), output, has_module)
      _upload(pathlib.Path(folder), output)
      return summary
  with whole_folders.new_folder(output) as temporary:
    return export(*what, pathlib.Path(temporary), output, has_module)


def _upload(folder: pathlib.Path, output: epath.Path) -> None:
  """Copies all of a folder into a bucket, where nothing can be renamed, or nothing."""
  try:
    for path in sorted(path for path in folder.rglob('*') if path.is_file()):
      epath.Path(path).copy(output / path.relative_to(folder).as_posix())
  except BaseException:
    output.rmtree(missing_ok=True)
    raise


def export(
  checkpoint: str,
  step: int | str,
  program: str,
  folder: pathlib.Path,
  output: epath.Path,
  has_module: bool = False,
) -> dict[str, Any]:
  """Writes a checkpoint for another program and compares it with what was read.

  Args:
    checkpoint: a folder of `dss train` or `dss import`.
    step: 'best', 'latest' or a number.
    program: 'hf' or 't5x'.
    folder: exists and is empty.
    output: the path that `folder` will have in the end.
    has_module: whether the command line named the module of the run's tasks, which is imported.

  Returns:
    JSON values: program, step, tensors and bytes that were compared, and, for hf, how many texts
      the tokenizer encoded, and how many of them differently from our vocabulary.

  Raises:
    ValueError: there is no such checkpoint, or it does not read back as it was written.
  """
  source = _read(epath.Path(fields.expanded(checkpoint)), step, with_state=program == 't5x')
  if program == 'hf':
    written = _write_huggingface(source, folder, output.name, has_module)
  else:
    written = _write_t5x(source, folder, output)
  return {'to': program, 'step': source.step, **written}


def _read(folder: epath.Path, step: int | str, with_state: bool) -> _Checkpoint:
  """Reads a checkpoint; with the optimizer's state if asked for."""
  path = RunFolder(folder).settings_file
  values = RunFolder(folder).load_values() if plain_files.exists(path) else {}
  if 'model' not in values:
    raise ValueError(
      f'{folder} holds no {file_names.SETTINGS} with a model; CHECKPOINT is a folder that '
      '`dss train` or `dss import` wrote.'
    )
  run = RunFolder(folder).load_settings() if 'train_steps' in values else None
  model = json_form.from_dict(T5Config, values['model'], f'{path}: model')
  saved = RunFolder(folder).read_checkpoints()
  try:
    number = saved.resolve(step)
    state = None
    if run is not None and with_state:
      mesh = partitioning.make_mesh(partitioning.MeshConfig())
      optimizer = optimizers.make_optimizer(run.optimizer, t5.logical_axes(model))
      abstract_state = train_state.abstract(model, optimizer, mesh)
      restored, _ = saved.restore(number, abstract_state)
      params, state = restored.params, moments.moments_of(restored.opt_state)
    else:
      params = saved.restore_params(number, partitioning.on_host(t5.abstract(model)[0]))
    fingerprint = saved.data_state(number).get('fingerprint') if run is not None else None
  finally:
    saved.close()
  if run is None and with_state and manager.has_moments(RunFolder(folder).checkpoints_folder):
    state = manager.load_moments(RunFolder(folder).checkpoints_folder)
  flat = transfer.flatten(params)
  _check_finite(folder, number, flat)
  if state is not None:
    for kind in moments.kinds(state):
      _check_finite(folder, number, transfer.flatten(state[kind]))
  return _Checkpoint(folder, values, run, model, number, flat, state, fingerprint)


def _check_finite(folder: epath.Path, step: int, arrays: Mapping[transfer.Path, Any]) -> None:
  for path, array in arrays.items():
    if not transfer.is_finite(np.asarray(array)):
      raise ValueError(
        f'{"/".join(path)} of {folder}, step {step}, holds NaN or infinity, so no program could '
        'use it; --step names another checkpoint.'
      )


def _set_up(source: _Checkpoint) -> seqio.Vocabulary | None:
  """The vocabulary of a checkpoint, which becomes the process's; None where it has none."""
  name = RunFolder(source.folder).vocabulary(source.values)
  return set_vocabulary(name) if name else None


# ---------------------------------------------------------------- Hugging Face


def _write_huggingface(
  source: _Checkpoint, folder: pathlib.Path, name: str, has_module: bool
) -> dict[str, Any]:
  vocabulary = _set_up(source)
  if vocabulary is None:
    raise ValueError(
      f'{source.folder} has no vocabulary, without which transformers cannot use it: put the '
      f'SentencePiece model that it was trained with there, as {file_names.VOCABULARY}.'
    )
  facts = _facts(source, vocabulary, name, has_module)
  length = max(card_facts.output_lengths(facts).values())
  huggingface.write(folder, source.model, source.params, length)
  compared = _compare(huggingface.open_pretrained(str(folder)), source)
  lengths = source.run.data.task_feature_lengths if source.run else {}
  agreements = tokenizer.write(
    folder, vocabulary, _rows(source.model), lengths.get('inputs'), _inputs(facts)
  )
  for kind, agreement in agreements.items():
    if agreement.different:
      print(
        f'warning: tokenizer.json gives other ids than our vocabulary to {agreement.different} of '
        f'{agreement.texts} {kind}, such as {agreement.example!a}; {tokenizer.SENTENCEPIECE} gives '
        'ours (see "Where this loads" in the README.md)',
        file=sys.stderr,
      )
  size = sum(array.size for array in source.params.values())
  (folder / README).write_text(model_card.card(facts, size, agreements), encoding='utf-8')
  return {
    **compared,
    'tokenizer_texts': sum(agreement.texts for agreement in agreements.values()),
    'tokenizer_different': sum(agreement.different for agreement in agreements.values()),
  }


def _inputs(facts: card_facts.Facts) -> list[str]:
  """Real texts to compare the tokenizer on: of the validation split, where the data is there."""
  if facts.run is None or isinstance(facts.data, str) or facts.data.question is None:
    return []
  task = run_config.evaluation_task(facts.run)
  examples = evaluator.load_examples(task, facts.run.eval.split, COMPARED)
  return list(examples.texts['inputs_pretokenized'])


def _rows(model: T5Config) -> int:
  """Rows of the embedding, which a saved network knows."""
  assert model.vocab_size is not None
  return model.vocab_size


def _facts(
  source: _Checkpoint, vocabulary: seqio.Vocabulary, name: str, has_module: bool
) -> card_facts.Facts:
  """The facts for the model card; without the module of the run's tasks, its settings alone."""
  if source.run is None:
    origin = source.values.get('source')
    origin = origin if isinstance(origin, str) else None
    return card_facts.Facts(name, source.model, vocabulary, source.step, origin)
  run = source.run
  try:
    RunFolder(source.folder).check_module(has_module)
  except ValueError as error:
    print(f'note: the model card says less of the data: {printable(str(error))}', file=sys.stderr)
  else:
    run = run_config.set_up_tasks(run)
  return card_facts.of_run(name, run, vocabulary, source.step, source.fingerprint)


# ---------------------------------------------------------------- T5X


def _write_t5x(source: _Checkpoint, folder: pathlib.Path, output: epath.Path) -> dict[str, Any]:
  state = None if source.moments is None else moments.optimizer_of(source.moments)
  if state == 'Adafactor' and not t5x_adafactor.is_kept(source.model):
    print("Adafactor's state is left out: T5X factors layers smaller than 128", file=sys.stderr)
    source, state = source._replace(moments=None), None
  # A run that went on with a checkpoint's state has made fewer updates than that state has seen.
  step = source.step if source.moments is None else int(source.moments['step'])
  place = f'checkpoint_{step}'
  t5x.write(str(folder / place), source.model, source.params, source.step, source.moments)
  compared = _compare(t5x.open_pretrained(str(folder / place)), source)
  vocabulary = _set_up(source)
  model = None if vocabulary is None else tokenizer.sentencepiece_path(vocabulary)
  if model is not None:
    copied = folder / file_names.VOCABULARY
    copied.write_bytes(epath.Path(model).read_bytes())
  optimizer = source.run.optimizer if source.run else optimizers.OptimizerConfig(decay_steps=1)
  gin = t5x_texts.gin(
    source.model,
    vocabulary,
    output / file_names.VOCABULARY,
    optimizer if state == 'AdamW' else None,
  )
  (folder / t5x_texts.GIN).write_text(gin, encoding='utf-8')
  method = source.run.method if source.run else None
  readme = t5x_texts.readme(output, place, step, source.model, method, state)
  (folder / README).write_text(readme, encoding='utf-8')
  return {**compared, 'optimizer_state': state}


# ---------------------------------------------------------------- comparing


def _compare(written: transfer.Pretrained, source: _Checkpoint) -> dict[str, int]:
  """Reads everything back, compares it with the source and counts it.

  Raises:
    ValueError: something is not bit for bit the same.
  """
  changed = json_form.differences(source.model, written.config, ignore=pretrained.NETWORK_CHOICES)
  if changed:
    raise ValueError(
      f'the network that was written reads back with other settings: {"; ".join(changed)}.'
    )
  parts = [(written.recipe, source.params)]
  if source.moments is not None:
    if written.moments is None or written.moments.step != int(source.moments['step']):
      raise ValueError("the optimizer's state does not read back as it was written.")
    for kind in moments.kinds(source.moments):
      recipe = getattr(written.moments, kind)
      parts.append((recipe, transfer.flatten(source.moments[kind])))
  tensors = size = 0
  for recipe, arrays in parts:
    if set(recipe) != set(arrays):
      raise ValueError('the tensors that were written read back with other names; check the disk.')
    for path, leaf in recipe.items():
      size += _compare_leaf(path, leaf, written.tensors, arrays[path])
      tensors += len(leaf.names)
  return {'tensors': tensors, 'bytes': size}


def _compare_leaf(path: transfer.Path, leaf: transfer.Leaf, tensors: Any, array: Any) -> int:
  """Compares one of our arrays, layer by layer if written so; returns its size in bytes."""
  rows = range(array.shape[0]) if leaf.per_layer else [None]
  for row in rows:
    index = (slice(None) if row is None else slice(row, row + 1),)
    index += (slice(None),) * (array.ndim - 1)
    ours = np.ascontiguousarray(np.asarray(array[index]))
    theirs = np.empty(ours.shape, ours.dtype)
    transfer.read(leaf, tensors, index, theirs)
    if ours.tobytes() != theirs.tobytes():
      raise ValueError(f'{"/".join(path)} does not read back as it was written; check the disk.')
  return array.nbytes


def options(argv: Sequence[str]) -> argparse.Namespace:
  """The flags of a command line, checked without reading anything; imports their modules."""
  given = export_flags.parser().parse_args(argv)
  given.step = finished.step_of(given.step)
  arguments.import_modules(given.modules)
  return given
