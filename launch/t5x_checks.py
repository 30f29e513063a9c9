"""Whether a job of `dss t5x` can work on its hosts, judged where there may be no T5X.

Owns reading the macros of such a command as text, and what is expected of them before anything is
paid for. What T5X makes of its own settings is only known on the hosts.
"""

import os
import pathlib
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dss_jax import datasets, methods
from dss_jax.launch import job as jobs
from dss_jax.launch.job import Job
from dss_jax.settings import arguments, fields, statements, t5x_names
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.statements import Macro, Statement
from dss_jax.settings.t5x_verdicts import Becomes

RESULT, VOCABULARY, PARTITIONS = 'MODEL_DIR', 'VOCABULARY', 'NUM_PARTITIONS'
INPUTS = ('INITIAL_CHECKPOINT_PATH', arguments.DATA_DIR)
BATCHES = ('BATCH_SIZE', 'EVAL_BATCH_SIZE')
MICROBATCHES = 'NUM_MICROBATCHES'
BOUND = (RESULT, INPUTS[0], *BATCHES, MICROBATCHES, PARTITIONS)  # to one parameter of T5X each


def check(job: Job, more: Sequence[str], uploads: bool) -> tuple[str, ...]:
  """Refuses a command that would fail on the job's hosts; returns the files to ship.

  Args:
    job: the job.
    more: paths of --file.
    uploads: whether the target ships files; else every path is in a bucket.

  Raises:
    ValueError: the message has the setting, what was expected and what was given.
  """
  macros = macros_of(job.command)
  if macros.get(RESULT) is None:
    raise ValueError(f'MODEL_DIR has no value: give {_flag(RESULT)}.')
  named = [(name, value) for name, value in macros.items()
           if name in (VOCABULARY, arguments.MODULE) and isinstance(value, str)]  # fmt: skip
  files = jobs.files_to_ship(job.command, more, named)
  if files and not uploads:
    raise ValueError(f'gke only has the files in --image: put {files[0]} into the bucket, and give '
                     'its gs:// path.')  # fmt: skip
  _check_paths(macros, files)
  _check_task(job, macros)
  _check_rows(job, macros)
  return files


def macros_of(command: Sequence[str]) -> dict[str, Any]:
  """The macros of a command line and of its gin files, those of T5X's own files left out.

  Where the parameter of T5X's that one of BOUND is for has another plain value, that is its value.

  Raises:
    ConfigError: a value is not what gin takes.
  """
  given = arguments.split(command[1:])
  parsed = [one for name in given.files for one in _statements(name, given.search_paths)]
  for name, text in given.overrides:
    value = repr(text.strip('\'"')) if name == arguments.DATA_DIR else text  # it has no quotes
    try:
      parsed += statements.of_text(f'{name} = {value}')[0]
    except (SyntaxError, tokenize.TokenError) as error:
      raise ConfigError(
        f'--gin.{name}={text}: expected a value as gin files have it, with texts in quotes: '
        f'--gin.{name}=\'"{text}"\'.'
      ) from error
  found = {one.name: one.value for one in parsed if one.name}
  bound = {_macro_of(one): one.value for one in parsed if one.parameter and not one.references}
  found |= {name: value for name, value in bound.items() if name in BOUND and value != Macro(name)}
  values = {name: statements.with_macros(value, found) for name, value in found.items()}
  return {name: None if isinstance(value, Macro) else value for name, value in values.items()}


def _macro_of(binding: Statement) -> str:
  """The macro that gin/t5x/ has for a parameter of T5X's; '' for other parameters."""
  rule = t5x_names.rule_of(binding) if t5x_names.is_theirs(binding) else None
  name = rule.target if isinstance(rule, Becomes) else ''
  return PARTITIONS if name == 'MESH_TENSOR' else name


def _statements(name: str, search_paths: Sequence[str]) -> Iterator[statements.Statement]:
  """The statements of a gin file, those of the files that it includes first."""
  folders = ('', *search_paths, str(statements.gin_root()))
  paths = (os.path.join(folder, fields.expanded(name)) for folder in folders)
  path = next((path for path in paths if os.path.isfile(path)), None)
  if path is None:  # in a bucket, or T5X's own
    return
  try:
    found, included = statements.of_text(pathlib.Path(path).read_text('utf-8-sig'), path)
  except (SyntaxError, tokenize.TokenError, UnicodeDecodeError) as error:
    raise ConfigError(f'gin: {path}: {error}') from error
  for one in included:
    yield from _statements(one, search_paths)
  yield from found


def _check_paths(macros: Mapping[str, Any], files: Sequence[str]) -> None:
  for name in (RESULT, *INPUTS):
    value = macros.get(name)
    if isinstance(value, str) and not jobs.BUCKET.fullmatch(value):
      where = 'a machine that will be deleted' if name == RESULT else 'this machine'
      raise ValueError(f'{name} {value!r} is on {where}: give {_flag(name)}.')
  vocabulary = macros.get(VOCABULARY)
  if not isinstance(vocabulary, str) or vocabulary in ('bytes', *datasets.EMBEDDED):
    return
  is_shipped = os.path.normpath(vocabulary) in files
  if not is_shipped and not jobs.BUCKET.fullmatch(vocabulary):
    raise ValueError(
      f'VOCABULARY {vocabulary!r} is no file below {pathlib.Path.cwd()}, from where it would be '
      f'uploaded: give one, or {_flag(VOCABULARY)}.'
    )


def _flag(name: str) -> str:
  if name == arguments.DATA_DIR:
    return '--tfds_data_dir=gs://...'
  return f'--gin.{name}=\\"gs://...\\"'


def _check_task(job: Job, macros: Mapping[str, Any]) -> None:
  """Refuses a method that is unknown, or that T5X cannot train, and data that nobody prepared."""
  name, module = macros.get('METHOD'), macros.get(arguments.MODULE)
  known = name in methods.names() or not module  # `get` raises for an unknown one
  if isinstance(name, str) and known and methods.get(name).is_grouped:
    raise ValueError(
      f'METHOD {name} compares the rows of an example, which T5X would split over microbatches: '
      'use `dss train`.'
    )
  dataset = macros.get('DATASET')
  there = macros.get(arguments.DATA_DIR) or 'TFDS_DATA_DIR' in job.environment
  if dataset in datasets.names() and not there:
    raise ValueError(
      f'the hosts have no prepared {dataset}: give the folder of `dss prepare`, '
      f'{_flag(arguments.DATA_DIR)}.'
    )


def _check_rows(job: Job, macros: Mapping[str, Any]) -> None:
  """Refuses batches that T5X cannot divide evenly over the devices."""
  partitions = macros.get(PARTITIONS)
  if not isinstance(partitions, int):
    return
  devices = job.machine.devices
  if partitions < 1 or devices % partitions:
    raise ValueError(
      f'NUM_PARTITIONS {partitions} does not divide the {devices} devices of {job.topology}.'
    )
  for name in BATCHES:
    rows, parts = macros.get(name), devices // partitions
    if name == 'BATCH_SIZE':
      parts *= macros.get(MICROBATCHES) or 1
    if isinstance(rows, int) and rows % parts:
      raise ValueError(
        f'{name} {rows} is not a multiple of {parts}: {job.topology} has {devices} devices, of '
        f'which NUM_PARTITIONS {partitions} share the same rows, and NUM_MICROBATCHES divides '
        'BATCH_SIZE.'
      )
