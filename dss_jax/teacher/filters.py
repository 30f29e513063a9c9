"""Filters of `dss prepare`: which samples of the teacher a student learns from.

Owns: the rules, their spelling, the count of what each drops. Does not own: the properties that
they look at (quality.py), that only train is filtered (tasks/builder.py).

    none            keeps all
    clean           drops samples without a label or without a rationale
    agree           clean, and drops those whose label is not the gold one, where there is one
    vote            drops samples whose label is not that of most of the row's K samples
    margin=0.5      drops rows in which the vote won by less (share of K ahead of the next label)
    unique          drops samples whose rationale came before, in this row or another
    no_leak         drops samples whose rationale has the label in it
    same_language   drops samples whose rationale is in a script that the input does not use
    words=3-100     drops samples whose rationale has fewer words or more

`clean,unique,words=3-100` applies several, in this order.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dss_jax.datasets import labels
from dss_jax.datasets.release import Example
from dss_jax.teacher import quality

NONE = 'none'


class Judged(NamedTuple):
  """A sample of the teacher, and what is known about it.

  Attributes:
    input: of its row.
    gold: label of its row; '' if there is none.
    rationale: the teacher's.
    label: the teacher's.
    correct: whether that is the gold one.
    wins: whether it is that of most samples of the row.
    margin: of the row's vote.
  """

  input: str
  gold: str
  rationale: str
  label: str
  correct: bool
  wins: bool
  margin: float


Rule = Callable[[Judged], bool]
"""Whether a sample is kept."""


def judged(example: Example, metric: str) -> list[Judged]:
  """The samples of an example, each with what is known about it; one blank one if it has none."""
  answers = example.teacher_label or ('',)
  won = quality.vote(answers, metric)
  is_correct = labels.CORRECT[metric]
  return [
    Judged(
      example.input,
      example.label,
      rationale,
      label,
      bool(example.label) and is_correct(example.label, label),
      number in won.members,
      won.margin,
    )
    for number, (rationale, label) in enumerate(
      zip(example.rationale or ('',), answers, strict=True)
    )
  ]


class Filter:
  """Rules that are applied in order; counts what each of them drops.

  Attributes:
    dropped: how many samples each rule has dropped that those before it kept, by its spelling.
  """

  def __init__(self, spelling: str, metric: str):
    """The filter of a spelling such as 'clean,unique', for labels of a metric.

    Raises:
      ValueError: a rule is unknown, malformed or stands twice.
    """
    names = [name.strip() for name in spelling.split(',')]
    if len(set(names)) < len(names) or (NONE in names and len(names) > 1):
      raise ValueError(
        f'--filter={spelling}: expected {NONE} alone, or rules that differ, with commas between.'
      )
    self._rules = {name: _rule(name, metric) for name in names if name != NONE}
    self.dropped = dict.fromkeys(self._rules, 0)

  def keeps(self, sample: Judged) -> bool:
    """Whether a sample passes all rules; to be asked once of each, in order."""
    for name, rule in self._rules.items():
      if not rule(sample):
        self.dropped[name] += 1
        return False
    return True


def _clean(sample: Judged) -> bool:
  return bool(sample.label and sample.rationale)


def _agree(sample: Judged) -> bool:
  return _clean(sample) and (sample.correct or not sample.gold)


def _unique(metric: str) -> Rule:
  seen = quality.Seen()
  return lambda sample: not seen.repeats(sample.rationale)


_PLAIN: Mapping[str, Callable[[str], Rule]] = {
  'clean': lambda metric: _clean,
  'agree': lambda metric: _agree,
  'vote': lambda metric: lambda sample: sample.wins,
  'unique': _unique,
  'no_leak': lambda metric: (
    lambda sample: not quality.leaks(sample.rationale, sample.label, metric)
  ),
  'same_language': lambda metric: (
    lambda sample: not quality.is_foreign(sample.rationale, sample.input)
  ),
}
_WORDS = re.compile(r'words=(\d{1,6})-(\d{1,6})', re.ASCII)
_MARGIN = re.compile(r'margin=(0?\.\d{1,6}|[01](?:\.0*)?)', re.ASCII)
NAMES = (NONE, *_PLAIN, 'margin=X', 'words=MIN-MAX')
"""How the rules are written."""


def _rule(name: str, metric: str) -> Rule:
  """The rule of a name, for labels of a metric.

  Raises:
    ValueError: there is none.
  """
  if name in _PLAIN:
    return _PLAIN[name](metric)
  if match := _MARGIN.fullmatch(name):
    least = float(match[1])
    return lambda sample: sample.margin >= least
  if (match := _WORDS.fullmatch(name)) and int(match[1]) <= int(match[2]):
    low, high = int(match[1]), int(match[2])
    return lambda sample: low <= quality.word_count(sample.rationale) <= high
  near = difflib.get_close_matches(name, NAMES, n=3, cutoff=0.5) or NAMES
  raise ValueError(
    f'--filter: no rule {name[:60]!r}; there are {", ".join(near)}. X is from 0 to 1, MIN and MAX '
    'are words of a rationale.'
  )
