"""What a check of `dss doctor` says; the checks are in doctor_checks.py and doctor_access.py."""

from typing import NamedTuple

OK, WARNING, BAD = 'ok', 'warning', 'bad'


class Finding(NamedTuple):
  """What a check found.

  Attributes:
    level: OK, WARNING or BAD.
    what: was looked at.
    found: in words.
    fix: a command or setting; '' where nothing is wrong.
  """

  level: str
  what: str
  found: str
  fix: str = ''
