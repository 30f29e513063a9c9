"""How good a teacher's outputs are, one property at a time: pure functions over parsed texts.

Owns: the vote of K samples, which rationales give the answer away, repeat others, or are in another
language. Does not own: sums over a split (measures.py), which rows are dropped (filters.py).
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from dss_jax.datasets import labels

FOREIGN = 0.2
"""Share of a rationale's letters from which it is in another language than its input."""
MAX_LABEL = 1000
"""Characters. A longer label is looked for in no rationale."""
_WORD = re.compile(r'\w+')
_NUMBER = re.compile(r'(\d+)\.0+(?!\d)')
_ONE_SCRIPT = {'HIRAGANA': 'CJK', 'KATAKANA': 'CJK', 'KATAKANA-HIRAGANA': 'CJK', 'HALFWIDTH': 'CJK'}


class Vote(NamedTuple):
  """What K samples say together.

  Attributes:
    label: of the most samples, as the first of them writes it; '' if none has a label.
    members: the numbers of the samples, from 0, that have it.
    margin: its share of the K samples less that of the label with the next most, in [0, 1].
  """

  label: str
  members: tuple[int, ...]
  margin: float


def vote(answers: Sequence[str], metric: str) -> Vote:
  """The label of most samples; of equally many, the one that was given first.

  Labels are one if the data set's metric says so: equations by value. Samples without a label count
  for none.

  Args:
    answers: the labels of K samples, '' where there is none.
    metric: of the data set, a key of `labels.CORRECT`.

  Source: self-consistency, Wang et al. 2022, arXiv 2203.11171.
  """
  groups: list[list[int]] = []
  for number, answer in enumerate(answers):
    if not answer:
      continue
    same = (group for group in groups if is_same(answers[group[0]], answer, metric))
    if (group := next(same, None)) is not None:
      group.append(number)
    else:
      groups.append([number])
  if not groups:
    return Vote('', (), 0.0)
  first, *others = sorted(groups, key=len, reverse=True)  # stable: the first given stays first
  second = len(others[0]) if others else 0
  return Vote(answers[first[0]], tuple(first), (len(first) - second) / len(answers))


def is_same(first: str, second: str, metric: str) -> bool:
  """Whether two labels of the teacher's are one; texts without a value are compared as texts."""
  return first == second or labels.CORRECT[metric](first, second)


def leaks(rationale: str, label: str, metric: str) -> bool:
  """Whether a rationale has its label in it, so that the label could be copied out of it.

  Case, punctuation, spaces, and `.0` of numbers do not matter, nor brackets around an equation. In
  a chain of thought this is the rule where the answer is a thing that is talked about, or a
  calculation; where labels are classes (`entailment`) it is a fault.
  """
  if not label.strip() or len(label) > MAX_LABEL:
    return False
  if metric == 'equation':
    wanted = _tight(label)
    while (
      wanted.startswith('(')
      and wanted.endswith(')')
      and labels.CORRECT[metric](label, wanted[1:-1])
    ):
      wanted = wanted[1:-1]
    return re.search(rf'(?<![\d.]){re.escape(wanted)}(?![\d.]*\d)', _tight(rationale)) is not None
  if any(letter.isalpha() and letter.lower() == letter.upper() for letter in label):
    return label.strip() in rationale  # scripts without cases may have no spaces
  return f' {_words(label)} ' in f' {_words(rationale)} '


def word_count(text: str) -> int:
  """Words between spaces."""
  return len(text.split())


def is_foreign(rationale: str, question: str) -> bool:
  """Whether a rationale is in a script that its input does not use, by the letters alone.

  Two languages of one script, such as English and Spanish, are not told apart.
  """
  known = {_script(letter) for letter in question if letter.isalpha()}
  scripts = [_script(letter) for letter in rationale if letter.isalpha()]
  foreign = sum(script not in known for script in scripts)
  return bool(known) and foreign > FOREIGN * len(scripts)


class Seen:
  """Which rationales came before, up to case and white space, in eight bytes each."""

  def __init__(self):
    self._digests: set[bytes] = set()

  def repeats(self, rationale: str) -> bool:
    """Whether a rationale that is not blank came before; it has, afterwards."""
    text = ' '.join(rationale.lower().split())
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    if not text or digest in self._digests:
      return bool(text)
    self._digests.add(digest)
    return False


def _words(text: str) -> str:
  return ' '.join(_WORD.findall(text.lower()))


def _tight(text: str) -> str:
  """An equation, or a text with some in it, without spaces and `.0`."""
  return _NUMBER.sub(r'\1', ''.join(text.split()))


@functools.lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
  """The script of a letter, by the first word of its Unicode name."""
  name = unicodedata.name(letter, 'UNKNOWN').split(' ')[0]
  return _ONE_SCRIPT.get(name, name)
