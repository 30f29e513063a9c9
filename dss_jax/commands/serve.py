"""`dss serve`: a trained student over HTTP, with a page to try it.

Owns the settings and what the page is told of the student. Serving is serving/'s, loading the
student runs/student.py's.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from dss_jax.methods import Choices
from dss_jax.parallel import partitioning
from dss_jax.runs import memory, student
from dss_jax.settings import arguments, fields, gin_files, whole_files
from dss_jax.settings.printable import one_line

SPLITS = ('test', 'validation')
"""Where examples of the page are from: the first that there is."""


@dataclasses.dataclass(frozen=True)
class ServeConfig:
  """Which student answers, where, and what the server takes.

  Attributes:
    model_dir: the run folder that `dss train` wrote.
    step: of the checkpoint: 'best' on validation, 'latest', or a number.
    host: address that is bound. Another than a loopback one needs DSS_API_KEY in the environment.
    port: of the server; 0: any that is free.
    prompt: the teacher's, a name or a .toml file, as for `dss annotate`: in its format chats are
      asked and answered; None: that of the data set.
    defer_below: confidence from 0 to 1 under which the teacher is asked; None: never.
    teacher: address of its server, http://HOST:PORT/v1.
    teacher_model: the server's name of it; needed with TEACHER.
    teacher_key_env: variable of the environment with its key; None: OPENAI_API_KEY, if it is set.
    batch_size: most rows of a batch, over all devices.
    queue_size: most requests that wait for a batch; others get 429. Also the most that wait for the
      teacher; the student answers the others.
    max_body_bytes: of a request; larger ones get 413.
    drain_seconds: after SIGTERM, until the process ends at the latest.
    log_requests: whether method, path, status and time of each request are logged; never its text.
    examples: how many of the data set the page offers, where its data is at hand.
    mesh: how the devices share the work.
    module: a module of yours to import, which registers SeqIO tasks.
    data_dir: where prepared data sets are now; None: where the run had them.
  """

  model_dir: fields.Path
  step: int | str = 'best'
  host: str = '127.0.0.1'
  port: int = 8000
  prompt: str | None = None
  defer_below: float | None = None
  teacher: str | None = None
  teacher_model: str | None = None
  teacher_key_env: str | None = None
  batch_size: int = 32
  queue_size: int = 256
  max_body_bytes: int = 65536
  drain_seconds: float = 20.0
  log_requests: bool = False
  examples: int = 24
  mesh: partitioning.MeshConfig = dataclasses.field(default_factory=partitioning.MeshConfig)
  module: str | None = None
  data_dir: fields.Path | None = None

  def __post_init__(self):
    fields.check(self)
    ranges = {
      'port': (0, 65535), 'batch_size': (2, 4096), 'queue_size': (1, 1 << 20),
      'max_body_bytes': (1024, 1 << 26), 'drain_seconds': (2, 3600), 'examples': (0, 1000),
    }  # fmt: skip
    for name, (least, most) in ranges.items():
      if not least <= (given := getattr(self, name)) <= most:
        raise ValueError(f'{name.upper()} is from {least} to {most}, not {given}.')
    if (self.defer_below is None) != (self.teacher is None):
      raise ValueError(
        'DEFER_BELOW and TEACHER go together: --defer_below=0.7 --teacher=http://HOST:PORT/v1.'
      )
    if self.defer_below is not None and not 0 < self.defer_below <= 1:
      raise ValueError(f'DEFER_BELOW is above 0 and at most 1, not {self.defer_below}.')
    if self.teacher is not None and self.teacher_model is None:
      raise ValueError("TEACHER needs TEACHER_MODEL, its server's name of the model.")


@memory.explained(memory.DECODING)
def main(argv: Sequence[str]) -> int:
  """Runs `dss serve`; ends the process with 0 once it was served."""
  given = list(argv)
  if given and not given[0].startswith('-'):
    given[0] = f'--model_dir={given[0]}'
  gin_files.parse(given, 'runs/serve.gin')
  settings: ServeConfig = gin_files.configured('serve.ServeConfig')
  serve(settings)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(0)  # taking programs apart takes seconds, which DRAIN_SECONDS does not know of


def serve(settings: ServeConfig) -> None:
  """Serves a student until a signal.

  Raises:
    ValueError: no such student, prompt, address or teacher.
    ImportError: the extra `serve` is not installed.
  """
  try:
    from dss_jax.serving import engine, protocol, server
  except ImportError as error:
    if error.name not in ('fastapi', 'uvicorn', 'prometheus_client', 'pydantic', 'starlette'):
      raise
    raise ImportError(
      f"{error}: serving needs pip install 'dss_jax[serve]'.", name=error.name
    ) from error
  key = server.key_for(settings.host)
  loaded = student.load(
    student.StudentConfig(
      settings.model_dir, settings.step, batch_size=settings.batch_size,
      mesh=settings.mesh, module=settings.module, data_dir=settings.data_dir,
    )
  )  # fmt: skip
  info = _dataset(loaded)
  choices = _choices(loaded, info)
  form = protocol.load(settings.prompt, info.name if info else '', choices)
  answers = engine.Engine(loaded.predictor(), settings.batch_size, form.choices)
  deferral = _deferral(settings, form)
  about = _about(settings, loaded, info, form)
  limits = server.Limits(
    settings.queue_size, settings.max_body_bytes, settings.drain_seconds, settings.log_requests
  )
  with server.listen(settings.host, settings.port) as listening:
    host = f'[{settings.host}]' if ':' in settings.host else settings.host
    address = f'http://{host}:{listening.getsockname()[1]}'
    print(f'{one_line(settings.model_dir)} at {address} and {address}/v1', flush=True)
    server.run(answers, form, about, listening, key, limits, deferral)


def _dataset(loaded: student.Student) -> Any:
  """The data set that the student was trained on; None if it is not registered here."""
  if loaded.run.data_dir:
    os.environ['TFDS_DATA_DIR'] = str(whole_files.absolute(loaded.run.data_dir))
  from dss_jax.tasks import registration, sources

  sources.add_prepared_datasets()
  registration.add_methods()
  if loaded.config.module:  # that of the run folder is not imported by itself
    arguments.import_modules([loaded.config.module])
  name = loaded.run.data.mixture_or_task_name
  try:
    return registration.dataset_of(name)
  except ValueError:
    print(
      f'{one_line(name)}: the data set is not known here, so there are no examples, and no scores '
      'but of a method that chooses: --module=MY_TASKS registers it, --data_dir=FOLDER has it.',
      file=sys.stderr,
    )
    return None


def _choices(loaded: student.Student, info: Any) -> Choices | None:
  """The candidate labels: as `dss predict` has them where the method chooses among them."""
  if loaded.method.answer.each_choice:
    return loaded.run.choices
  return info.choices if info else None


def _deferral(settings: ServeConfig, form: Any) -> Any:
  if settings.teacher is None or settings.defer_below is None or settings.teacher_model is None:
    return None
  from dss_jax.serving import deferral
  from dss_jax.teacher import client

  asked = client.Client(settings.teacher, settings.teacher_key_env, timeout=60)
  return deferral.Deferral(
    settings.defer_below, asked, settings.teacher_model, form, settings.queue_size
  )


def _about(settings: ServeConfig, loaded: student.Student, info: Any, form: Any) -> dict[str, Any]:
  """What the page shows of the student."""
  choices = form.choices
  return {
    'name': one_line(str(settings.model_dir).rstrip('/').rpartition('/')[2], 100),
    'step': loaded.step,
    'method': loaded.method.summary,
    'needs': sorted(loaded.method.needs),
    'labels': list(choices.labels) if choices else [],
    'prompt': form.prompt.name,
    'defer_below': settings.defer_below,
    'teacher': info.teacher if info else '',
    'examples': _examples(settings.examples, loaded, info),
  }


def _examples(count: int, loaded: student.Student, info: Any) -> list[dict[str, str]]:
  """Inputs with the gold label and the teacher's stored answer; none where there is no data."""
  from dss_jax.tasks import registration

  if info is None or not count:
    return []
  for split in SPLITS:
    try:
      return registration.first_examples(loaded.run.data.mixture_or_task_name, split, count)
    except (ValueError, OSError):
      continue
  return []
