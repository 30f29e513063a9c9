"""Step by step with the cue words of each rationale: its content words, each once, in their order.

Source: arXiv 2306.08042, which reports that such words carry much of what rationales give;
likewise arXiv 2406.14511.
"""

from dss_jax.methods.base import Row
from dss_jax.methods.dss import with_other_task
from dss_jax.methods.registry import register

CUE_WORDS = register(
  with_other_task(
    name='cue_words',
    summary='step by step with the content words of rationales',
    source='arXiv 2306.08042; arXiv 2406.14511',
    row=Row('rationale', '[rationale] {input}', '{cue_words}'),
  )
)
