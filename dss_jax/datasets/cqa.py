"""CommonsenseQA (from CoS-E 1.11): a question with five choices; the label is the choice's text.

Source: Talmor et al. 2019, arXiv 1811.00937; Rajani et al. 2019, arXiv 1906.02361. Its official
validation split is the test set, and validation is held out of train, as in the paper.
"""

from dss_jax.datasets import release, released_parser, rows, teacher_outputs
from dss_jax.methods import Choices

LETTERS = 'abcde'


def _fields(row: release.Row) -> tuple[str, str]:
  choices = ''.join(
    f'\n({letter}) {text}' for letter, text in zip(LETTERS, _choices(row), strict=True)
  )
  label = release.text(row, 'answer').strip()
  return f'{release.text(row, "question")}\nAnswer Choices:{choices}', label


def _choices(row: release.Row) -> list[str]:
  choices = row.get('choices')
  texts = [item for item in choices if isinstance(item, str)] if isinstance(choices, list) else []
  if not isinstance(choices, list) or not len(texts) == len(choices) == len(LETTERS):
    raise ValueError(f"expected {len(LETTERS)} texts in field 'choices', got {rows.shown(choices)}")
  return [release.without_separator(item) for item in texts]


DATASET = release.Dataset(
  name='cqa',
  metric='text',
  fields=_fields,
  parse=lambda completion, row: teacher_outputs.choice(completion, _choices(row)),
  splits={'train': 'train', 'validation': 'train', 'test': 'test'},
  teacher=release.TEACHER,
  parse_released=released_parser.choice,
  choices=Choices(listed=len(LETTERS)),
)
