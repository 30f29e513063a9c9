"""Step by step where a rationale that argues for a wrong answer counts half.

Where the teacher's label is not the gold one, the tokens of the rationale have loss weight 0.5;
L_rationale is the weighted mean: its N is the sum of the weights.
"""

from dss_jax.methods.base import Row
from dss_jax.methods.dss import with_other_task
from dss_jax.methods.registry import register

WEIGHTED_RATIONALES = register(
  with_other_task(
    name='weighted_rationales',
    summary='step by step where rationales that argue for a wrong answer count half',
    source='a variant of this project',
    row=Row('rationale', '[rationale] {input}', '{rationale}', weight_if_wrong=0.5),
  )
)
