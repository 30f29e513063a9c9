"""ANLI, round 1: natural language inference written by people to fool a model.

Source: Nie et al. 2020, arXiv 1910.14599.
"""

from dss_jax.datasets import release, released_parser, teacher_outputs
from dss_jax.datasets.esnli import nli_fields
from dss_jax.methods import Choices

DATASET = release.Dataset(
  name='anli1',
  metric='text',
  fields=nli_fields,
  parse=lambda completion, row: teacher_outputs.nli_answer_is(completion),
  splits={'train': 'train', 'validation': 'valid', 'test': 'test'},
  teacher=release.TEACHER,
  parse_released=released_parser.nli_answer_is,
  choices=Choices(teacher_outputs.NLI_LABELS),
)
