"""Step by step with a third task: to judge whether a rationale argues for the right answer.

    L = L_label + λ L_rationale + L_self_evaluation

The student reads an input with the teacher's rationale and writes `right` or `wrong`: whether the
teacher's label is the gold one. The paper has the teacher evaluate itself in words; the verdict
here needs no further outputs of the teacher.

Source: Liu et al. 2024, arXiv 2311.09214.
"""

from dss_jax.methods.base import Method, Row, Term
from dss_jax.methods.dss import LABEL_ROW, RATIONALE_ROW
from dss_jax.methods.registry import register

ROW = Row('self_evaluation', '[evaluation] {input} [rationale] {rationale}', '{verdict}')
SELF_EVALUATION = register(
  Method(
    name='self_evaluation',
    summary='step by step and, as a third task, whether a rationale argues for the right answer',
    rows=(LABEL_ROW, RATIONALE_ROW, ROW),
    loss=(Term('label'), Term('rationale'), Term('self_evaluation')),
    answer=LABEL_ROW,
    source='Liu et al. 2024, arXiv 2311.09214, with verdicts in the place of words',
  )
)
