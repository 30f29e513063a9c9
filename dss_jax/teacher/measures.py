"""The quality of a teacher over a split: numbers for a table, and examples of each kind.

Owns the sums, and which examples are kept. Does not own: the properties (quality.py), the layout of
the table (commands/quality.py).
"""

import collections
import dataclasses
import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

from dss_jax.datasets.release import Example
from dss_jax.teacher import filters, quality

KINDS = {
  'unparsed': 'no usable label',
  'no_rationale': 'a label without a rationale',
  'disagrees': 'the label is not the gold one',
  'split_vote': 'samples of one input disagree',
  'leaks': 'the rationale has the label in it',
  'repeated': 'the rationale came before',
  'foreign': 'the rationale is in a script that the input does not use',
  'shortest': 'the rationale with the fewest words',
  'longest': 'the rationale with the most words',
}


class Shown(NamedTuple):
  """A sample that is shown as an example of its kind."""

  row: int
  sample: filters.Judged


@dataclasses.dataclass
class Measures:
  """Sums over the examples of a split; `add` them, then read `report`.

  `judged` counts samples of rows with a gold label, `rows_judged` such rows. A sample without a
  label is wrong, as in every other count of the teacher's accuracy.

  Attributes:
    metric: of the data set.
    most: how many examples of each kind are kept.
    shown: these, by their kind.
  """

  metric: str
  most: int = 0
  shown: dict[str, list[Shown]] = dataclasses.field(
    default_factory=lambda: {kind: [] for kind in KINDS}
  )
  counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  words: list[int] = dataclasses.field(default_factory=list)
  margins: list[float] = dataclasses.field(default_factory=list)
  _seen: quality.Seen = dataclasses.field(default_factory=quality.Seen)

  def add(self, example: Example) -> None:
    """Counts an example and its samples."""
    row, samples = self.counts['rows'], filters.judged(example, self.metric)
    self.counts['rows'] += 1
    if len(samples) > 1 and any(sample.label for sample in samples):
      self.margins.append(samples[0].margin)
      self.counts['unanimous'] += all(sample.wins for sample in samples)
      if not all(sample.wins for sample in samples):
        self._show('split_vote', row, next(one for one in samples if not one.wins))
    if example.label:
      self.counts['rows_judged'] += 1
      self.counts['vote_correct'] += any(one.wins and one.correct for one in samples)
    for sample in samples:
      self._add_sample(row, sample)

  def _add_sample(self, row: int, sample: filters.Judged) -> None:
    self.counts['samples'] += 1
    self.counts['judged'] += bool(sample.gold)
    self.counts['correct'] += sample.correct
    has = {
      'unparsed': not sample.label,
      'no_rationale': bool(sample.label) and not sample.rationale,
      'disagrees': bool(sample.gold and sample.label) and not sample.correct,
      'leaks': quality.leaks(sample.rationale, sample.label, self.metric),
      'repeated': self._seen.repeats(sample.rationale),
      'foreign': quality.is_foreign(sample.rationale, sample.input),
    }
    for kind in (kind for kind, holds in has.items() if holds):
      self.counts[kind] += 1
      self._show(kind, row, sample)
    if sample.rationale:
      self.words.append(quality.word_count(sample.rationale))
      self._show_extremes(Shown(row, sample))

  def _show(self, kind: str, row: int, sample: filters.Judged) -> None:
    if len(self.shown[kind]) < self.most:
      self.shown[kind].append(Shown(row, sample))

  def _show_extremes(self, one: Shown) -> None:
    if not self.most:
      return
    for kind, sign in (('shortest', 1), ('longest', -1)):
      kept = [*self.shown[kind], one]
      kept.sort(key=lambda shown: sign * quality.word_count(shown.sample.rationale))
      self.shown[kind] = kept[: self.most]

  def report(self) -> dict[str, Any]:
    """The numbers of the split: counts, shares in [0, 1], words of a rationale.

    A share without anything that it is of is None; so are those of a vote among single samples.
    """
    counts, samples = self.counts, self.counts['samples']
    has_teacher = counts['unparsed'] < samples or bool(self.words)
    report: dict[str, Any] = {
      'rows': counts['rows'],
      'samples': samples,
      'samples_a_row': _share(samples, counts['rows']),
    }
    shares = {
      'parsed': _share(samples - counts['unparsed'], samples),
      'with_rationale': _share(len(self.words), samples),
      'agreement': _share(counts['correct'], counts['judged']),
      'vote_agreement': _share(counts['vote_correct'], counts['rows_judged']),
      'unanimous': _share(counts['unanimous'], len(self.margins)),
      'margin': round(statistics.fmean(self.margins), 6) if self.margins else None,
      'leaks': _share(counts['leaks'], len(self.words)),
      'repeated': _share(counts['repeated'], len(self.words)),
      'foreign': _share(counts['foreign'], len(self.words)),
    }
    if not self.margins:
      shares['vote_agreement'] = None
    report |= shares if has_teacher else dict.fromkeys(shares)
    return report | {'words': _percentiles(self.words)}


def measure(examples: Iterable[Example], metric: str, most: int = 0) -> Measures:
  """The measures of a split.

  Args:
    examples: of it.
    metric: of the data set.
    most: how many examples of each kind are kept.
  """
  measures = Measures(metric, most)
  for example in examples:
    measures.add(example)
  return measures


def _share(part: int, whole: int) -> float | None:
  return round(part / whole, 6) if whole else None


def _percentiles(words: list[int]) -> dict[str, int] | None:
  """The least, the 5th, 50th and 95th percentile (by the nearest rank), and the most words."""
  if not words:
    return None
  ranked = sorted(words)
  found = {f'p{of}': ranked[-(-of * len(ranked) // 100) - 1] for of in (5, 50, 95)}
  return {'min': ranked[0], **found, 'max': ranked[-1]}
