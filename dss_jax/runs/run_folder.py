"""A run folder: the name of every file in it, and reading and writing them.

Owns the layout of MODEL_DIR, local or gs://:

    config.json                       the settings: a RunConfig, or what `dss import` wrote
    config.gin                        the operative gin configuration
    spiece.model                      the vocabulary, where it is a SentencePiece model
    metrics.jsonl                     one row a logged step or validation
    events.*                          the same for TensorBoard
    checkpoints/                      see checkpoints/manager.py
    <task>_<split>_<step>[_<decoding>].jsonl    records of `dss evaluate`, one an example
    <task>_<split>_<step>[_<decoding>].json     the summary of those records
    .lock                             held by the training that writes here

What the settings mean is run_config.py's; what a checkpoint holds is checkpoints/manager.py's.
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import fnmatch
import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TextIO

from etils import epath

from dss_jax.checkpoints import finished, manager
from dss_jax.parallel import distributed
from dss_jax.runs import run_config
from dss_jax.runs.file_names import CHECKPOINTS, GIN, METRICS, SETTINGS, VOCABULARY
from dss_jax.runs.run_config import RunConfig
from dss_jax.settings import fields, json_form, plain_files, whole_files
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.printable import one_line

_MENDED = 'Put a copy of it back, or remove it: the `dss train` that made the run writes it again.'
_NO_FOLDER = (
  errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP,
)  # fmt: skip


class InUseError(ConfigError):
  """Another process writes to a run folder."""


class EvaluationFiles(NamedTuple):
  """Where an evaluation is written: a file of records (.jsonl) and their summary (.json)."""

  records: epath.Path
  summary: epath.Path


class SavedEvaluation(NamedTuple):
  """An evaluation that was read back.

  Attributes:
    summary: task, split, step, examples, decoding and metrics.
    records: the file with a record of each example; it may have been deleted.
  """

  summary: dict[str, Any]
  records: epath.Path


class RunFolder:
  """The files of one run.

  Args:
    path: MODEL_DIR, local or gs://; it need not exist yet.
  """

  def __init__(self, path: epath.PathLike):
    self.path = epath.Path(path)
    self.settings_file = self.path / SETTINGS
    self.gin_file = self.path / GIN
    self.vocabulary_file = self.path / VOCABULARY
    self.metrics_file = self.path / METRICS
    self.events_folder = self.path
    self.checkpoints_folder = self.path / CHECKPOINTS

  def __str__(self) -> str:
    return str(self.path)

  @contextlib.contextmanager
  def lock(self) -> Iterator[None]:
    """Makes the folder, and keeps every other training out of it.

    The main process does so for all of a run. The lock ends with the process, however that ends. A
    bucket has no locks.

    Raises:
      ValueError: another training writes here, or nothing can be written here.
    """
    if '://' in str(self) or not distributed.is_main():
      yield
      return
    with self._open_lock() as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        file.seek(0)
        raise InUseError(
          f'another training writes to {self} ({file.read(200)}): wait for its end, or choose '
          'another MODEL_DIR.'
        ) from None
      except OSError as error:
        distributed.log(
          f'warning: {self} cannot be locked ({error.strerror}): nothing keeps a second training '
          'out of it'
        )
      now = datetime.datetime.now(datetime.UTC).isoformat(' ', 'seconds')
      holder = f'process {os.getpid()} of {socket.gethostname()}, since {now}'
      with contextlib.suppress(OSError):  # on a full disk the lock says nothing of its holder
        file.truncate(0)
        os.write(file.fileno(), holder.encode())
      yield

  def _open_lock(self) -> TextIO:
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      if plain_files.problem(self.path / '.lock') == plain_files.SPECIAL:
        raise ConfigError(f'{self.path / ".lock"} is {plain_files.SPECIAL}; remove it.')
      flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
      return open(os.open(self.path / '.lock', flags, 0o666), 'a+', encoding='utf-8')
    except OSError as error:
      if error.errno not in _NO_FOLDER:
        raise
      reason = error.strerror
      if isinstance(error, FileExistsError):
        reason = f'{error.filename} is {plain_files.problem(error.filename) or "a file"}'
      raise ValueError(f'MODEL_DIR {self} cannot be written: {reason}; choose another.') from error

  def owns(self, path: epath.PathLike) -> bool:
    """Whether a path is one of the files that every run has, whatever links lead to it."""
    files = (self.settings_file, self.gin_file, self.vocabulary_file, self.metrics_file)
    return os.path.realpath(path) in map(os.path.realpath, files)

  # Settings

  def load_settings(self) -> RunConfig:
    """The run's settings, with model_dir and vocabulary set to where the folder is now.

    The module of its tasks is left out: a folder may be anybody's, and a module is code. See
    `check_module`.

    Raises:
      ValueError: there is no run, or its settings are damaged.
    """
    return dataclasses.replace(self._saved_settings(), module=None)

  def _saved_settings(self) -> RunConfig:
    if not plain_files.exists(self.settings_file):
      raise ValueError(f'{self} holds no run: no {SETTINGS}; MODEL_DIR is what `dss train` wrote.')
    values = self.load_values()
    self._refuse_foreign(values)
    values |= {'model_dir': str(self)}
    if vocabulary := self.vocabulary(values):
      values['vocabulary'] = vocabulary
    try:
      return json_form.from_dict(RunConfig, values, str(self.settings_file))
    except ConfigError as error:
      raise ConfigError(f'{error} {_MENDED}') from error

  def refuse_foreign(self) -> None:
    """Raises ValueError if config.json is there and is no run's."""
    if self.settings_file.exists():
      self._refuse_foreign(self.load_values())

  def _refuse_foreign(self, values: Mapping[str, Any]) -> None:
    if 'train_steps' in values:
      return
    what = 'weights of `dss import`; start from them by INITIAL_CHECKPOINT_PATH'
    if 'model' not in values:
      what = f'a {SETTINGS} of another program'
    raise ConfigError(f'MODEL_DIR {self} holds {what}. Name a folder of `dss train`, or a new one.')

  def check_module(self, is_named: bool) -> None:
    """Raises ValueError if the run's tasks come from a module and the command line names none."""
    module = None if is_named else self._saved_settings().module
    if module:
      raise ValueError(
        f'the tasks of the run in {self} come from the module {module}, which is not imported '
        f'unless the command line names it: if you trust it, give --module={module}.'
      )

  def load_values(self) -> dict[str, Any]:
    """config.json as plain values: a run's, or what `dss import` wrote about imported weights.

    Raises:
      ValueError: the file is not a JSON object.
    """
    try:
      return json_form.read_object(self.settings_file)
    except ConfigError as error:
      raise ConfigError(f'{error} {_MENDED}') from error

  def save_settings(self, run: RunConfig) -> None:
    """Writes config.json for a run; makes the folder."""
    self.save_values(json_form.to_dict(run))

  def save_values(self, values: Mapping[str, Any]) -> None:
    """Writes config.json; makes the folder."""
    self.path.mkdir(parents=True, exist_ok=True)
    whole_files.write_text(self.settings_file, json.dumps(values, indent=2) + '\n')

  def check_same_run(self, run: RunConfig) -> None:
    """Checks that `run` may continue this folder's run, with the process's vocabulary.

    Raises:
      ValueError: the vocabulary or a setting that learning depends on differs; the message says
        which.
    """
    if self.settings_file.exists():
      before = self._saved_settings()
      if before.method is None and run.method is not None:
        before = _with_method(before, run)
      changed = json_form.differences(before, run, ignore=run_config.MAY_CHANGE_ON_RESUME)
      if changed:
        raise ValueError(
          f'{self} holds a run with other settings; choose another MODEL_DIR, or set back '
          '(there -> now):\n  ' + '\n  '.join(changed)
        )
    kept = self.vocabulary(self.load_values() if self.settings_file.exists() else {})
    run_config.check_vocabulary(kept or 'bytes', f'the run in {self}')

  def vocabulary(self, values: Mapping[str, Any]) -> str | None:
    """The vocabulary of the weights in this folder; a file elsewhere is never read.

    Args:
      values: of config.json.

    Returns:
      The path of the folder's SentencePiece model, 'bytes', or None where there is none.

    Raises:
      ValueError: the model that was here is missing or damaged.
    """
    from dss_jax.tasks.vocabulary import load_model

    source = values.get('vocabulary')
    if source in (None, 'bytes') and not self.vocabulary_file.exists():
      return source
    try:
      load_model(str(self.vocabulary_file))
    except ValueError as error:
      origin = 'dss import' if source in (None, VOCABULARY) else one_line(str(source), 200)
      raise ConfigError(
        f'the vocabulary that the weights in {self} were trained with is lost: {error} It was '
        f'copied there from {origin}: put a copy of that one there again, as {VOCABULARY}.'
      ) from error
    return str(self.vocabulary_file)

  def save_vocabulary(self, model: bytes) -> None:
    """Writes a SentencePiece model, from which all later use of the run reads its vocabulary."""
    whole_files.write_bytes(self.vocabulary_file, model)

  def load_gin(self) -> str | None:
    """The operative gin configuration, to show and never to parse; None where there is none."""
    return json_form.read_text(self.gin_file) if self.gin_file.exists() else None

  def save_gin(self, text: str) -> None:
    """Writes the operative gin configuration."""
    whole_files.write_text(self.gin_file, text)

  # Metrics

  def metric_rows(self) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, in order: {"step": .., "kind": .., <metrics>}.

    Raises:
      ValueError: a line is none; the message names it.
    """
    return [row for _, row in self._metric_lines()]

  def append_metric_row(self, row: Mapping[str, Any]) -> None:
    """Adds a row to metrics.jsonl."""
    with whole_files.naming(self.metrics_file), self.metrics_file.open('a') as file:
      file.write(json.dumps(dict(row)) + '\n')

  def drop_metric_rows_after(self, step: int) -> None:
    """Removes from metrics.jsonl what a killed process left: rows of later steps and half a row.

    Raises:
      ValueError: a line is no row.
    """
    kept = [line for line, row in self._metric_lines() if row['step'] <= step]
    whole_files.write_text(self.metrics_file, ''.join(f'{line}\n' for line in kept))

  def _metric_lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines that end in a newline, with their rows; a killed process may leave half a line."""
    file = self.metrics_file
    lines = json_form.read_text(file).split('\n')[:-1] if file.exists() else []
    for number, line in enumerate(lines, start=1):
      yield line, _metric_row(line, f'{file}, line {number}')

  # Checkpoints

  def saved_steps(self) -> list[int]:
    """Steps of the finished checkpoints, in order; opens and changes nothing."""
    return finished.saved_steps(self.checkpoints_folder)

  def open_checkpoints(self, keep: int = 1) -> manager.Checkpoints:
    """The checkpoints, to save more; half-written ones are removed.

    Args:
      keep: how many of the latest are kept, besides the best.
    """
    return manager.Checkpoints(self.checkpoints_folder, keep)

  def read_checkpoints(self) -> manager.Checkpoints:
    """The checkpoints, to read only.

    Raises:
      ValueError: there are none.
    """
    return manager.Checkpoints(self.checkpoints_folder, read_only=True)

  # Evaluations

  def evaluation_files(
    self, task: str, split: str, step: int, decoding: str = 'greedy'
  ) -> EvaluationFiles:
    """Where `dss evaluate` writes an evaluation; greedy decoding is not part of the name."""
    suffix = '' if decoding == 'greedy' else f'_{decoding}'
    name = f'{task}_{split}_{step}{suffix}'
    return EvaluationFiles(self.path / f'{name}.jsonl', self.path / f'{name}.json')

  def evaluations(self, step: int | None = None) -> Iterator[SavedEvaluation]:
    """The evaluations of a step, or of all steps, in the order of their files' names.

    Raises:
      ValueError: a file is not JSON.
    """
    # Not epath's glob, which reads a bracket in the folder's own name as a pattern.
    names = [file.name for file in self.path.iterdir()] if self.path.is_dir() else []
    pattern = '*.json' if step is None else f'*_{step}*.json'
    for file in (self.path / name for name in sorted(fnmatch.filter(names, pattern))):
      try:
        summary = json_form.parse(json_form.read_text(file), str(file))
      except ConfigError as error:
        raise ConfigError(
          f'{error} Remove it; `dss evaluate` writes the summary of an evaluation again.'
        ) from error
      if not _is_summary(summary):
        continue
      if step is None or summary['step'] == step:
        yield SavedEvaluation(summary, file.with_suffix('.jsonl'))


def _is_summary(values: Any) -> bool:
  """Whether a JSON file is the summary of an evaluation: the folder has others too."""
  if not isinstance(values, dict) or not {'step', 'metrics'} <= set(values):
    return False
  types = {'task': str, 'split': str, 'step': int, 'examples': int, 'decoding': dict}
  if not all(fields.fits(values[name], kind) for name, kind in types.items() if name in values):
    return False
  metrics, decoding = values['metrics'], values.get('decoding', {})
  return (
    isinstance(metrics, dict)
    and all(fields.fits(value, float) for value in metrics.values())
    and isinstance(decoding.get('method', ''), str)
    and fields.fits(decoding.get('beams', 1), int)
  )


def _metric_row(line: str, where: str) -> dict[str, Any]:
  try:
    row = json_form.parse(line, where)
  except ConfigError:
    row = None
  if not isinstance(row, dict) or not fields.fits(row.get('step'), int) or 'kind' not in row:
    raise ConfigError(
      f'{where}: expected {{"step": NUMBER, "kind": ..}}, not {line[:80]!r}; remove the line.'
    )
  if row['kind'] == 'validation' and not fields.fits(row.get(manager.BEST_METRIC), float):
    raise ConfigError(f'{where}: a validation has a number "accuracy"; remove the line.')
  return row


def _with_method(before: RunConfig, now: RunConfig) -> RunConfig:
  """The settings of a run that was started before runs noted their method; its task names it.

  A rationale weight of 1 was then the default.
  """
  loss = before.loss
  if loss.rationale_weight == 1.0 and now.loss.rationale_weight is None:
    loss = dataclasses.replace(loss, rationale_weight=None)
  return dataclasses.replace(before, method=now.method, loss=loss)
