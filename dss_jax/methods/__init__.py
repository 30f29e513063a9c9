"""Methods: how a student learns from an example and how it is asked, one file per method.

Importing the package registers them all. Needs no other part of dss_jax and no library.
"""

from dss_jax.methods import (
  copy_input,
  cue_words,
  curriculum,
  derived,
  dss,
  label_first,
  mutual_information,
  one_task,
  other_rationale,
  pinto,
  rationale_input,
  right_rationales,
  self_evaluation,
  shuffled_rationale,
  single_task,
  span_corruption,
  standard,
  truncated_rationale,
  weighted_rationales,
)
from dss_jax.methods.base import Method, Row, Term, formula, from_teacher
from dss_jax.methods.choices import Choices
from dss_jax.methods.registry import DEFAULT, get, marks, names, register, registered

__all__ = [
  'DEFAULT',
  'Choices',
  'Method',
  'Row',
  'Term',
  'copy_input',
  'cue_words',
  'curriculum',
  'derived',
  'dss',
  'formula',
  'from_teacher',
  'get',
  'label_first',
  'marks',
  'mutual_information',
  'names',
  'one_task',
  'other_rationale',
  'pinto',
  'rationale_input',
  'register',
  'registered',
  'right_rationales',
  'self_evaluation',
  'shuffled_rationale',
  'single_task',
  'span_corruption',
  'standard',
  'truncated_rationale',
  'weighted_rationales',
]
