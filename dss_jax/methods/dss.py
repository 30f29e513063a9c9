"""Distilling step by step: label and rationale as two prefixed tasks of one student.

    L = L_label + λ L_rationale, each the mean over its own target tokens of the whole batch

`dss` draws the two tasks independently, as a SeqIO mixture does; `paired` has both rows of an
example in one batch, as the paper's code does. RATIONALE_WEIGHT is λ; ALPHA is the form of the
paper's code, alpha L_label + (1 - alpha) L_rationale.

Source: Hsieh et al. 2023, Eq. 3 and 4.
"""

import dataclasses

from dss_jax.methods.base import Method, Row, Term, from_teacher
from dss_jax.methods.registry import register

LABEL_ROW = Row('label', '[label] {input}', '{label}')
RATIONALE_ROW = Row('rationale', '[rationale] {input}', '{rationale}')
DSS = register(
  Method(
    name='dss',
    summary='distilling step by step: labels and rationales as two prefixed tasks',
    rows=(LABEL_ROW, RATIONALE_ROW),
    loss=(Term('label'), Term('rationale')),
    answer=LABEL_ROW,
    source='Hsieh et al. 2023, arXiv 2305.02301, Eq. 3 and 4',
  )
)
PAIRED = register(
  dataclasses.replace(
    DSS,
    name='paired',
    summary='distilling step by step, both rows of an example in one batch',
    paired=True,
    source='Hsieh et al. 2023, arXiv 2305.02301, Eq. 3 and 4; its released code',
  )
)
TEACHER_DSS = register(from_teacher(DSS))
TEACHER_PAIRED = register(from_teacher(PAIRED))


def with_other_task(name: str, summary: str, source: str, row: Row) -> Method:
  """Distilling step by step with another second task, at the same weights."""
  return dataclasses.replace(DSS, name=name, summary=summary, source=source, rows=(LABEL_ROW, row))
