"""Data sets: how to parse a raw row and a teacher completion. Needs neither SeqIO nor TensorFlow.

Importing the package registers the paper's data sets. To add your own, call
`datasets.register(release.Dataset(...))` in a module that MIXTURE_OR_TASK_MODULE names. Then `dss
prepare` builds it, and it has SeqIO tasks for every method.
"""

from dss_jax.datasets import anli1, asdiv, cqa, esnli, svamp
from dss_jax.datasets.registry import get, names, register
from dss_jax.datasets.release import Dataset

for _module in (anli1, asdiv, cqa, esnli, svamp):
  register(_module.DATASET)

__all__ = ['Dataset', 'get', 'names', 'register']
