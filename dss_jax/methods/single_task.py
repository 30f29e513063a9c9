"""Single task: rationale and label as one target; the label is parsed from the output.

The text `[label]` stands between the two. Without it, the end of a rationale and the start of a
label of several words would be unknown.

Source: Hsieh et al. 2023, Eq. 5: mean l(f(x), [r, y]).
"""

from dss_jax.methods.base import Method, Row, Term, from_teacher
from dss_jax.methods.registry import register

ROW = Row('rationale_label', '{input}', '{rationale} [label] {label}')
SINGLE_TASK = register(
  Method(
    name='single_task',
    summary='single task: rationale and label as one target',
    rows=(ROW,),
    loss=(Term('rationale_label'),),
    answer=ROW,
    source='Hsieh et al. 2023, arXiv 2305.02301, Eq. 5',
  )
)
TEACHER_SINGLE_TASK = register(from_teacher(SINGLE_TASK))
