"""Control: label and rationale as one target, the label first.

The label is written before any reasoning, so a gain over `standard` cannot come from reasoning at
test time; compare with `single_task`, which writes the rationale first.

Source: arXiv 2406.14511, which reports that label first does as well or better.
"""

from dss_jax.methods.base import Method, Row, Term
from dss_jax.methods.registry import register

ROW = Row('label_rationale', '{input}', '{label} [rationale] {rationale}')
LABEL_FIRST = register(
  Method(
    name='label_first',
    summary='control: label and rationale as one target, the label first',
    rows=(ROW,),
    loss=(Term('label_rationale'),),
    answer=ROW,
    source='arXiv 2406.14511',
  )
)
