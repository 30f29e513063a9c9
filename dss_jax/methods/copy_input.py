"""Control: step by step whose second task is to copy the input.

A language-model regulariser without a teacher: what it gains over `label`, any second task gains.
"""

from dss_jax.methods.base import Row
from dss_jax.methods.dss import with_other_task
from dss_jax.methods.registry import register

COPY_INPUT = register(
  with_other_task(
    name='copy_input',
    summary='control: step by step whose second task is to copy the input',
    source='a control of this project',
    row=Row('rationale', '[rationale] {input}', '{input}'),
  )
)
