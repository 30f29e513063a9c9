"""SVAMP: arithmetic word problems; the label is an equation, compared by value.

Source: Patel et al. 2021, arXiv 2103.07191; split and teacher outputs from the paper's release.
"""

from dss_jax.datasets import release, released_parser, teacher_outputs

DATASET = release.Dataset(
  name='svamp',
  metric='equation',
  fields=lambda row: (release.text(row, 'input'), release.text(row, 'label')),
  parse=lambda completion, row: teacher_outputs.equation(completion),
  splits={'train': 'train', 'validation': 'train', 'test': 'test'},
  teacher=release.TEACHER,
  parse_released=released_parser.equation,
)
