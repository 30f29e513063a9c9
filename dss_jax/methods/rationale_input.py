"""Rationale as input: the student reads the teacher's rationale, in training and at test time.

Every question needs a rationale, so the teacher is always needed: a reference, not for deployment.

Source: Hsieh et al. 2023, Eq. 2: mean l(f(x, r), y).
"""

from dss_jax.methods.base import Method, Row, Term, from_teacher
from dss_jax.methods.registry import register

ROW = Row('label', '{input} [rationale] {rationale}', '{label}')
RATIONALE_INPUT = register(
  Method(
    name='rationale_input',
    summary="rationale as input: the teacher's rationale is read with every question",
    rows=(ROW,),
    loss=(Term('label'),),
    answer=ROW,
    source='Hsieh et al. 2023, arXiv 2305.02301, Eq. 2',
  )
)
TEACHER_RATIONALE_INPUT = register(from_teacher(RATIONALE_INPUT))
