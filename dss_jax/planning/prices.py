"""Dollars an hour of machines, from a user's file: {"v5e-8": 9.6, ...}.

The file may have other prices too, which `dss report` reads.
"""

import math

from dss_jax.settings import fields, json_form


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
  wanted = f'PRICE_FILE is JSON with dollars an hour, e.g. {{"{topology}": 9.6}}'
  try:
    price = json_form.read_object(file).get(topology)
  except (OSError, ValueError) as error:
    raise ValueError(f'{wanted}; {file} cannot be read: {error}') from error
  if not fields.fits(price, float) or not 0 < price < math.inf:  # type: ignore[operator]
    raise ValueError(f'{wanted}; {file} has {price!r} for {topology}.')
  return float(price)  # type: ignore[arg-type]
