"""Whether a job's command can work on its hosts, judged here, before anything is paid for.

Owns the rule that every path of a command is in a bucket or uploaded, and reading the command's
flags and configuration with the code that the hosts run. Reads no bucket: what gs:// paths hold is
not checked.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
import typing
from collections.abc import Callable, Sequence
from typing import Any

from dss_jax import datasets, methods
from dss_jax.datasets import rows
from dss_jax.launch import job as jobs
from dss_jax.launch import package, t5x_checks
from dss_jax.launch.job import Job
from dss_jax.settings import arguments, defaults, errors, fields, gin_files, statements

RESULTS = ('MODEL_DIR', 'OUTPUT')  # and DATA_DIR of `dss prepare`
INPUTS = ('VOCABULARY', 'INITIAL_CHECKPOINT_PATH', 'DATA_DIR', 'CHECKPOINT', 'PATH')
FROM_HUB = ('INITIAL_CHECKPOINT_PATH', 'PATH')  # may be a Hugging Face id
SHIPPED = {('VOCABULARY', name) for name in ('bytes', *datasets.EMBEDDED)}
CONFIGURED = {  # what each verb builds from its gin files
  'train': ('run_config.RunConfig',),
  'compare': ('comparison.SweepConfig', 'run_config.RunConfig'),
  'sweep': ('comparison.SweepConfig', 'run_config.RunConfig'),
  'evaluate': ('evaluation.EvaluateConfig',),
  'predict': ('predict.PredictConfig',),
}
DATA_FILE = 'the data file'  # of files.source in a user's module; no setting names it
# A network in the place of one that only the hosts can read, and its vocabulary.
STAND_IN = ('--gin_file=models/t5_1_1/tiny.gin', '--model=@t5.T5Config()')
_HUB_S = 10.0  # seconds for an answer


def check(job: Job, more: Sequence[str] = (), uploads: bool = True) -> tuple[str, ...]:
  """Refuses a command that would fail on the job's hosts; returns the files to ship.

  Args:
    job: the job.
    more: paths of --file.
    uploads: whether the target ships files; else every path is in a bucket.

  Raises:
    ValueError: a path that the hosts will not have, a result that would be lost with them, or any
      mistake of configuration.
    SystemExit: the command asks for help, or argparse refuses its flags.
  """
  verb, given = job.command[0], _given(job.command)
  if 'GOOGLE_APPLICATION_CREDENTIALS' in job.environment:
    raise ValueError(
      '--env=GOOGLE_APPLICATION_CREDENTIALS names a file of this machine; the hosts act as '
      '--service_account.'
    )
  if verb == jobs.T5X:
    _check_gin_files(job.command)
    return t5x_checks.check(job, more, uploads)
  _check_paths(verb, given, jobs.files_to_ship(job.command, more), uploads)
  if verb == 'prepare' and 'DATA_DIR' not in dict(given):
    raise ValueError('DATA_DIR is on a machine that will be deleted: give --data_dir=gs://... .')
  if verb in CONFIGURED:
    _check_gin_files(job.command)
    named = _configured(job)
  else:
    named = _flags(job)
  files = jobs.files_to_ship(job.command, more, named)
  if files and not uploads:
    raise ValueError(f'gke only has the files in --image: put {files[0]} into the bucket, and give '
                     'its gs:// path.')  # fmt: skip
  _check_paths(verb, named, files, uploads)
  return files


def _check_gin_files(command: Sequence[str]) -> None:
  """Refuses a gin file of this checkout that the wheel does not have."""
  names = arguments.split(command[1:]).files
  for name in names:
    if f'gin/{name}' in package.left_out() and not pathlib.Path(name).is_file():
      raise ValueError(
        f'--gin_file={name} is not tracked by git, so the hosts do not get it: `git add` it, or '
        'name a file of the working directory.'
      )


def _given(command: Sequence[str]) -> list[tuple[str, str]]:
  """The settings of a command line, by macro."""
  return [(jobs.macro_of(name), value.strip('\'"')) for name, value in jobs.settings(command)]


def _check_paths(
  verb: str, named: Sequence[tuple[str, str]], files: Sequence[str], uploads: bool
) -> None:
  for name, value in named:
    if value.startswith(('@', '%')) or value.lower() in ('', 'none'):
      continue
    if name in RESULTS or (verb, name) == ('prepare', 'DATA_DIR'):
      _check_bucket_path(name, value, 'is on a machine that will be deleted')
    elif name in INPUTS and (name, value) not in SHIPPED:
      _check_input(name, value, files, uploads)
    elif name == 'RAW_DIR' and not _is_shipped(value, files):
      raise ValueError(
        f'RAW_DIR {value!r} is not on the hosts, which read raw files from their own disk: give '
        '--url=https://... of an archive, or upload a folder of the working directory by --file.'
      )
    elif name == 'TEACHER_OUTPUTS' and not _is_shipped(value, files):
      raise ValueError(
        f'TEACHER_OUTPUTS {value!r} is not on the hosts: upload a folder of the working directory '
        'by --file.'
      )
    elif name == 'INPUT' and value == '-':
      raise ValueError('--input=- is this terminal, which the hosts do not have: give a file.')
    elif name == 'INPUT_FILE' or (name == 'INPUT' and rows.is_path(value)):
      _check_input(name, value, files, uploads)
    elif name == 'URL' and value.startswith('file:'):
      raise ValueError(f'--url={value!r} is a file of this machine, which the hosts do not have.')
    elif name == arguments.MODULE:
      _check_module(value, files)
    elif name == DATA_FILE and not value.startswith('gs://') and not _is_shipped(value, files):
      raise ValueError(
        f'{name} {value!r} of your module is not on the hosts: give files.source a file below '
        f'{pathlib.Path.cwd()}, from where it is uploaded, or gs://... .'
      )


def _check_bucket_path(name: str, value: str, otherwise: str) -> None:
  if not value.startswith('gs://'):
    raise ValueError(f'{name} {value!r} {otherwise}: give --{name.lower()}=gs://... .')
  if not jobs.BUCKET.fullmatch(value):
    raise ValueError(
      f'{name} is gs://BUCKET/PATH, with a bucket of lower-case letters, digits, dashes, '
      f'underscores and dots; not {value!r}.'
    )


def _check_input(name: str, value: str, files: Sequence[str], uploads: bool) -> None:
  """Refuses an input that is neither in a bucket, nor uploaded, nor on the Hugging Face hub."""
  from dss_jax.checkpoints.hf import hub  # brings JAX

  here = os.path.exists(os.path.expanduser(value))
  if value.startswith('gs:'):
    _check_bucket_path(name, value, 'is no path of a bucket')
  elif name in FROM_HUB and not here and hub.ID.fullmatch(value):
    _check_hub(name, value)
  elif not uploads or value.startswith('~') or os.path.isabs(value) or '://' in value:
    _check_bucket_path(name, value, 'is not on the hosts')
  elif not here:
    raise ValueError(
      f'{name} {value!r}: there is no such file in {pathlib.Path.cwd()} to upload; give '
      f'one, or --{name.lower()}=gs://... .'
    )
  elif not _is_shipped(value, files):
    raise ValueError(
      f'{name} {value!r} is a folder of this machine: put it into the bucket and give '
      f'--{name.lower()}=gs://... ; a small one is uploaded by --file={value}.'
    )


def _is_shipped(value: str, files: Sequence[str]) -> bool:
  name = os.path.normpath(value)
  return any(file == name or file.startswith(f'{name}{os.sep}') for file in files)


def _check_module(value: str, files: Sequence[str]) -> None:
  path = value.replace('.', os.sep)
  if value.split('.')[0] == 'dss_jax' or {f'{path}.py', f'{path}/__init__.py'} & set(files):
    return
  raise ValueError(
    f'{arguments.MODULE} {value!r}: there is no {path + ".py"!r} in '
    f'{pathlib.Path.cwd()} to upload, and the hosts have only dss_jax and what it needs.'
  )


@functools.cache
def _check_hub(name: str, model: str) -> None:
  """Refuses an id that the Hugging Face hub does not have: most likely it is a folder of here."""
  import huggingface_hub

  try:
    huggingface_hub.HfApi().model_info(model, timeout=_HUB_S)
  except Exception as error:  # the transport has errors of its own
    unknown = isinstance(error, huggingface_hub.errors.RepositoryNotFoundError)
    why = 'has no such model, or it is private' if unknown else f'cannot be asked ({error})'
    raise errors.ConfigError(
      f'{name} {model!r} is no folder here, and {huggingface_hub.constants.ENDPOINT} {why}: give a '
      f'model of the hub, or --{name.lower()}=gs://... .'
    ) from None  # whatever the hub's trouble, what was given is not known to be a model


def _flags(job: Job) -> list[tuple[str, str]]:
  """Parses the flags of a verb without gin files as it does itself; returns its data's files."""
  from dss_jax.commands import export_weights, import_flags, prepare, vocab

  verbs: dict[str, Callable[[Sequence[str]], Any]] = {
    'export': export_weights.options,
    'import': import_flags.parser().parse_args,
    'prepare': prepare.options,
    'vocab': vocab.options,
  }
  given = verbs[job.command[0]](job.command[1:])
  if job.command[0] != 'vocab':
    return []
  names = given.task.split(',')
  return [file for name in names for file in _check_data(job, name, given.data_dir, ['train'])]


def _configured(job: Job) -> list[tuple[str, str]]:
  """Parses the command's configuration; returns its paths and its module, by macro.

  INITIAL_CHECKPOINT_PATH is not read. A network that is taken from it is replaced by another.
  """
  verb, run_file = job.command[0], f'runs/{job.command[0]}.gin'
  argv = _without_inputs(job.command[1:]) if verb == 'predict' else list(job.command[1:])
  gin_files.parse(argv, run_file)
  macros = gin_files.macros()
  named = _paths_of_macros(macros, run_file)
  if macros.get('INITIAL_CHECKPOINT_PATH') is not None:
    taken = [name for name, value in macros.items() if 'pretrained.' in repr(value)]
    argv += STAND_IN if 'MODEL' in taken else ()
    argv += ['--vocabulary=bytes'] if 'VOCABULARY' in taken else []
    gin_files.parse([*argv, '--initial_checkpoint_path=None'], run_file)
  scored: list[str] = []
  for selector in CONFIGURED[verb]:
    built = gin_files.configured(selector)
    named += _paths_of_fields(built)
    if selector.startswith('comparison.'):
      named += _compared_files(job, built)
      scored = [built.split]
    if selector == 'run_config.RunConfig':
      named += _check_run(job, built, scored)
    if selector in ('evaluation.EvaluateConfig', 'predict.PredictConfig'):
      named += _check_student(job, built)
  return named


def _without_inputs(argv: Sequence[str]) -> list[str]:
  """The arguments of `dss predict` that gin reads."""
  rest, waiting = [], list(argv)
  while waiting:
    name, equals, _ = (argument := waiting.pop(0)).partition('=')
    if name not in ('--input', '--input_file'):
      rest.append(argument)
    elif not equals and waiting:
      waiting.pop(0)
  return rest


def _paths_of_macros(macros: dict[str, Any], run_file: str) -> list[tuple[str, str]]:
  known = statements.of_shipped(run_file)
  found = []
  for name, value in macros.items():
    while repr(value).startswith('%'):  # another macro's
      value = macros.get(repr(value)[1:])
    hint = defaults.hint_of(name, known)
    if isinstance(value, str) and (name == arguments.MODULE or fields.is_path(hint)):
      found.append((name, value))
  return found


def _paths_of_fields(built: Any) -> list[tuple[str, str]]:
  hints = typing.get_type_hints(type(built), include_extras=True)
  values = {name: getattr(built, name) for name, hint in hints.items() if fields.is_path(hint)}
  return [(name.upper(), value) for name, value in values.items() if isinstance(value, str)]


def _compared_files(job: Job, compared: Any) -> list[tuple[str, str]]:
  """The gin files of compared methods and of a grid; refuses a method that is unknown."""
  from dss_jax.experiments import results

  if job.command[0] == 'sweep' and job.machine.hosts > 1 and compared.cell is None:
    raise ValueError(
      f'a sweep is one process, and {job.topology} has {job.machine.hosts} hosts: choose a '
      'topology with one, or launch each cell: `dss sweep --commands=TARGET` prints how.'
    )
  files = [f'methods/{name}.gin' for name in compared.methods if name != results.TEACHER]
  for file in files:
    if not _is_gin_file(file):
      methods.get(pathlib.PurePath(file).stem)  # raises, with the names that there are
  of_grid = (getattr(compared, 'grid', None) or {}).get('GIN_FILE', ())
  for file in of_grid:
    if not _is_gin_file(file):
      raise ValueError(f'GRID has the GIN_FILE {file!r}, which is neither here nor one of ours.')
  return [('GIN_FILE', file) for file in (*files, *of_grid)]


def _is_gin_file(file: str) -> bool:
  return any(os.path.isfile(os.path.join(top, file)) for top in ('', statements.gin_root()))


def _check_run(job: Job, run: Any, scored: Sequence[str]) -> list[tuple[str, str]]:
  """Refuses a run whose tasks are unknown, or whose mesh or data the hosts do not have.

  Args:
    job: the job.
    run: its RunConfig.
    scored: splits that are read after training.

  Returns:
    The files of its data, by DATA_FILE.
  """
  from dss_jax.runs import run_config

  _check_batch(job, run.mesh, 'EVAL_BATCH_SIZE', run.eval.batch_size if run.eval.period else 0)
  if job.command[0] not in ('compare', 'sweep'):  # which changes the batch with the method
    rows_at_once = run.data.batch_size // run.num_microbatches
    _check_batch(job, run.mesh, 'BATCH_SIZE / NUM_MICROBATCHES', rows_at_once)
  here = os.path.exists(run.vocabulary) or run.vocabulary in datasets.EMBEDDED
  vocabulary = run.vocabulary if here else 'bytes'
  run_config.set_up_tasks(dataclasses.replace(run, vocabulary=vocabulary, data_dir=None))
  splits = [run.data.split, *([run.eval.split] if run.eval.period else []), *scored]
  return _check_data(job, run.data.mixture_or_task_name, run.data_dir, splits)


def _check_student(job: Job, settings: Any) -> list[tuple[str, str]]:
  """As `_check_run`, for a student whose run folder is not read."""
  from dss_jax.tasks import registration

  _check_batch(job, settings.mesh, 'BATCH_SIZE', settings.batch_size)
  if job.command[0] == 'predict':  # needs no data
    return []
  arguments.import_modules([settings.module] if settings.module else [])
  if settings.task in registration.all_names():
    known = registration.datasets_of(settings.task)
    _check_splits(known, [settings.split])
    return _data_files(known, [settings.split])
  found = _data_files(registration.all_datasets(), [settings.split])  # the run's is among them
  return [(name, path) for name, path in found if os.path.isfile(path)]


def _check_batch(job: Job, config: Any, setting: str, rows_at_once: int) -> None:
  """Refuses a mesh that the topology does not have, or rows that it does not divide evenly."""
  import jax

  from dss_jax.parallel import partitioning

  sizes = partitioning.mesh_sizes(config, job.machine.devices)
  mesh = jax.sharding.AbstractMesh(sizes, partitioning.AXES)
  partitioning.check_batch(mesh, rows_at_once, setting)


def _check_data(
  job: Job, name: str, data_dir: str | None, splits: Sequence[str]
) -> list[tuple[str, str]]:
  """Refuses an unknown task or split, and data that the hosts do not have; returns its files."""
  from dss_jax.data import examples
  from dss_jax.tasks import registration

  setting = 'MIXTURE_OR_TASK_NAME: task or mixture'
  examples.check_known(setting, name, registration.all_names())
  try:
    known = registration.datasets_of(name)
  except ValueError:  # tasks of somebody else's
    return []
  parts = [part for dataset in known for part in dataset.parts]
  if data_dir is None and 'TFDS_DATA_DIR' in job.environment:
    data_dir = os.environ.get('TFDS_DATA_DIR', '')
    _check_bucket_path('DATA_DIR', data_dir, 'of --env=TFDS_DATA_DIR is not on the hosts')
  if parts and data_dir is None:
    raise ValueError(
      f'DATA_DIR has no value, and the hosts have no prepared {parts[0]}: give the folder of `dss '
      'prepare`, --data_dir=gs://... .'
    )
  _check_splits(known, splits)
  return _data_files(known, splits)


def _check_splits(known: Sequence[Any], splits: Sequence[str]) -> None:
  """Refuses a split that a data set cannot have; what a TFDS folder holds is not looked up."""
  import seqio

  from dss_jax.data import examples

  for dataset, split in itertools.product(known, splits):
    prepared = [part for part in dataset.parts[:1] if part in datasets.names()]
    if prepared:
      there = list(datasets.get(prepared[0]).splits)
    elif isinstance(dataset.source.source, seqio.FunctionDataSource):
      there = list(dataset.source.splits)
    else:
      continue
    what = f'split (TRAIN_SPLIT, EVAL_SPLIT, SPLIT) of data set {dataset.name!r}'
    examples.check_known(what, split, there)


def _data_files(known: Sequence[Any], splits: Sequence[str]) -> list[tuple[str, str]]:
  """The files of data sets that a module of the user's reads by files.source, by DATA_FILE."""
  from dss_jax.tasks import files

  sources = [dataset.source.source for dataset in known]
  own = [source for source in sources if isinstance(source, files.FileSource)]
  return [(DATA_FILE, source.path(split)) for source in own for split in splits]
