"""Dollars an hour of machines, from a user's file: {"v5e-8": 9.6, ...}."""

import json
from typing import Any

from etils import epath


def dollars_per_hour(file: str | None, topology: str) -> float | None:
  """The price of a machine; None without a file.

  Args:
    file: PRICE_FILE.
    topology: the machine's name.

  Raises:
    ValueError: the file does not exist, is not JSON, or has no number for the topology.
  """
  if file is None:
    return None
  path = epath.Path(file)
  wanted = f'PRICE_FILE is JSON with dollars an hour, e.g. {{"{topology}": 9.6}}'
  try:
    prices: Any = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(f'{wanted}; {path} cannot be read: {error}.') from error
  price = prices.get(topology) if isinstance(prices, dict) else None
  if isinstance(price, bool) or not isinstance(price, int | float) or price <= 0:
    raise ValueError(f'{wanted}; {path} has {price!r} for {topology}.')
  return float(price)
