"""SeqIO tasks of every data set and every method, registered by importing this package.

The import reads no data and needs no vocabulary. Built on SeqIO and TensorFlow, without JAX.
dss_jax/datasets defines data sets, dss_jax/methods defines methods.
"""

from dss_jax.tasks import files, sources
from dss_jax.tasks.registration import dataset_of, register_dataset
from dss_jax.tasks.vocabulary import get_vocabulary, load_vocabulary, set_vocabulary

__all__ = [
  'dataset_of',
  'files',
  'get_vocabulary',
  'load_vocabulary',
  'register_dataset',
  'set_vocabulary',
  'sources',
]
