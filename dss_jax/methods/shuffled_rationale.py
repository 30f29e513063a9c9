"""Control: step by step with the words of each rationale in random order.

It keeps the words and drops the argument. Each example has one order, drawn from its number.

Source: arXiv 2406.14511, which reports that shuffled rationales do about as well.
"""

from dss_jax.methods.base import Row
from dss_jax.methods.dss import with_other_task
from dss_jax.methods.registry import register

SHUFFLED_RATIONALE = register(
  with_other_task(
    name='shuffled_rationale',
    summary='control: step by step with the words of rationales in random order',
    source='arXiv 2406.14511',
    row=Row('rationale', '[rationale] {input}', '{shuffled_rationale}'),
  )
)
