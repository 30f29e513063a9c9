"""Step by step without the rationales that argue for a wrong answer.

A rationale row is left out where the teacher's label is not the gold one by the data set's metric;
the label rows are all there, which `dss prepare --filter=agree` would drop too.
"""

from dss_jax.methods.base import Row
from dss_jax.methods.dss import with_other_task
from dss_jax.methods.registry import register

RIGHT_RATIONALES = register(
  with_other_task(
    name='right_rationales',
    summary='step by step without rationales that argue for a wrong answer',
    source='a variant of this project',
    row=Row('rationale', '[rationale] {input}', '{rationale}', weight_if_wrong=0.0),
  )
)
