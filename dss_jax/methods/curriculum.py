"""Step by step in three phases of equal length: predict, joint, explain.

    weights of (L_label, L_rationale): (1, 0), then (1, 1), then (0, 1)

Batches hold both tasks throughout, so that each phase sees as many labels as step by step does.
Another schedule is another `Term`; RATIONALE_WEIGHT may be points for any method.

Source: Ezgi and Onan 2026, doi 10.32604/cmc.2025.071301 (TSCL); equal lengths are our choice.
"""

import dataclasses

from dss_jax.methods.base import Term
from dss_jax.methods.dss import DSS
from dss_jax.methods.registry import register

CURRICULUM = register(
  dataclasses.replace(
    DSS,
    name='curriculum',
    summary='step by step in three phases: labels, labels and rationales, rationales',
    loss=(
      Term('label', ((0, 1.0), (2 / 3, 1.0), (2 / 3, 0.0))),
      Term('rationale', ((0, 0.0), (1 / 3, 0.0), (1 / 3, 1.0))),
    ),
    source='Ezgi and Onan 2026, doi 10.32604/cmc.2025.071301',
  )
)
