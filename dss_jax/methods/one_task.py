"""One of the two tasks of step by step alone, with its prefix: labels, or rationales.

Each alone is a control. `rationale` never sees a label, so its answers show what rationales alone
teach about `[label]`.
"""

from dss_jax.methods.base import Method, Term, from_teacher
from dss_jax.methods.dss import LABEL_ROW, RATIONALE_ROW
from dss_jax.methods.registry import register

LABEL = register(
  Method(
    name='label',
    summary='finetuning on labels',
    rows=(LABEL_ROW,),
    loss=(Term('label'),),
    answer=LABEL_ROW,
    source='Hsieh et al. 2023, arXiv 2305.02301, the first term of Eq. 3',
  )
)
TEACHER_LABEL = register(from_teacher(LABEL))
RATIONALE = register(
  Method(
    name='rationale',
    summary="finetuning on the teacher's rationales",
    rows=(RATIONALE_ROW,),
    loss=(Term('rationale'),),
    answer=LABEL_ROW,
    source='Hsieh et al. 2023, arXiv 2305.02301, Eq. 4 alone',
  )
)
