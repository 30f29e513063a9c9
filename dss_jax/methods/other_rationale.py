"""Control: step by step with the rationale of another example.

The texts are the teacher's and as long, but say nothing about the input. What this gains over
`label` is not owed to what rationales say. The other example is half a batch of 512 away.
"""

from dss_jax.methods.base import Row
from dss_jax.methods.dss import with_other_task
from dss_jax.methods.registry import register

OTHER_RATIONALE = register(
  with_other_task(
    name='other_rationale',
    summary="control: step by step with another example's rationale",
    source='a control of this project',
    row=Row('rationale', '[rationale] {input}', '{other_rationale}'),
  )
)
