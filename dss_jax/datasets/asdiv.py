"""ASDiv: word problems that serve as extra, teacher-labelled training data for SVAMP.

Source: Miao et al. 2020, arXiv 2106.15772. Its own tasks have gold labels if ASDiv's formula is a
single equation; `svamp_asdiv` joins SVAMP (gold labels) with ASDiv (the teacher's labels), so that
`svamp_asdiv_dss` is the paper's augmented student and `svamp_asdiv_teacher_dss` uses the teacher's
labels throughout. Its validation and test splits are SVAMP's.
"""

import pathlib
import re
from collections.abc import Iterator

import defusedxml
from defusedxml import ElementTree

from dss_jax.datasets import equations, release, released_parser, rows, teacher_outputs
from dss_jax.settings.printable import one_line


def read_problems(path: pathlib.Path) -> Iterator[tuple[int, release.Row]]:
  """Yields numbered problems, from JSON lines or ASDiv.xml; numbers count lines or problems.

  Raises:
    ValueError: the file is malformed, or its XML declares entities, which may expand without
      limit (`billion laughs`); ASDiv has none.
  """
  if path.suffix.lower() != '.xml':
    yield from rows.read(path)
    return
  try:
    root = ElementTree.fromstring(path.read_bytes(), forbid_dtd=True)
  except defusedxml.DefusedXmlException as error:
    raise ValueError(
      f'{path}: expected XML without a document type or entities, like ASDiv.xml.'
    ) from error
  except (ElementTree.ParseError, LookupError, ValueError) as error:  # or an unknown encoding
    raise ValueError(f'{path}: not valid XML ({one_line(str(error), 200)}).') from error
  for number, problem in enumerate(root.iter('Problem'), start=1):
    yield number, {element.tag: ''.join(element.itertext()) for element in problem}


def _fields(row: release.Row) -> tuple[str, str]:
  body, question = release.text(row, 'Body').strip(), release.text(row, 'Question').strip()
  return f'{body}\n{question}', gold_equation(release.text(row, 'Formula'))


def gold_equation(formula: str) -> str:
  """Turns `7+2=9` into `( 7 + 2 )`; empty unless it is one equation that holds.

  Comparisons, remainders (`17/7=2 r3`), units and rounded results (`10/3=3.333`) have none.
  """
  left, _, right = formula.partition('=')
  if not equations.same_value(left, right):
    return ''
  spaced = re.sub(r' *([-+*/]) *', r' \1 ', left.strip())
  return f'( {spaced} )'


DATASET = release.Dataset(
  name='asdiv',
  metric='equation',
  fields=_fields,
  parse=lambda completion, row: teacher_outputs.equation(completion),
  splits={'train': 'train'},
  file_names={'train': ('asdiv_train.json', 'ASDiv.xml')},
  read=read_problems,
  teacher=release.TEACHER,
  parse_released=released_parser.equation,
)
