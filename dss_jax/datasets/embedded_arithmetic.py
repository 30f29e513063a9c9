"""The second embedded data set: arithmetic word problems from our own templates, with a seed.

It needs no file and no network, so that the smoke run and the tests have a real task to learn.
Its vocabulary, `embedded_arithmetic.model`, is what `dss vocab --task=embedded_arithmetic_dss
--size=540` writes.

    input      Mia has 27 apples. She buys 13 more. She loses 6. How many apples does Mia have now?
    label      ( ( 27 + 13 ) - 6 )
    rationale  Start with 27. Buying 13 makes 40. Losing 6 leaves 34.

Memorising does not help: the numbers below 100 whose digits add up to a multiple of five (14, 23,
50, ...) never occur in the train split, not even as partial results, and all numbers of the
problems of the other splits are such numbers. The student must read the operations from the
wording and copy numbers that it never saw, digit by digit.
"""

import dataclasses
import functools
import pathlib
import random

SIZES = {'train': 8000, 'validation': 500, 'test': 500}
SEED = 2305
METRIC = 'equation'
CHOICES = None
TEACHER_ERROR_RATE = 0.1
"""How often the teacher takes one operation for another."""
DISTRACTOR_RATE = 0.05
VOCABULARY_PATH = str(pathlib.Path(__file__).with_name('embedded_arithmetic.model'))

_PEOPLE = {'He': ('Ben', 'Dan', 'Leo', 'Tom'), 'She': ('Anna', 'Lisa', 'Mia', 'Zoe')}
_OBJECTS = ('apples', 'books', 'cards', 'coins', 'eggs', 'pencils', 'shells', 'stamps')
_OPPOSITE = {'+': '-', '-': '+', '*': '+', '/': '-'}


@dataclasses.dataclass(frozen=True)
class _Step:
  """One operation, with its wording in the problem and the rationale ({n} operand, {r} result)."""

  operator: str
  problem: str
  rationale: str


_BOXES = _Step('*', '{name} has {start} boxes with {n} {things} each.', '{n} in each makes {r}.')
_CHANGES = (
  _Step('+', '{pronoun} buys {n} more.', 'Buying {n} makes {r}.'),
  _Step('+', '{pronoun} finds {n} more.', 'Finding {n} makes {r}.'),
  _Step('+', '{pronoun} gets {n} from {other}.', 'Getting {n} makes {r}.'),
  _Step('-', '{pronoun} gives {n} to {other}.', 'Giving {n} leaves {r}.'),
  _Step('-', '{pronoun} loses {n}.', 'Losing {n} leaves {r}.'),
  _Step('-', '{pronoun} sells {n}.', 'Selling {n} leaves {r}.'),
)
_SHARE = _Step(
  '/',
  '{pronoun} shares them with {n} friends. How many {things} does each friend get?',
  'Sharing with {n} gives {r}.',
)
_COMPARE = _Step(
  '-',
  '{other} has {n}. How many more {things} does {name} have than {other}?',
  'Taking {n} leaves {r}.',
)
_QUESTION = 'How many {things} does {name} have now?'


def is_held_out(number: int) -> bool:
  """Whether a number is kept for the validation and test splits."""
  return number < 100 and (number // 10 + number % 10) % 5 == 0


@functools.cache
def problems(split: str) -> tuple[dict[str, str], ...]:
  """Generates a split: SIZES[split] distinct problems, the same on every call and machine.

  Returns:
    Dicts of `input`, `label`, `rationale` and `teacher_label`.

  Raises:
    ValueError: there is no such split.
  """
  if split not in SIZES:
    raise ValueError(
      f'The data set embedded_arithmetic has the splits {", ".join(SIZES)}; not {split!r}.'
    )
  # Validation and test draw from the same numbers, so they are two parts of one list.
  train = split == 'train'
  rng = random.Random(SEED + train)
  count = SIZES['train'] if train else SIZES['validation'] + SIZES['test']
  by_input: dict[str, dict[str, str]] = {}
  while len(by_input) < count:
    problem = _problem(rng, held_out=not train)
    by_input.setdefault(problem['input'], problem)
  rows = tuple(by_input.values())
  if train:
    return rows
  return rows[: SIZES['validation']] if split == 'validation' else rows[SIZES['validation'] :]


def _problem(rng: random.Random, held_out: bool) -> dict[str, str]:
  """Draws one problem whose numbers are all held out, or none of them."""
  steps = _plan(rng)
  operands, results = _numbers(rng, steps, held_out)
  pronoun = rng.choice(sorted(_PEOPLE))
  name = rng.choice(_PEOPLE[pronoun])
  other = rng.choice([n for names in _PEOPLE.values() for n in names if n != name])
  words = {'pronoun': pronoun, 'name': name, 'other': other, 'things': rng.choice(_OBJECTS)}
  words['start'] = str(operands[0])

  sentences = [] if steps[0] is _BOXES else ['{name} has {start} {things}.'.format(**words)]
  sentences += [s.problem.format(n=n, **words) for s, n in zip(steps, operands[1:], strict=True)]
  if rng.random() < DISTRACTOR_RATE:
    age = rng.choice(_candidates(10, 99, held_out))
    sentences.insert(rng.choice((0, 1)), f'{name} is {age} years old.')
  if steps[-1] not in (_SHARE, _COMPARE):
    sentences.append(_QUESTION.format(**words))

  thoughts = [f'Start with {operands[0]}.'] + [
    step.rationale.format(n=n, r=r, **words)
    for step, n, r in zip(steps, operands[1:], results, strict=True)
  ]
  operators = [step.operator for step in steps]
  label = _equation(operators, operands)
  if rng.random() < TEACHER_ERROR_RATE:
    mistaken = rng.randrange(len(operators))
    operators[mistaken] = _OPPOSITE[operators[mistaken]]
  return {
    'input': ' '.join(sentences),
    'label': label,
    'rationale': ' '.join(thoughts),
    'teacher_label': _equation(operators, operands),
  }


def _plan(rng: random.Random) -> list[_Step]:
  """Draws one to three steps; boxes come first, sharing and comparing last."""
  length = rng.choices((1, 2, 3), weights=(35, 40, 25))[0]
  steps = [rng.choice(_CHANGES) for _ in range(length)]
  if rng.random() < 0.25:
    steps[0] = _BOXES
  if rng.random() < 0.3 and (length > 1 or steps[0] is not _BOXES):
    steps[-1] = rng.choice((_SHARE, _COMPARE))
  return steps


def _numbers(rng: random.Random, steps: list[_Step], held_out: bool) -> tuple[list[int], list[int]]:
  """Draws operands until all results are whole numbers from 1 to 999, and none is reserved.

  Returns:
    The first number and one for every step; the result after every step.
  """
  small, large = _candidates(2, 19, held_out), _candidates(10, 99, held_out)
  while True:
    operands = [rng.choice(small if steps[0] is _BOXES else large)]
    operands += [rng.choice(small if step.operator in '*/' else large) for step in steps]
    results, value = [], operands[0]
    for step, n in zip(steps, operands[1:], strict=True):
      if step.operator == '/' and value % n:
        value = 0
        break
      value = {'+': value + n, '-': value - n, '*': value * n, '/': value // n}[step.operator]
      results.append(value)
    in_range = value and all(1 <= result <= 999 for result in results)
    if in_range and (held_out or not any(map(is_held_out, results))):
      return operands, results


@functools.cache
def _candidates(first: int, last: int, held_out: bool) -> tuple[int, ...]:
  return tuple(n for n in range(first, last + 1) if is_held_out(n) == held_out)


def _equation(operators: list[str], operands: list[int]) -> str:
  """Writes the steps from the inside out, as SVAMP does: `( ( 27 + 13 ) - 6 )`."""
  text = str(operands[0])
  for operator, operand in zip(operators, operands[1:], strict=True):
    text = f'( {text} {operator} {operand} )'
  return text
