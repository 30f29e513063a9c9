"""Data sets: how a raw row and a teacher completion read. Needs neither SeqIO nor TensorFlow.

Importing the package puts the paper's data sets into the table. One of your own is one call, in a
module that MIXTURE_OR_TASK_MODULE names: `datasets.register(release.Dataset(...))`. Then `dss
prepare` builds it, and its SeqIO tasks are there for every method.
"""

from dss_jax.datasets import anli1, asdiv, cqa, esnli, svamp
from dss_jax.datasets.registry import get, names, register
from dss_jax.datasets.release import Dataset

for _module in (anli1, asdiv, cqa, esnli, svamp):
  register(_module.DATASET)

__all__ = ['Dataset', 'get', 'names', 'register']
