"""Mutual information: step by step, and a pull of the rationale's prediction towards the label's.

    L = 0.5 L_label + 0.5 L_rationale + 0.1 L_agreement
    L_agreement = -Σ_v p(v) log softmax(q)(v)

where p(v) is the largest probability of token v at any position of the label, q(v) the same of the
rationale, and p has no gradient. It is a lower bound of the mutual information of the two tasks up
to a constant. As in the released code, p does not sum to 1, and q is taken for logits.

Source: Chen et al. 2024, arXiv 2403.03348, and `compute_loss` of its released code, with the
weights that it recommends; there, padding counts as a position, here it does not.
"""

import dataclasses

from dss_jax.methods.base import Term
from dss_jax.methods.dss import PAIRED
from dss_jax.methods.registry import register

MUTUAL_INFORMATION = register(
  dataclasses.replace(
    PAIRED,
    name='mutual_information',
    summary='step by step with mutual information: the two tasks predict the same tokens',
    source='Chen et al. 2024, arXiv 2403.03348',
    loss=(Term('label', 0.5), Term('rationale', 0.5), Term('agreement', 0.1, kind='agreement')),
  )
)
