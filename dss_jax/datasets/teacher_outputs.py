"""Parses a teacher's raw completion into a rationale and a label.

Owns: where a completion ends, where its answer begins, what counts as an answer. Does not own: the
files of completions (release.py), whether an answer is right (metrics.py).

A completion runs on into an invented next example, or is cut off. Rules that hold everywhere:
  - only the text before the next example (a line that opens with `Q:` or `Premise:`) is read;
  - the rationale is the text before the answer marker. Without a marker its end is unknown, so it
    is empty, as is the label (the paper's code does the same);
  - a label is empty if the answer is missing, cut off, or names several choices.
"""

import dataclasses
import difflib
import re
from collections.abc import Sequence

from dss_jax.datasets import equations

NLI_LABELS = ('entailment', 'neutral', 'contradiction')
"""In the order of the integers in the raw files."""
SIMILAR = 0.75
"""difflib ratio from which the teacher's spelling of a choice is that choice (`skyscraper`, gold
`skyscaper`); the lowest true match in CQA has 0.8, the highest false one 0.5."""
MAX_SPELLING = 256
"""Characters. A longer text is no spelling of a choice."""

_NEXT_EXAMPLE = re.compile(r'(?:^|\n)[ \t]*(?:Q|Premise):')
_ANSWER_IS = re.compile(r'\bthe answer is\b', re.IGNORECASE)
_CONNECTIVE = re.compile(r'\b(?:so|thus|hence|therefore),?$', re.IGNORECASE)
_LONGEST_CONNECTIVE = len('therefore,')
_ANSWER_LINE = re.compile(r'\bAnswer:')
_NLI_LABEL = re.compile(rf'[\s:"\'(]*({"|".join(NLI_LABELS)})\b', re.IGNORECASE)
_OPERATORS = str.maketrans('\u00d7\u00b7\u2217\u00f7\u2212', '***/-')
"""Times, dot, asterisk, division and minus signs of typesetting."""
_CHOICE = re.compile(r'\(([a-zA-Z])\)')  # IGNORECASE would add others, such as a dotted I


@dataclasses.dataclass(frozen=True)
class TeacherOutput:
  """A parsed completion; either text is empty if the teacher gave no usable one."""

  rationale: str
  label: str


def nli_answer_is(completion: str) -> TeacherOutput:
  """Parses ANLI's `<rationale> So the answer is neutral.`"""
  rationale, answer = _split_answer_is(completion)
  return TeacherOutput(rationale, _nli_label(answer))


def nli_answer_line(completion: str) -> TeacherOutput:
  """Parses e-SNLI's `<rationale>\\nAnswer: neutral`."""
  own = own_part(completion)
  marker = _ANSWER_LINE.search(own)
  if marker is None:
    return TeacherOutput('', '')
  return TeacherOutput(own[: marker.start()].strip(), _nli_label(own[marker.end() :]))


def choice(completion: str, choices: Sequence[str]) -> TeacherOutput:
  """Parses CQA's `<rationale> So the answer is (d) math problem.`

  The text after the letter counts, not the letter. It becomes the choice that it equals up to case
  and punctuation, else the letter's choice if their texts are similar, else it stays as it is (the
  teacher's answer was not among the choices).
  """
  rationale, answer = _split_answer_is(completion)
  return TeacherOutput(rationale, listed_choice(answer, choices))


def listed_choice(answer: str, choices: Sequence[str]) -> str:
  """The label of `choice`, from the text after its answer marker."""
  letters = list(_CHOICE.finditer(answer))
  if len(letters) != 1:  # none, or `either (a) chair or (c) table`
    return ''
  text = answer[letters[0].end() :].strip().removesuffix('.')
  same = [option for option in choices if _plain(option) == _plain(text)]
  if same:
    return same[0].strip()
  position = ord(letters[0].group(1).lower()) - ord('a')
  if position < len(choices) and _similar(text, choices[position]):
    return choices[position].strip()
  return text


def equation(completion: str) -> TeacherOutput:
  """Parses SVAMP's `<rationale> The answer is (84 / 2).`

  An equation without brackets around all of it, `(16 * 17) * 4`, gets them, as gold labels have
  them; so does one with its result, `16 * 17 = 272`. A times sign is read as `*`. Text in
  brackets that has no value, `(some - 8)`, stays: it is an answer, and wrong.
  """
  rationale, answer = _split_answer_is(completion)
  return TeacherOutput(rationale, equation_label(answer))


def equation_label(answer: str) -> str:
  """The label of `equation`, from the text after its answer marker."""
  answer = answer.translate(_OPERATORS).strip().removesuffix('.')
  if answer.count('(') != answer.count(')'):  # cut off
    return ''
  in_brackets = answer[answer.find('(') : answer.rfind(')') + 1] if '(' in answer else ''
  for text in (answer, answer.partition('=')[0].strip(), in_brackets):
    if equations.evaluate(text) is not None:
      return text if _is_one_bracket(text) else f'({text})'
  return in_brackets


def own_part(completion: str) -> str:
  """The completion without the invented next example."""
  return _NEXT_EXAMPLE.split(completion, maxsplit=1)[0]


def _split_answer_is(completion: str) -> tuple[str, str]:
  """Rationale, and what follows `the answer is` on its line; both empty if there is no marker."""
  return split_at(own_part(completion), _ANSWER_IS)


def split_at(own: str, marker: re.Pattern[str]) -> tuple[str, str]:
  """The texts before the last marker, without a final `so`, and after it on its line.

  Args:
    own: a completion without what comes after its end.
    marker: what stands before an answer.

  Returns:
    Rationale and answer; both empty if there is no marker.
  """
  markers = list(marker.finditer(own))
  if not markers:
    return '', ''
  answer = own[markers[-1].end() :].strip().split('\n', maxsplit=1)[0]
  return _without_connective(own[: markers[-1].start()]).strip().removesuffix(','), answer


def _without_connective(text: str) -> str:
  """A text before `the answer is` without a final `, so `, in linear time."""
  kept = text.rstrip()
  start = max(0, len(kept) - _LONGEST_CONNECTIVE - 1)  # of a word and the character before it
  connective = _CONNECTIVE.search(kept[start:])
  if len(kept) == len(text) or connective is None:
    return text
  kept = kept[: start + connective.start()].rstrip()
  return kept[:-1] if kept.endswith((',', ';')) else kept


def _nli_label(answer: str) -> str:
  match = _NLI_LABEL.match(answer)
  return match.group(1).lower() if match else ''


def _plain(text: str) -> str:
  """Lower case, letters and digits only, single spaces."""
  return ' '.join(re.findall(r'\w+', text.lower()))


def _similar(text: str, option: str) -> bool:
  """Whether a spelling is an option's up to typing errors, a lost end or some extra words."""
  first, second = _plain(text), _plain(option)
  if not first or not second or first.startswith(second) or second.startswith(first):
    return True
  if max(len(first), len(second)) > MAX_SPELLING:  # comparing takes the square of the length
    return False
  return difflib.SequenceMatcher(None, first, second).ratio() >= SIMILAR


def _is_one_bracket(text: str) -> bool:
  """Whether the first bracket closes at the very end: `((1 + 2) * 3)`, not `(1 + 2) * (3 + 4)`."""
  depth = 0
  for position, character in enumerate(text):
    depth += (character == '(') - (character == ')')
    if depth == 0:
      return position == len(text) - 1
  return False
