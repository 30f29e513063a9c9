"""SeqIO tasks of every data set and every method, registered by importing this package.

It reads no data and needs no vocabulary yet. Built on SeqIO and TensorFlow; no module of it uses
JAX. What a data set is stands in dss_jax/datasets, what a method is in dss_jax/methods.
"""

from dss_jax.tasks import sources
from dss_jax.tasks.registration import dataset_of, register_dataset
from dss_jax.tasks.vocabulary import get_vocabulary, load_vocabulary, set_vocabulary

__all__ = [
  'dataset_of',
  'get_vocabulary',
  'load_vocabulary',
  'register_dataset',
  'set_vocabulary',
  'sources',
]
