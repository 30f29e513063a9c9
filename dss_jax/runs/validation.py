"""Validation while training: loss over the mixture, and accuracy of decoded labels, on one split.

Owns what is validated on, loaded once. The numbers are steps.py's and evaluator.py's.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dss_jax.data import pipeline
from dss_jax.inference import decoding, evaluator
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.runs.run_config import RunConfig, evaluation_task
from dss_jax.tasks import registration
from dss_jax.training import steps


@dataclasses.dataclass(frozen=True)
class Validation:
  """A function of the parameters that gives all validation metrics.

  Attributes:
    run: the run's settings.
    mesh: where its arrays live.
    task: the task with gold labels whose inputs look as they do in training.
    mixture: what the loss is of.
    examples: of `task`, decoded and compared.
    decoder: how they are decoded.
  """

  run: RunConfig
  mesh: Mesh
  task: str
  mixture: Sequence[pipeline.TaskExamples]
  examples: pipeline.Examples
  decoder: evaluator.Decoder

  @classmethod
  def of(cls, run: RunConfig, mesh: Mesh) -> 'Validation | None':
    """Loads what is validated on; None where the run does not validate.

    Raises:
      ValueError: unknown split, no labels in it, or settings that decoding refuses: now rather than
        at the first validation.
    """
    if not run.eval.period:
      return None
    name = run.data.mixture_or_task_name
    task = evaluation_task(run)
    row, lengths = registration.row_of(task), run.data.task_feature_lengths
    length = run.eval.max_decode_length if row.is_label_alone else lengths['targets']
    decoder = evaluator.Decoder(
      config=run.model,
      decoding=decoding.Decoding(max_length=length),
      batch_size=run.eval.batch_size,
      max_input_length=lengths['inputs'],
      mesh=mesh,
    )
    try:
      mixture = pipeline.load_mixture(name, run.eval.split, run.objective.tasks, skip_empty=True)
      examples = evaluator.load_examples(task, run.eval.split, run.eval.num_examples)
    except ValueError as error:
      raise ValueError(f'validation: {error}. EVAL_PERIOD = 0 trains without one.') from error
    return cls(run, mesh, task, mixture, examples, decoder)

  def __call__(self, params: t5.Params, between: Callable[[], None]) -> dict[str, float]:
    """The metrics of `steps.metrics_of_sums` and of `evaluator.evaluate`.

    Args:
      params: of the network.
      between: called after every batch; what it raises ends the validation.
    """
    sums: Any = None
    parts = partitioning.local_parts(self.mesh)
    for batch in pipeline.epoch_batches(self.mixture, self.run.data, *parts):
      part = jax.device_get(self._step(params, partitioning.put_batch(self.mesh, batch.arrays)))
      sums = part if sums is None else jax.tree.map(np.add, sums, part)
      between()
    metrics: dict[str, Any] = dict(steps.metrics_of_sums(sums, self.run.objective))
    metrics |= evaluator.evaluate(
      self.task, self.examples, self.decoder, params, lambda done, total: between()
    ).metrics
    return {name: float(value) for name, value in metrics.items()}

  @functools.cached_property
  def _step(self):
    return jax.jit(steps.make_eval_step(self.run.model, self.run.objective))
