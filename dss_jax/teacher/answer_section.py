"""The section [answer] of a prompt file: how the answer of a data set of a user's own is read.

Owns: its fields, the parser made from them, the data set with that parser. Does not own: the rest
of the file (prompts.py), the parsers of registered data sets (datasets/teacher_outputs.py).

    [answer]
    marker = "the answer is"      # what stands before the answer; upper and lower case are the same
    choices = ["yes", "no"]       # one of these three: the labels,
    listed = 4                    #   how many choices each input lists, in lines (a) .. (b) ..,
    metric = "equation"           #   or "text": any text up to the end of its line
"""

import dataclasses
import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

from dss_jax.datasets import labels, release, rows, teacher_outputs
from dss_jax.datasets.teacher_outputs import TeacherOutput
from dss_jax.methods import Choices

DEFAULT_MARKER = 'the answer is'
_FORMS = ('choices', 'listed', 'metric')
_NUMBER_IN_BRACKETS = re.compile(r'\(-?[\d.,]+\)')
_AROUND = ' \t:"\'`*([{'
"""What may stand between a marker and a choice."""


@dataclasses.dataclass(frozen=True)
class Answer:
  """How an answer is read.

  Attributes:
    marker: what stands before it.
    choices: among which it is; None if it is any text.
    metric: how labels are compared, a key of `labels.CORRECT`.
  """

  marker: str
  choices: Choices | None
  metric: str

  def dataset(self, name: str, stop: tuple[str, ...]) -> release.Dataset:
    """A data set of texts `input` and perhaps `label`, `rationale` and `teacher_label`.

    Args:
      name: of the data set.
      stop: where a completion that runs on is cut.
    """
    return release.Dataset(
      name=name,
      metric=self.metric,
      fields=_fields,
      parse=lambda completion, row: self.parse(completion, row, stop),
      splits={'train': 'train', 'validation': 'validation', 'test': 'test'},
      choices=self.choices,
      given=_given,
    )

  def parse(self, completion: str, row: release.Row, stop: tuple[str, ...] = ()) -> TeacherOutput:
    """The rationale and label of a completion; both empty without the marker.

    Args:
      completion: of a teacher.
      row: what it was asked about, with a text `input`.
      stop: where a completion that runs on is cut.
    """
    own = min((completion.split(one, 1)[0] for one in stop), key=len, default=completion)
    rationale, answer = teacher_outputs.split_at(own, self._pattern)
    if self.choices is None:
      return TeacherOutput(rationale, self._free_label(answer))
    if self.choices.labels:
      return TeacherOutput(rationale, _choice(answer, self.choices.labels))
    options = self.choices.of(rows.text(row, 'input'))
    return TeacherOutput(rationale, teacher_outputs.listed_choice(answer, options))

  @property
  def _pattern(self) -> re.Pattern[str]:
    return re.compile(re.escape(self.marker), re.IGNORECASE)

  def _free_label(self, answer: str) -> str:
    if self.metric == 'equation':
      found = teacher_outputs.equation_label(answer.strip(' \t:*`'))
      return found[1:-1] if _NUMBER_IN_BRACKETS.fullmatch(found) else found
    return answer.strip(' \t:*`"').removesuffix('.').strip(' \t*`"')


def read(values: Any) -> Answer:
  """The section of a prompt file.

  Raises:
    ValueError: a field is missing, unknown or of another kind.
  """
  if not isinstance(values, dict):
    raise ValueError(f"field 'answer': expected a table [answer], got {rows.shown(values)}")
  with rows.at('[answer]'):
    refuse_unknown(values, ('marker', *_FORMS))
    marker = values.get('marker', DEFAULT_MARKER)
    if not isinstance(marker, str) or not marker.strip():
      raise ValueError(
        f"field 'marker': expected the text before an answer, got {rows.shown(marker)}"
      )
    if len(given := [form for form in _FORMS if form in values]) != 1:
      raise ValueError(f'expected one of {", ".join(_FORMS)}; got {", ".join(given) or "none"}')
    metric = values.get('metric', 'text')
    if metric not in labels.CORRECT:
      raise ValueError(
        f"field 'metric': expected {' or '.join(labels.CORRECT)}, got {rows.shown(metric)}"
      )
    return Answer(marker.strip(), _choices(values), metric)


def refuse_unknown(values: Mapping[str, Any], known: Collection[str]) -> None:
  """Refuses fields of a table that nothing reads.

  Raises:
    ValueError: there is one; the message has a similar name, or all.
  """
  for field in values:
    if field not in known:
      near = difflib.get_close_matches(field, known, n=1)
      raise ValueError(f'unknown field {rows.shown(field)}; there are {", ".join(near or known)}')


def texts(values: Mapping[str, Any], field: str, most: int) -> tuple[str, ...]:
  """A list of at most `most` texts that are not empty; missing: none.

  Raises:
    ValueError: the field holds anything else.
  """
  found = values.get(field, [])
  if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
    raise ValueError(f'field {field!r}: expected a list of texts, got {rows.shown(found)}')
  if len(found) > most:
    raise ValueError(f'field {field!r}: expected {most} texts at most, got {len(found)}')
  return tuple(found)


def _choices(values: Mapping[str, Any]) -> Choices | None:
  if 'listed' in values and type(values['listed']) is not int:
    raise ValueError(f"field 'listed': expected a number, got {rows.shown(values['listed'])}")
  found = texts(values, 'choices', most=1000)
  if len({one.strip().lower() for one in found}) < len(found):
    raise ValueError(f"field 'choices': two are the same up to case, in {rows.shown(list(found))}")
  if 'metric' in values:
    return None
  return Choices([one.strip() for one in found], values.get('listed', 0))


def _fields(row: release.Row) -> tuple[str, str]:
  """A row's input and label; a row without a label has ''. Parts of an input stay apart."""
  return rows.text(row, 'input'), rows.text(row, 'label', optional=True) if 'label' in row else ''


def _given(row: release.Row) -> tuple[TeacherOutput, ...]:
  """What a row holds of a teacher, in texts or lists of K; nothing if it has neither field."""
  found = [
    rows.text_or_texts(row, field) if field in row else ''
    for field in ('rationale', 'teacher_label')
  ]
  count = max((len(one) for one in found if isinstance(one, list)), default=1)
  parts = [[one] * count if isinstance(one, str) else one for one in found]
  if not any(map(any, parts)):
    return ()
  if len(parts[0]) != len(parts[1]):
    raise ValueError(
      f'expected as many rationales as teacher labels, got {len(parts[0])} and {len(parts[1])}'
    )
  return tuple(map(TeacherOutput, *parts))


def _choice(answer: str, options: Collection[str]) -> str:
  """The option that an answer starts with; '' if none, or if it names another one too."""
  start = answer.lstrip(_AROUND)
  for option in sorted(options, key=len, reverse=True):  # 'very good' before 'very'
    if match := _named(option).match(start):
      rest = start[match.end() :]
      others = (other for other in options if other != option)
      return '' if any(_named(other).search(rest) for other in others) else option
  return ''


def _named(option: str) -> re.Pattern[str]:
  """A choice as a word of its own; scripts without cases have no spaces between words either."""
  first, last = option[0], option[-1]
  before = r'(?<!\w)' if first.lower() != first.upper() or first.isdigit() else ''
  after = r'(?!\w)' if last.lower() != last.upper() or last.isdigit() else ''
  return re.compile(f'{before}{re.escape(option)}{after}', re.IGNORECASE)
