"""Properties of a teacher's outputs, the rules that go by them, and sums of them over a split."""

import time

import pytest

from dss_jax.datasets.release import Example
from dss_jax.teacher import filters, measures, quality

# ---------------------------------------------------------------- votes


@pytest.mark.parametrize(
  ('answers', 'metric', 'label', 'members', 'margin'),
  [
    (['a', 'b', 'b', 'b'], 'text', 'b', (1, 2, 3), 0.5),
    (['a', 'b', 'b', 'a'], 'text', 'a', (0, 3), 0),  # as many: the first given
    (['', 'b', '', ''], 'text', 'b', (1,), 0.25),
    (['', ''], 'text', '', (), 0),
    ([], 'text', '', (), 0),
    (['(3 + 4)', '( 2 + 2 )', '(4 + 3)', '7'], 'equation', '(3 + 4)', (0, 2, 3), 0.5),
    (['(some - 8)', '(some - 8)', '(1 + 1)'], 'equation', '(some - 8)', (0, 1), 1 / 3),
    (['Yes', 'yes'], 'text', 'Yes', (0,), 0),
  ],
)
def test_the_label_of_most_samples_wins_by_a_margin(answers, metric, label, members, margin):
  found = quality.vote(answers, metric)
  assert found[:2] == (label, members)
  assert found.margin == pytest.approx(margin)


# ---------------------------------------------------------------- rationales


@pytest.mark.parametrize(
  ('rationale', 'label', 'metric', 'expected'),
  [
    ('Only a Math-Problem has to do with it.', 'math problem', 'text', True),
    ('Only mathematics has problems.', 'math problem', 'text', False),
    ('He is in an entailments class.', 'entailment', 'text', False),
    ('This is an entailment.', 'entailment', 'text', True),
    ('So they planted 10 * 45 seeds.', '( 10.0 * 45.0 )', 'equation', True),
    ('So they planted 10*45 seeds.', '(10 * 45)', 'equation', True),
    ('So it is 110 * 45.', '(10 * 45)', 'equation', False),
    ('So it is 10 * 450.', '(10 * 45)', 'equation', False),
    ('So it is 10 * 45.5', '(10 * 45)', 'equation', False),
    ('(2 + 1) * (3 + 4) are left.', '((2 + 1) * (3 + 4))', 'equation', True),
    ('答えは肯定的です。', '肯定的', 'text', True),
    ('Anything.', '', 'text', False),
    ('', 'x', 'text', False),
  ],
)
def test_a_label_within_its_rationale_is_found(rationale, label, metric, expected):
  assert quality.leaks(rationale, label, metric) is expected


@pytest.mark.parametrize(
  ('rationale', 'question', 'expected'),
  [
    ('他有两个苹果。', 'He has two apples.', True),
    ('Он взял два.', 'He has two apples.', True),
    ('He has two, 二, apples.', 'He has two apples.', False),  # one letter of many
    ('りんごが二つ。', '林檎二つ', False),
    ('Das sind zwei Äpfel.', 'He has two apples.', False),  # the same script
    ('two', '2 + 2', False),  # nothing to compare with
    ('', 'He', False),
  ],
)
def test_a_rationale_in_another_script_is_found(rationale, question, expected):
  assert quality.is_foreign(rationale, question) is expected


def test_a_rationale_that_came_before_is_known_up_to_case_and_spaces():
  seen = quality.Seen()
  said = ['It is so.', 'it is  so.\n', 'It is not so.', '', '']
  assert [seen.repeats(text) for text in said] == [False, True, False, False, False]


# ---------------------------------------------------------------- filters

SAMPLES = {
  'good': ('Two and one.', '(2 + 1)'),
  'again': ('two and  one.', '(1 + 2)'),
  'wrong': ('Two less one.', '(2 - 1)'),
  'unparsed': ('Two and one, or.', ''),
  'bare': ('', '(2 + 1)'),
  'leaky': ('So 2 + 1 it is.', '(2 + 1)'),
  'foreign': ('Два и один.', '(2 + 1)'),
}
ROW = Example('Two and one?', '( 2.0 + 1.0 )', *zip(*SAMPLES.values(), strict=True))


def kept(spelling, example=ROW):
  row_filter = filters.Filter(spelling, 'equation')
  names = [
    name
    for name, sample in zip(SAMPLES, filters.judged(example, 'equation'), strict=True)
    if row_filter.keeps(sample)
  ]
  return names, row_filter.dropped


@pytest.mark.parametrize(
  ('spelling', 'dropped'),
  [
    ('none', []),
    ('clean', ['unparsed', 'bare']),
    ('agree', ['wrong', 'unparsed', 'bare']),
    ('vote', ['wrong', 'unparsed']),
    ('margin=0.5', []),  # five of seven against one
    ('margin=0.6', list(SAMPLES)),
    ('unique', ['again']),
    ('no_leak', ['leaky']),
    ('same_language', ['foreign']),
    ('words=4-9', ['good', 'again', 'wrong', 'bare', 'foreign']),
  ],
)
def test_each_rule_drops_what_it_says_and_counts_it(spelling, dropped):
  names, counts = kept(spelling)
  assert names == [name for name in SAMPLES if name not in dropped]
  assert counts == ({} if spelling == 'none' else {spelling: len(dropped)})


def test_several_rules_apply_in_order_and_count_once():
  names, counts = kept('clean, unique,agree,no_leak')
  assert names == ['good', 'foreign']
  assert counts == {'clean': 2, 'unique': 1, 'agree': 1, 'no_leak': 1}


def test_without_a_gold_label_nothing_disagrees():
  names, _ = kept('agree', Example('x', '', ROW.rationale, ROW.teacher_label))
  assert 'wrong' in names


@pytest.mark.parametrize(
  ('spelling', 'message'),
  [
    ('cleen', "no rule 'cleen'; there are clean"),
    ('', "no rule ''; there are none, clean, agree"),
    ('none,clean', 'expected none alone, or rules that differ'),
    ('clean,clean', 'expected none alone, or rules that differ'),
    ('margin=2', "no rule 'margin=2'"),
    ('margin=nan', 'no rule'),
    ('words=9-3', "no rule 'words=9-3'; there are words=MIN-MAX"),
    ('words=\u0661-\u0663', 'no rule'),  # digits of another script
  ],
)
def test_rules_that_there_are_not_are_refused(spelling, message):
  with pytest.raises(ValueError, match=message):
    filters.Filter(spelling, 'text')


# ---------------------------------------------------------------- sums over a split


def test_the_measures_of_a_split_are_those_of_its_samples():
  rows = [
    ROW,
    Example('Three?', '( 3.0 )', ('Three.', 'Four.'), ('(3)', '(4)')),  # the first given wins
    Example('Four?', '( 4.0 )', ('Some.', 'Some more.'), ('(4)', '4')),
    Example('Nothing?', '( 5.0 )'),
  ]
  found = measures.measure(rows, 'equation', most=1)
  report = found.report()
  assert (report['rows'], report['samples'], report['samples_a_row']) == (4, 12, 3)
  assert report['parsed'] == round(10 / 12, 6)
  assert report['with_rationale'] == round(10 / 12, 6)
  assert report['agreement'] == round((5 + 1 + 2) / 12, 6)
  assert report['vote_agreement'] == 0.75
  assert report['unanimous'] == round(1 / 3, 6)
  assert report['margin'] == round((4 / 7 + 0 + 1) / 3, 6)
  assert (report['leaks'], report['repeated'], report['foreign']) == (0.1, 0.1, 0.1)
  assert report['words'] == {'min': 1, 'p5': 1, 'p50': 3, 'p95': 6, 'max': 6}
  shown = {
    kind: [(one.row, one.sample.rationale) for one in of] for kind, of in found.shown.items()
  }
  assert shown == {
    'unparsed': [(0, 'Two and one, or.')],
    'no_rationale': [(0, '')],
    'disagrees': [(0, 'Two less one.')],
    'split_vote': [(0, 'Two less one.')],
    'leaks': [(0, 'So 2 + 1 it is.')],
    'repeated': [(0, 'two and  one.')],
    'foreign': [(0, 'Два и один.')],
    'shortest': [(1, 'Three.')],
    'longest': [(0, 'So 2 + 1 it is.')],
  }
  assert measures.measure(rows, 'equation').report() == report


def test_a_split_without_a_teacher_has_no_shares():
  report = measures.measure([Example('x', 'a'), Example('y', 'b')], 'text').report()
  assert report['rows'] == 2
  assert {value for name, value in report.items() if not name.startswith(('rows', 'samples'))} == {
    None
  }


def test_properties_of_hostile_texts_take_linear_time():
  started = time.process_time()
  for part in ('(', ')', '1.0', '1.', ' ', 'a', '\u4e8c', '((1', '.0'):
    text = part * (300_000 // len(part))
    for metric in ('text', 'equation'):
      quality.leaks(text, text, metric)
      quality.leaks(text, part * 300, metric)
      quality.vote([text] * 20, metric)
    quality.is_foreign(text, text)
  assert time.process_time() - started < 20
