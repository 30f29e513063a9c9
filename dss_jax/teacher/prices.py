"""What a teacher costs: the user's price file, or a package of prices; money as whole numbers.

Money is counted in billionths of a dollar, rounded up, so that sums over millions of requests are
exact. Does not own: what was spent (store.py).
"""

import dataclasses
import fractions
import functools
import math
import os

from dss_jax.settings import json_form
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.printable import one_line
from dss_jax.teacher.requests import Request, Tokens

DOLLAR = 10**9
"""Billionths of a dollar in one."""


@dataclasses.dataclass(frozen=True)
class Price:
  """Dollars per million tokens of a model.

  Attributes:
    input: of what is sent.
    output: of what is written, reasoning included.
    cached_input: of what is sent and found in the server's prompt cache; None: as `input`.
  """

  input: float
  output: float
  cached_input: float | None = None

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value is not None and not 0 <= value < 1e6:
        raise ValueError(f'{field.name} is dollars per million tokens, 0 or more, not {value}')

  @property
  def is_free(self) -> bool:
    """Whether nothing costs anything."""
    return self.input == self.output == 0

  def cost(self, tokens: Tokens) -> int:
    """Of a request with its answer, in billionths of a dollar."""
    cached = self.input if self.cached_input is None else self.cached_input
    fresh = tokens.input - tokens.cached
    each = ((fresh, self.input), (tokens.cached, cached), (tokens.output, self.output))
    return math.ceil(sum(count * _of_token(price) for count, price in each))

  def worst(self, request: Request) -> int:
    """The most that a request can cost, in billionths of a dollar."""
    worst = request.worst_tokens()
    dearest = max(self.input, self.cached_input or 0)
    return math.ceil(worst.input * _of_token(dearest) + worst.output * _of_token(self.output))


def known(model: str, base_url: str) -> Price | None:
  """The price that the package `genai-prices` knows, if it is installed, of a provider's model."""
  try:
    import genai_prices
  except ImportError:
    return None

  def of_million(**tokens: int) -> fractions.Fraction:
    usage = genai_prices.Usage(**tokens)
    found = genai_prices.calc_price(usage, model, provider_api_url=base_url)
    return fractions.Fraction(found.total_price) * 1_000_000 / 1000

  try:
    fresh, written = of_million(input_tokens=1000), of_million(output_tokens=1000)
    cached = of_million(input_tokens=1000, cache_read_tokens=1000)
  except LookupError:  # of no such provider, or model
    return None
  return Price(float(fresh), float(written), float(cached))


@functools.cache
def _of_token(price: float) -> fractions.Fraction:
  """Billionths of a dollar, exactly as the price file has it: 0.1 is no binary number."""
  return fractions.Fraction(str(price)) * DOLLAR / 1_000_000


def load(path: str, model: str) -> Price:
  """The price of a model in a file of the user's.

  Args:
    path: JSON, `{"MODEL": {"input": 0.4, "cached_input": 0.1, "output": 1.6}}`, dollars per million
      tokens.
    model: as the server names it.

  Raises:
    ConfigError: the file cannot be read, or has no price of the model.
  """
  wanted = (
    f'--price_file is JSON with dollars per million tokens, e.g. {{"{one_line(model)}": '
    '{"input": 0.4, "cached_input": 0.1, "output": 1.6}}'
  )
  try:
    prices = json_form.read_object(os.path.expanduser(path))
  except OSError as error:
    raise ConfigError(f'{wanted}; {path} cannot be read: {error.strerror}.') from error
  if model not in prices:
    raise ConfigError(f'{wanted}; {path} has no {one_line(model)!r}.')
  return json_form.from_dict(Price, prices[model], f'{path}: {one_line(model)}')
