"""A trained student, read from its run folder: its parameters on devices, ready to decode.

Owns the way from a run folder to a decoder or a predictor. Does not own the folder's contents
(run_folder.py, checkpoints/manager.py), decoding and asking (inference/), nor what is decoded.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import seqio
from jax.sharding import Mesh

from dss_jax.checkpoints import finished
from dss_jax.inference import evaluator
from dss_jax.inference.decoding import Decoding
from dss_jax.inference.predictor import Predictor
from dss_jax.methods import Method, Row
from dss_jax.models import t5
from dss_jax.parallel import distributed, partitioning
from dss_jax.runs import run_config
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import fields, progress
from dss_jax.tasks.vocabulary import load_vocabulary


@dataclasses.dataclass(frozen=True)
class StudentConfig:
  """Which student decodes, and how.

  Attributes:
    model_dir: the run folder that `dss train` wrote.
    step: of the checkpoint: 'best' on validation, 'latest', or a number.
    decoding: method and settings; `max_decode_length` replaces its max_length.
    max_decode_length: most tokens of an output; None: as in the run's validation for labels, the
      run's TASK_FEATURE_LENGTHS['targets'] for rationales.
    batch_size: rows decoded at once, over all devices.
    seed: of temperature sampling.
    mesh: how the devices share the work.
    module: a module of yours to import, which registers SeqIO tasks. The one that a run folder
      names is not imported by itself.
    data_dir: where prepared data sets are now; None: where the run had them.
  """

  model_dir: fields.Path
  step: int | str = 'best'
  decoding: Decoding = dataclasses.field(default_factory=Decoding)
  max_decode_length: int | None = None
  batch_size: int = 64
  seed: int = 0
  mesh: partitioning.MeshConfig = dataclasses.field(default_factory=partitioning.MeshConfig)
  module: str | None = None
  data_dir: fields.Path | None = None

  def __post_init__(self):
    fields.check(self)
    object.__setattr__(self, 'step', finished.step_of(self.step))


@dataclasses.dataclass(frozen=True, eq=False)
class Student:
  """A student with its vocabulary.

  Attributes:
    config: the settings it was loaded with.
    run: the settings it was trained with; its method is filled in.
    step: of its checkpoint.
    params: placed on `mesh`.
    mesh: of the devices.
    vocabulary: of its inputs and outputs.
  """

  config: StudentConfig
  run: run_config.RunConfig
  step: int
  params: t5.Params
  mesh: Mesh
  vocabulary: seqio.Vocabulary

  @property
  def method(self) -> Method:
    """How it was trained, and how it is asked."""
    assert self.run.method is not None
    return self.run.method

  def decoder(self, row: Row | None) -> evaluator.Decoder:
    """The decoder of the outputs of a row: labels alone, or longer texts; see `output_length`."""
    length = self.config.max_decode_length
    if length is None:
      length = self.run.output_length(row)
    return evaluator.Decoder(
      config=self.run.model,
      decoding=dataclasses.replace(self.config.decoding, max_length=length),
      batch_size=self.config.batch_size,
      max_input_length=self.run.data.task_feature_lengths['inputs'],
      mesh=self.mesh,
      seed=self.config.seed,
    )

  def predictor(self) -> Predictor:
    """The student, ready to answer questions many times."""
    return Predictor(self.params, self.method, self.vocabulary, self.decoder, self.run.choices)


def load(config: StudentConfig) -> Student:
  """Reads a student from its run folder; needs neither its data nor the module of its tasks.

  Raises:
    ValueError: no run, checkpoint or vocabulary is where it should be; the message says which.
  """
  overrides = {name: getattr(config, name) for name in ('module', 'data_dir')}
  folder = RunFolder(config.model_dir)
  run = folder.load_settings()
  run = dataclasses.replace(run, **{name: value for name, value in overrides.items() if value})
  if run.method is None or run.model.vocab_size is None:
    folder.check_module(config.module is not None)
    run = run_config.set_up_tasks(run)
  mesh = partitioning.make_mesh(config.mesh)
  shapes, axes = t5.abstract(run.model)
  abstract_params = jax.tree.map(
    lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
    shapes,
    partitioning.shardings(mesh, shapes, axes),
  )
  with folder.read_checkpoints() as checkpoints:
    step = checkpoints.resolve(config.step)
    params = checkpoints.restore_params(step, abstract_params)
  return Student(config, run, step, params, mesh, load_vocabulary(run.vocabulary))


@contextlib.contextmanager
def progress_bar(name: str) -> Iterator[evaluator.Progress]:
  """A progress bar for decoding, on a terminal's standard error, in the main process only."""
  with progress.bar(name, is_shown=distributed.is_main()) as advance:
    yield advance
