"""Methods: how a student learns from an example and how it is asked, one file per method.

Importing the package registers them all. Needs no other part of dss_jax and no library.
"""

from dss_jax.methods import dss, one_task, rationale_input, single_task, standard
from dss_jax.methods.base import Method, Row, Term, from_teacher
from dss_jax.methods.registry import DEFAULT, get, marks, names, register, registered

__all__ = [
  'DEFAULT',
  'Method',
  'Row',
  'Term',
  'dss',
  'from_teacher',
  'get',
  'marks',
  'names',
  'one_task',
  'rationale_input',
  'register',
  'registered',
  'single_task',
  'standard',
]
