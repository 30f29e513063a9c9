"""Standard finetuning: the input without a prefix, the label as target.

Source: Hsieh et al. 2023, Eq. 1: mean l(f(x), y). With the teacher's labels it is the paper's
standard distillation (`teacher_standard`).
"""

from dss_jax.methods.base import Method, Row, Term, from_teacher
from dss_jax.methods.registry import register

ROW = Row('label', '{input}', '{label}')
STANDARD = register(
  Method(
    name='standard',
    summary='standard finetuning on labels, without prefix',
    rows=(ROW,),
    loss=(Term('label'),),
    answer=ROW,
    source='Hsieh et al. 2023, arXiv 2305.02301, Eq. 1',
  )
)
TEACHER_STANDARD = register(from_teacher(STANDARD))
