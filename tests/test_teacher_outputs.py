"""The parser of teacher outputs: on odd completions, and against the paper's on all real files."""

import collections
import json
import re
import time

import pytest

from dss_jax import datasets
from dss_jax.datasets import completions, release, released_parser, teacher_outputs
from dss_jax.datasets.teacher_outputs import TeacherOutput
from dss_jax.tasks import metrics

CHOICES = ['toolbox', 'tool shed', 'hammer store', 'skyscaper', 'washington d.c']


@pytest.mark.parametrize(
  ('completion', 'expected'),
  [
    ('Six rounds. The answer is (84 / 2).\n\nQ: There', ('Six rounds.', '(84 / 2)')),
    ('Cut in the next. The answer is (1 + 2).\n\nQ', ('Cut in the next.', '(1 + 2)')),
    ('Ends here. The answer is (1 + 2)', ('Ends here.', '(1 + 2)')),
    ('a\nb.\nThe answer is (1).\n', ('a\nb.', '(1)')),
    # Brackets that do not enclose the whole equation: the first pair alone has another value.
    ('Both. The answer is (16 * 17) * 4.\n\nQ: X', ('Both.', '((16 * 17) * 4)')),
    ('Both. The answer is 4 * 2.', ('Both.', '(4 * 2)')),
    ('Units. The answer is (4 * 2) apples.', ('Units.', '(4 * 2)')),
    # Cut off.
    ('Long. The answer is ((491 - 21', ('Long.', '')),
    ('Long. The answer is ((415 - 309) - (41', ('Long.', '')),
    ('Long. The answer is', ('Long.', '')),
    ('On and on and on and', ('', '')),
    ('', ('', '')),
    # An answer without a value stays what it is; an invented example is not read.
    ('X. The answer is (some - 8).', ('X.', '(some - 8)')),
    ('X. The answer is (8 / 4) and (6 / 4).', ('X.', '(8 / 4) and (6 / 4)')),
    ('X.\n\nQ: Y\nA: Z. The answer is (3).', ('', '')),
    ('Q: Y\nA: Z. The answer is (3).', ('', '')),
  ],
)
def test_equation(completion, expected):
  assert teacher_outputs.equation(completion) == TeacherOutput(*expected)


@pytest.mark.parametrize(
  ('completion', 'expected'),
  [
    ('Only tools. So the answer is (b) tool shed.\n\nQ: What', ('Only tools.', 'tool shed')),
    ('T. So the answer is (b) tool shed', ('T.', 'tool shed')),
    ('The closest answer is (a). So the answer is (a) toolbox.', ('The closest answer is (a).', 0)),
    # The text counts where letter and text disagree.
    ('T. So the answer is (c) toolbox.', ('T.', 'toolbox')),
    # Case, punctuation, typing errors on either side, a lost end, a letter alone.
    ('T. So the answer is (B) Tool shed.', ('T.', 'tool shed')),
    ('T. So the answer is (e) Washington D.C.\n\nQ: X', ('T.', 'washington d.c')),
    ('T. So the answer is (d) skyscraper.', ('T.', 'skyscaper')),
    ('T. So the answer is (c) hammer', ('T.', 'hammer store')),
    ('T. So the answer is (c)', ('T.', 'hammer store')),
    # An answer that was not offered stays and disagrees.
    ('T. So the answer is (a) bookshop.', ('T.', 'bookshop')),
    ('T. So the answer is (g) bookshop.', ('T.', 'bookshop')),
    # No single answer.
    ('T. So the answer is either (a) toolbox or (b) tool shed.', ('T.', '')),
    ('T. So the answer is one of these.', ('T.', '')),
    ('T. So the answer', ('', '')),
  ],
)
def test_choice(completion, expected):
  rationale, label = expected
  label = CHOICES[label] if isinstance(label, int) else label
  assert teacher_outputs.choice(completion, CHOICES) == TeacherOutput(rationale, label)


@pytest.mark.parametrize(
  ('completion', 'expected'),
  [
    ('They met. So the answer is neutral.\n\nPremise: X', ('They met.', 'neutral')),
    ('They met. So the answer is neutral.\n\nPre', ('They met.', 'neutral')),
    ('It is 7, so the answer is Entailment.', ('It is 7', 'entailment')),
    ('Since it is 7, the answer is entailment.', ('Since it is 7', 'entailment')),
    ('It is 7. The answer is contradiction.', ('It is 7.', 'contradiction')),
    (
      'Born 1930. The answer is 71. So the answer is neutral.',
      ('Born 1930. The answer is 71.', 'neutral'),
    ),
    ('Odd. The answer is neutral because nothing is said.', ('Odd.', 'neutral')),
    ('Alike. So the answer is analogy.', ('Alike.', '')),
    ('Cut. So the answer is contra', ('Cut.', '')),
    ('Cut. So the answer is', ('Cut.', '')),
    ('1989, so the hypothesis is false.', ('', '')),
    ('\n\nPremise: X\nAnswer: Y. So the answer is neutral.', ('', '')),
  ],
)
def test_nli_answer_is(completion, expected):
  assert teacher_outputs.nli_answer_is(completion) == TeacherOutput(*expected)


@pytest.mark.parametrize(
  ('completion', 'expected'),
  [
    ('A dog.\nAnswer: neutral\n\nPremise: A', ('A dog.', 'neutral')),
    ('A dog.\nAnswer: neutral\n\nPre', ('A dog.', 'neutral')),
    ('A dog.\nAnswer: neutral', ('A dog.', 'neutral')),
    ('A dog.\nAnswer: \n\nPremise: A\nAnswer: neutral', ('A dog.', '')),
    ('A dog.\nAnswer: contra', ('A dog.', '')),
    ('A dog.\nAnswer:', ('A dog.', '')),
    ('Answer: neutral', ('', 'neutral')),
    ('A dog is an animal is a dog is', ('', '')),
  ],
)
def test_nli_answer_line(completion, expected):
  assert teacher_outputs.nli_answer_line(completion) == TeacherOutput(*expected)


# On all real files: labels that only we find, labels that only the paper finds, labels that differ,
# rationales that differ. Where each comes from is asserted below.
KNOWN_DIFFERENCES = {
  'svamp': {'completions': 1000, 'lost': 1, 'changed': 36},
  'cqa': {'completions': 10962, 'lost': 309, 'changed': 169},
  'anli1': {'completions': 18946, 'found': 125, 'lost': 1, 'changed': 1, 'rationale': 125},
  'esnli': {'completions': 19666, 'changed': 1, 'rationale': 4},
}


@pytest.mark.parametrize('name', sorted(KNOWN_DIFFERENCES))
def test_differences_from_the_papers_parser_are_the_known_ones(name, raw_dir):
  dataset = datasets.get(name)
  seen: collections.Counter[str] = collections.Counter()
  for row, completion in rows_and_completions(dataset, raw_dir):
    ours, paper = dataset.parse(completion, row), dataset.parse_released(completion)
    seen['completions'] += 1
    if ours.rationale != paper.rationale:
      seen['rationale'] += 1
      assert not paper.label, 'where the paper finds an answer, the rationales are the same'
    if ours.label == paper.label:
      continue
    kind = 'lost' if not ours.label else 'changed' if paper.label else 'found'
    seen[kind] += 1
    explain(name, kind, completion, row, ours.label, paper.label)
  assert seen == KNOWN_DIFFERENCES[name]


@pytest.mark.parametrize(
  ('parse', 'completion', 'expected'),
  [
    ('equation', 'So. The answer is (12 - 2) - 7.\n\nQ: a', ('So.', '(12 - 2)')),
    ('equation', 'So. The answer is 7.\n(1)) x (2', ('So.', '(1))')),
    ('equation', 'So. the answer is (7).', ('', '')),
    ('equation', 'The answer is (1). The answer is (2).', ('', '')),
    ('choice', 'Thus. So the answer is (d) Math problem.\n\nQ:', ('Thus.', 'Math problem')),
    ('choice', 'So the answer is (a) cat or (b) dog.', ('', 'cat or')),
    ('choice', 'So the answer is cat.', ('', '')),
    ('nli_answer_is', 'As. So the answer is neutral.\n\nPremise: b', ('As.', 'neutral')),
    ('nli_answer_is', 'As. The answer is neutral.', ('', '')),
    ('nli_answer_line', 'As.\nAnswer: neutral\n\nPremise: b', ('As.', 'neutral')),
    ('nli_answer_line', 'As it goes on', ('As it goes on', '')),
  ],
)
def test_the_released_parser_reads_as_the_papers_code(parse, completion, expected):
  assert getattr(released_parser, parse)(completion) == TeacherOutput(*expected)


TEACHER_ACCURACY = {  # of PaLM's few-shot chains of thought on the test split, in percent
  ('svamp', 'released'): 74.0,
  ('svamp', 'own'): 77.5,
  ('cqa', 'released'): 77.23,
  ('cqa', 'own'): 78.46,
}


@pytest.mark.parametrize(('name', 'parser'), TEACHER_ACCURACY)
def test_the_teachers_own_accuracy_by_both_readings(name, parser, raw_dir):
  dataset = release.with_parser(datasets.get(name), parser)
  files = release.split_files(dataset, raw_dir, 'test')
  is_correct = metrics.LABEL_CORRECT[dataset.metric]
  examples = list(release.read_examples(dataset, files, 'test'))
  correct = [is_correct(one.label, one.teacher_label[0]) for one in examples]
  accuracy = round(100 * sum(correct) / len(correct), 2)
  assert accuracy == TEACHER_ACCURACY[name, parser]


def test_a_brackets_long_line_is_read_in_linear_time():
  started = time.perf_counter()
  for read in (released_parser.equation, released_parser.choice):
    read('The answer is So the answer is ' + '(' * completions.MAX_COMPLETION)
  assert time.perf_counter() - started < 5


def explain(name, kind, completion, row, ours, paper):
  """Asserts why a label differs from the paper's."""
  match name, kind:
    case 'svamp', 'lost':  # cut off, and the paper takes the part up to the last bracket
      assert paper.count('(') != paper.count(')')
    case 'svamp', 'changed':  # one pair of brackets does not enclose the whole equation
      assert ours == f'({paper})' or paper in ours
    case 'cqa', 'lost':  # several choices, of which the paper takes the first, with `or`
      assert re.search(r'answer is .*\([a-e]\).*\([a-e]\)', completion)
    case 'cqa', 'changed':  # spelled otherwise than the choice
      assert ours in row['choices'] and paper not in row['choices']
    case 'anli1', 'found':  # `so the answer is`, `The answer is`: the paper knows `So` only
      assert re.search(rf'\b(the|The) answer is {ours}\b', completion)
    case 'anli1', 'lost':
      assert paper == 'analogy'
    case _:  # the next example was cut off within its first word
      assert re.match(rf'{ours}\W+\w+$', paper)


def rows_and_completions(dataset, raw_dir):
  """All completions of a data set, each with its row, empty where the rows' file is missing."""
  for split in set(dataset.splits.values()):
    completions = sorted(
      raw_dir.glob(f'{dataset.name}/llm/{split}_CoT_*.json'), key=lambda path: int(path.stem[-1])
    )
    rows = raw_dir / dataset.name / f'{dataset.name}_{split}.json'
    texts = [text for path in completions for text in json.loads(path.read_text('utf-8'))]
    if rows.exists():
      yield from zip((row for _, row in dataset.read(rows)), texts, strict=bool(texts))
    else:
      yield from (({}, text) for text in texts)
