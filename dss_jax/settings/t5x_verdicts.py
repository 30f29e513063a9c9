"""What can become of a statement of T5X's: settings of ours, nothing, or a refusal.

Owns the kinds of entries of T5X's table (t5x_names.py), which knows the names.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dss_jax.settings import statements
from dss_jax.settings.statements import Macro, Reference

TRANSLATED, NOTHING, REFUSED = 'translated', 'needs nothing', 'refused'


class Verdict(NamedTuple):
  """What becomes of a statement.

  Attributes:
    kind: TRANSLATED; NOTHING, where the same holds here already; or REFUSED.
    why: for people; of a refusal, with our name for what was meant.
    settings: ours, which it becomes: macro, or 'module.name.parameter', to a value as gin's text.
  """

  kind: str
  why: str = ''
  settings: Mapping[str, str] = {}

  @property
  def is_refused(self) -> bool:
    """Whether a run may not start with it."""
    return self.kind == REFUSED


Rule = Verdict | Callable[[Any], Verdict]


def nothing(why: str) -> Verdict:
  """The same holds here already, whatever the value is."""
  return Verdict(NOTHING, why)


def refused(why: str) -> Verdict:
  """No value of it is accepted."""
  return Verdict(REFUSED, why)


def translated(**macros: Any) -> Verdict:
  """Macros of ours with these values."""
  return Verdict(TRANSLATED, '', {name: repr(value) for name, value in macros.items()})


@dataclasses.dataclass(frozen=True)
class Becomes:
  """A rule: the value is given to a setting of ours.

  Attributes:
    target: a macro, or 'module.name.parameter'.
    but: verdicts on single values.
    more: settings that come with it.
    why: a remark for people.
  """

  target: str
  but: Sequence[tuple[Any, Verdict]] = ()
  more: Mapping[str, str] = dataclasses.field(default_factory=dict)
  why: str = ''

  def __call__(self, value: Any) -> Verdict:
    """The verdict on a value, whose macros have been replaced."""
    for exception, verdict in self.but:
      if type(value) is type(exception) and value == exception:
        return verdict
    if any(isinstance(leaf, Reference | Macro) for leaf in statements.leaves(value)):
      return refused(f'{self.target} takes a plain value')
    return Verdict(TRANSLATED, self.why, {self.target: repr(value), **self.more})


def only(values: Sequence[Any], why: str) -> Callable[[Any], Verdict]:
  """A rule: these values are what holds here already; others are refused."""

  def rule(value: Any) -> Verdict:
    known = any(type(value) is type(one) and value == one for one in values)
    return nothing(why) if known else refused(why)

  return rule


def refers(name: str, why: str) -> Callable[[Any], Verdict]:
  """A rule: a reference to T5X's own class or function of this name; others are refused."""

  def rule(value: Any) -> Verdict:
    is_its = isinstance(value, Reference) and value.configurable.split('.')[-1] == name
    return nothing(why) if is_its or value is None else refused(why)

  return rule
