"""Reads a raw completion: rationale, label, and what is wrong where one of them is missing.

Owns: what every chat model may add around a text that a data set's parser expects, whether a label
was cut off, the status. Does not own: where rationale and label are in a text (the parser of the
data set: datasets/teacher_outputs.py, or the section [answer] of a prompt file).

`dss annotate` and `dss prepare` read completions here, so they never disagree. Nothing that a
teacher writes makes it fail, and it takes linear time.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from dss_jax.datasets import release, teacher_outputs
from dss_jax.datasets.completions import MAX_COMPLETION
from dss_jax.datasets.teacher_outputs import TeacherOutput

STATUSES = {
  'ok': 'a rationale and a label',
  'no_rationale': 'a label without a rationale',
  'no_answer': 'text without a usable answer: none, several, or not in the form asked for',
  'cut_off': 'the text ended, at a limit of tokens, before the answer was complete',
  'refusal': 'the teacher, or a filter of its server, refused',
  'empty': 'nothing was written',
}
CUT, FILTERED = 'length', 'content_filter'
"""What servers of OpenAI's protocol give as the reason for the end, other than 'stop'."""

_BOLD = re.compile(
  r'(?<![\w)*])\*\*(?=[\w("\'\[$\\])|(?<=[\w)."\'\]:$])\*\*(?![\w(*])'  # 2 ** 3 is no bold text
)
_NO_CHARACTER = re.compile('[\0\ud800-\udfff]')
_THOUGHT_ENDS, _THOUGHT_STARTS = '</think>', '<think>'
_REFUSES = re.compile(
  r"\b(?:I(?:'m| am) (?:sorry|unable|not able)|I (?:cannot|can't|can not|won't|must decline)|"
  r'as an AI\b|cannot (?:assist|comply|help))',
  re.IGNORECASE,
)
_START = 200
"""Characters in which a refusal says so."""
_GOES_ON = ',;:-'


class Reading(NamedTuple):
  """A completion that was read; a missing text is empty.

  Attributes:
    rationale: the teacher's.
    label: the teacher's.
    status: a key of STATUSES.
  """

  rationale: str
  label: str
  status: str


def read(
  completion: str | None,
  parse: Callable[[str], TeacherOutput],
  finish_reason: str | None = None,
) -> Reading:
  """Reads a completion.

  A text in bold is read without its asterisks, and only what comes after a thought in
  `<think>..</think>`. A label at which a text was cut off is not taken: `5 * 1` of `5 * 12`.

  Args:
    completion: as the teacher wrote it; None or blank if there is none.
    parse: the data set's parser, for the row that was asked about.
    finish_reason: why the text ends, as the server said.
  """
  text = cleaned(completion or '')
  text = text.rpartition(_THOUGHT_ENDS)[2]
  text = '' if text.lstrip().startswith(_THOUGHT_STARTS) else _BOLD.sub('', text)
  output = parse(text)
  if finish_reason == CUT and output.label and parse(f'{text.rstrip()}x').label != output.label:
    output = TeacherOutput(output.rationale, '')
  return Reading(output.rationale, output.label, _status(output, text, finish_reason))


def read_as_is(
  completion: str | None,
  parse: Callable[[str], TeacherOutput],
  finish_reason: str | None = None,
) -> Reading:
  """As `read`, but the parser alone decides, as for `--parser=released`."""
  text = cleaned(completion or '')
  output = parse(text)
  return Reading(output.rationale, output.label, _status(output, text, finish_reason))


def cleaned(text: str) -> str:
  """A text of at most `MAX_COMPLETION` letters that can be stored as UTF-8.

  A literal `</s>`, which would read as an end of sequence, becomes a space. NUL and halves of
  surrogate pairs become the replacement character.
  """
  text = release.without_separator(text[:MAX_COMPLETION])
  return _NO_CHARACTER.sub('\ufffd', text)


def _status(output: TeacherOutput, text: str, finish_reason: str | None) -> str:
  if output.label:
    return 'ok' if output.rationale else 'no_rationale'
  text = text.strip()
  if finish_reason == FILTERED or refuses(text):
    return 'refusal'
  if finish_reason == CUT:
    return 'cut_off'
  if not text:
    return 'empty'
  runs_on = teacher_outputs.own_part(text) != text  # so that its own part came to an end
  return 'no_answer' if finish_reason or runs_on or _is_finished(text) else 'cut_off'


def _is_finished(text: str) -> bool:
  """Whether a text ends with a mark that ends sentences, quotes or brackets, in any script."""
  return unicodedata.category(text[-1]) in ('Po', 'Pe', 'Pf') and text[-1] not in _GOES_ON


def refuses(text: str) -> bool:
  """Whether a text opens with a refusal, in English."""
  return _REFUSES.search(text[:_START]) is not None
