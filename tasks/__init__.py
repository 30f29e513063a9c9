"""SeqIO tasks: the data sets of the paper and the embedded one, each a module of this package.

Importing the package registers them all; it reads no data and needs no vocabulary yet.
Built on SeqIO and TensorFlow; no module of it uses JAX.
"""

from dss_jax.datasets import anli1, asdiv, cqa, embedded, esnli, svamp
from dss_jax.tasks.preprocessors import LABEL, RATIONALE, TASK_NAMES
from dss_jax.tasks.registration import dataset_of, register_dataset
from dss_jax.tasks.vocabulary import get_vocabulary, load_vocabulary, set_vocabulary

__all__ = [
  'LABEL',
  'RATIONALE',
  'TASK_NAMES',
  'anli1',
  'asdiv',
  'cqa',
  'dataset_of',
  'embedded',
  'esnli',
  'get_vocabulary',
  'load_vocabulary',
  'register_dataset',
  'set_vocabulary',
  'svamp',
]
