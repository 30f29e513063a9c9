"""Methods: how a student learns from an example and how it is asked, one file per method.

Importing the package registers them all. Needs no other part of dss_jax and no library.
"""

from dss_jax.methods import (
  dss,
  mutual_information,
  one_task,
  pinto,
  rationale_input,
  single_task,
  standard,
)
from dss_jax.methods.base import Method, Row, Term, from_teacher
from dss_jax.methods.choices import Choices
from dss_jax.methods.registry import DEFAULT, get, marks, names, register, registered

__all__ = [
  'DEFAULT',
  'Choices',
  'Method',
  'Row',
  'Term',
  'dss',
  'from_teacher',
  'get',
  'marks',
  'mutual_information',
  'names',
  'one_task',
  'pinto',
  'rationale_input',
  'register',
  'registered',
  'single_task',
  'standard',
]
