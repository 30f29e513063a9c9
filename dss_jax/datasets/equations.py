"""Values of arithmetic expressions that a model wrote.

Owns: a small recursive-descent parser for what labels and teachers write. Does not own: accuracy
over many of them (metrics.py). Model output is never executed: no eval, no compile, no ast.

    sum     = product (('+' | '-') product)*
    product = factor (('*' | '/') factor)*
    factor  = '-' factor | number | '(' sum ')'
    number  = digits with an optional fraction; thousands may be grouped: 11,210

Everything else (words, unknowns, `=`, powers, `%`, two expressions) has no value.
"""

import re
from fractions import Fraction

MAX_LENGTH = 256
"""Characters. Longer texts have no value; the longest SVAMP label has fewer than 40."""
MAX_DEPTH = 32
"""Brackets and minus signs that may be nested; deeper texts have no value."""
RELATIVE_TOLERANCE = Fraction(1, 10**6)

_TOKEN = re.compile(
  r'\s*(\d{1,3}(?:,\d{3})+(?:\.\d*)?(?![\d,])|\d+(?:\.\d*)?|\.\d+|[-+*/()])', re.A
)


def evaluate(text: str) -> Fraction | None:
  """Returns the exact value of an arithmetic expression, or None where it has none.

  Never raises and takes well under a millisecond, whatever the text: garbage, division by zero
  and texts beyond MAX_LENGTH or MAX_DEPTH all give None.
  """
  tokens = _tokens(text)
  if tokens is None:
    return None
  try:
    parser = _Parser(tokens)
    value = parser.sum(depth=0)
    return value if parser.at_end else None
  except (_NotAnEquation, ZeroDivisionError):
    return None


def same_value(first: str, second: str) -> bool:
  """Whether both texts have a value and the values agree to one part in a million.

  The tolerance lets a label that was rounded to seven digits (33.33333) equal its quotient
  (100 / 3), and keeps 33.3 out.
  """
  a, b = evaluate(first), evaluate(second)
  if a is None or b is None:
    return False
  return abs(a - b) <= RELATIVE_TOLERANCE * max(abs(a), abs(b))


def _tokens(text: str) -> list[str] | None:
  """Splits a text into numbers, operators and brackets; None if anything else is in it."""
  text = text.strip()
  if len(text) > MAX_LENGTH:
    return None
  tokens, position = [], 0
  while position < len(text):
    match = _TOKEN.match(text, position)
    if match is None:
      return None
    tokens.append(match.group(1))
    position = match.end()
  return tokens


class _NotAnEquation(Exception):
  """The tokens do not follow the grammar."""


class _Parser:
  """Reads tokens from the left; each method consumes one phrase of the grammar."""

  def __init__(self, tokens: list[str]):
    self._tokens = tokens
    self._position = 0

  @property
  def at_end(self) -> bool:
    return self._position == len(self._tokens)

  def sum(self, depth: int) -> Fraction:
    value = self._product(depth)
    while (operator := self._take('+', '-')) is not None:
      term = self._product(depth)
      value = value + term if operator == '+' else value - term
    return value

  def _product(self, depth: int) -> Fraction:
    value = self._factor(depth)
    while (operator := self._take('*', '/')) is not None:
      term = self._factor(depth)
      value = value * term if operator == '*' else value / term
    return value

  def _factor(self, depth: int) -> Fraction:
    if depth > MAX_DEPTH or self.at_end:
      raise _NotAnEquation
    if self._take('-'):
      return -self._factor(depth + 1)
    if self._take('('):
      value = self.sum(depth + 1)
      if not self._take(')'):
        raise _NotAnEquation
      return value
    return self._number()

  def _number(self) -> Fraction:
    token = self._tokens[self._position]
    if not (token[0].isdigit() or token[0] == '.'):
      raise _NotAnEquation
    self._position += 1
    return Fraction(token.replace(',', '').rstrip('.'))

  def _take(self, *wanted: str) -> str | None:
    """Consumes and returns the next token if it is one of those wanted."""
    if self.at_end or self._tokens[self._position] not in wanted:
      return None
    self._position += 1
    return self._tokens[self._position - 1]
