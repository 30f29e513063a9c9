"""Data sets: how to parse a raw row and a teacher completion. Needs neither SeqIO nor TensorFlow.

Importing the package registers the paper's data sets. To add your own, call
`datasets.register(release.Dataset(...))` in a module that MIXTURE_OR_TASK_MODULE names. Then `dss
prepare` builds it, and it has SeqIO tasks for every method.
"""

from types import ModuleType

from dss_jax.datasets import (
  anli1,
  asdiv,
  cqa,
  embedded,
  embedded_arithmetic,
  embedded_raw,
  esnli,
  svamp,
)
from dss_jax.datasets.registry import get, names, register
from dss_jax.datasets.release import Dataset

EMBEDDED: dict[str, ModuleType] = {
  'embedded': embedded,
  'embedded_arithmetic': embedded_arithmetic,
}
"""Data sets that our own code makes, with a vocabulary of the same name."""

for _dataset in (
  anli1.DATASET, asdiv.DATASET, cqa.DATASET, *embedded_raw.DATASETS, esnli.DATASET, svamp.DATASET,
):  # fmt: skip
  register(_dataset)

__all__ = ['EMBEDDED', 'Dataset', 'get', 'names', 'register']
