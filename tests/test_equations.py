"""Values of arithmetic texts: right where there is one, None and fast everywhere else."""

import json
import random
import time
from fractions import Fraction

import pytest

from dss_jax.datasets import equations


@pytest.mark.parametrize(
  ('text', 'value'),
  [
    ('( 84.0 / 2.0 )', 42),
    ('(84 / 2)', 42),
    ('( ( 17 + 15 ) + 2 )', 34),
    ('((22/11) + (34/11))', Fraction(56, 11)),
    ('(51 - (-11))', 62),
    ('- 7 - 12', -19),
    ('2 + 3 * 4 - 6 / 4', Fraction(25, 2)),
    ('10 - 4 - 3', 3),
    ('100 / 5 / 2', 10),
    ('(95 * 118) + (11,210 / 84)', 11210 + Fraction(11210, 84)),
    ('1,234,567.5', Fraction(2469135, 2)),
    ('.5 + 1.', Fraction(3, 2)),
    ('\t7\n', 7),
    ('--7', 7),
  ],
)
def test_arithmetic_has_its_exact_value(text, value):
  assert equations.evaluate(text) == value


@pytest.mark.parametrize(
  'text',
  [
    '',
    ' ',
    '()',
    '(84 / 2',
    '84 / 2)',
    '84 2',
    '+ 7',
    '5 +',
    '3 / 0',
    '1 / (2 - 2)',
    '(some - 8)',
    '7x = 14',
    '(25 + x)',
    '(175, 5)',
    '1,23',
    '1,2345',
    '12,345,67',
    '(53 + 17) and (14 - 10)',
    '2 ** 9',
    '2 ^ 9',
    '9 ** 9 ** 9 ** 9',
    '10 % 3',
    '7 // 2',
    '1e9',
    '1_000',
    '1.2.3',
    '٣ + 1',
    '²',
    '$5',
    '__import__("os").getcwd()',
    '\x00',
  ],
)
def test_everything_else_has_no_value(text):
  assert equations.evaluate(text) is None


@pytest.mark.parametrize(
  'text',
  [
    '(' * 100_000,
    '(' * 120 + '1' + ')' * 120,
    '-' * 200 + '1',
    '9' * 100_000,
    '9*' * 50_000 + '9',
    '1,' * 100_000,
  ],
)
def test_huge_texts_have_no_value_and_take_no_time(text):
  start = time.perf_counter()
  assert equations.evaluate(text) is None
  assert time.perf_counter() - start < 0.1


def test_the_longest_text_allowed_is_fast():
  text = '9*' * (equations.MAX_LENGTH // 2 - 1) + '9'
  start = time.perf_counter()
  assert equations.evaluate(text) == 9 ** (equations.MAX_LENGTH // 2)
  assert time.perf_counter() - start < 0.1


def test_nesting_is_allowed_up_to_the_limit():
  nested = '(' * equations.MAX_DEPTH + '1' + ')' * equations.MAX_DEPTH
  assert equations.evaluate(nested) == 1
  assert equations.evaluate(f'({nested})') is None


def test_random_garbage_never_raises():
  rng = random.Random(0)
  for _ in range(5000):
    text = ''.join(rng.choices('0123456789+-*/(). ,x\n', k=rng.randrange(30)))
    assert isinstance(equations.evaluate(text), Fraction | None), text


def test_random_expressions_have_the_value_python_gives_them():
  rng = random.Random(0)
  for _ in range(300):
    a, b, c, d = (rng.randint(1, 99) for _ in range(4))
    text = f'( {a} + {b} ) * {c} - {a} / {d}'
    assert equations.evaluate(text) == (a + b) * c - Fraction(a, d)


@pytest.mark.parametrize(
  ('first', 'second', 'same'),
  [
    ('( 84.0 / 2.0 )', '42', True),
    ('3 + 4', '4 + 3', True),
    ('100 / 3', '33.33333', True),
    ('100 / 3', '33.3', False),
    ('0', '5 - 5', True),
    ('0', '0.0000001', False),
    ('5', '-5', False),
    ('garbage', 'garbage', False),
    ('1 / 0', '1 / 0', False),
  ],
)
def test_values_are_compared_to_one_part_in_a_million(first, second, same):
  assert equations.same_value(first, second) is same
  assert equations.same_value(second, first) is same


def test_every_gold_label_of_svamp_has_a_value(raw_dir):
  for split in ('train', 'test'):
    path = raw_dir / 'svamp' / f'svamp_{split}.json'
    for line in path.read_text(encoding='utf-8').splitlines():
      label = json.loads(line)['label']
      assert equations.evaluate(label) is not None, label
