"""Step by step with the first half of each rationale's words.

Source: arXiv 2512.21002, which trains on truncated rationales.
"""

from dss_jax.methods.base import Row
from dss_jax.methods.dss import with_other_task
from dss_jax.methods.registry import register

TRUNCATED_RATIONALE = register(
  with_other_task(
    name='truncated_rationale',
    summary='step by step with the first half of each rationale',
    source='arXiv 2512.21002',
    row=Row('rationale', '[rationale] {input}', '{first_half}'),
  )
)
