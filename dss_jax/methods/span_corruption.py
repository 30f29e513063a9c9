"""Control: step by step whose second task is T5's own pretraining task, on the inputs.

15 % of an input's words, in spans of 3 on average, are replaced by sentinels `<extra_id_0>`,
`<extra_id_1>`, ...; the target is each sentinel with its words. A sentinel is one id in a
SentencePiece vocabulary, and text of 12 bytes in VOCABULARY = 'bytes'.

Source: Raffel et al. 2020, section 3.1.4; spans as T5's `random_spans_noise_mask` draws them.
"""

from dss_jax.methods.base import Row
from dss_jax.methods.dss import with_other_task
from dss_jax.methods.registry import register

SPAN_CORRUPTION = register(
  with_other_task(
    name='span_corruption',
    summary="control: step by step whose second task is T5's span corruption of the input",
    source='Raffel et al. 2020, arXiv 1910.10683, section 3.1.4',
    row=Row('rationale', '[rationale] {corrupted_input}', '{missing_spans}'),
  )
)
