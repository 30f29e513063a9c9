"""e-SNLI: does the premise entail the hypothesis, contradict it, or neither.

Source: Camburu et al. 2018, arXiv 1812.01193. The human explanations are not used: rationales are
the teacher's. `nli_fields` serves ANLI too.
"""

from dss_jax.datasets import release, released_parser, rows, teacher_outputs
from dss_jax.methods import Choices


def nli_fields(row: release.Row) -> tuple[str, str]:
  """Gives `premise</s>hypothesis` and the label's word.

  Raises:
    ValueError: the label is not 0, 1 or 2, or a text is missing.
  """
  labels = teacher_outputs.NLI_LABELS
  label = row.get('label')
  if type(label) is not int or label not in range(len(labels)):  # True is an int, too
    raise ValueError(
      f"expected label 0, 1 or 2 ({', '.join(labels)}) in field 'label', got {rows.shown(label)}"
    )
  parts = (release.text(row, 'premise'), release.text(row, 'hypothesis'))
  return release.INPUT_SEPARATOR.join(parts), labels[label]


DATASET = release.Dataset(
  name='esnli',
  metric='text',
  fields=nli_fields,
  parse=lambda completion, row: teacher_outputs.nli_answer_line(completion),
  splits={'train': 'train', 'validation': 'valid', 'test': 'test'},
  teacher=release.TEACHER,
  parse_released=released_parser.nli_answer_line,
  choices=Choices(teacher_outputs.NLI_LABELS),
)
