"""`dss evaluate`: scores a student on a split, example by example."""

import json
from collections.abc import Sequence

from dss_jax.parallel import distributed
from dss_jax.runs import evaluation, memory, rationale_scores
from dss_jax.settings import gin_files


@memory.explained(memory.DECODING)
def main(argv: Sequence[str]) -> int:
  """Runs `dss evaluate`; returns the exit code."""
  gin_files.parse(argv, 'runs/evaluate.gin')
  settings: evaluation.EvaluateConfig = gin_files.configured('evaluation.EvaluateConfig')
  if settings.rationale_scores is None:
    summary, _ = evaluation.evaluate(settings)
  else:
    summary = rationale_scores.write(settings, settings.rationale_scores)
  if distributed.is_main():
    print(json.dumps(summary))
  return 0
