"""What can become of a statement of T5X's: settings of ours, nothing, a difference, or a refusal.

Owns the kinds of entries of T5X's table (t5x_names.py), which knows the names, and telling whether
a value refers to a class of T5X's.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dss_jax.settings import statements
from dss_jax.settings.statements import Macro, Reference

TRANSLATED, NOTHING, REFUSED = 'translated', 'needs nothing', 'refused'
DIFFERS = 'differs'
PACKAGES = ('t5x', '__main__', 'seqio', 'optax')
MODULES = (
  'utils', 'trainer', 'partitioning', 'models', 'adafactor', 'optimizers', 'network', 'checkpoints',
  'decoding', 'export_lib', 'gin_utils', 'train_script', 'eval_script', 'infer_script',
)  # fmt: skip


class Verdict(NamedTuple):
  """What becomes of a statement.

  Attributes:
    kind: TRANSLATED; NOTHING, where the same holds here already; DIFFERS, where a run does
      something else, which is said when it starts; or REFUSED.
    why: for people; of a refusal, with our name for what was meant.
    settings: ours, which it becomes: macro, or 'module.name.parameter', to a value as gin's text.
    defaults: likewise, what holds in T5X by default; each only where no statement, earlier or
      later, sets the same.
  """

  kind: str
  why: str = ''
  settings: Mapping[str, str] = {}
  defaults: Mapping[str, str] = {}

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


def differs(why: str) -> Verdict:
  """A run does something else, as the reason says."""
  return Verdict(DIFFERS, why)


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


def refers(name: str, why: str, **defaults: Any) -> Callable[[Any], Verdict]:
  """A rule: a reference to T5X's own class or function of this name; others are refused.

  Args:
    name: of the class or function.
    why: see `Verdict`.
    **defaults: macros of ours with the values that its parameters have in T5X by default.
  """

  def rule(value: Any) -> Verdict:
    if is_of_t5x(value, name):
      return Verdict(NOTHING, why, {}, {macro: repr(given) for macro, given in defaults.items()})
    return nothing(why) if value is None else refused(why)

  return rule


def is_of_t5x(value: Any, name: str) -> bool:
  """Whether a value is a reference to T5X's own class or function of a name."""
  if not isinstance(value, Reference):
    return False
  first, _, rest = value.configurable.partition('.')
  return value.configurable.split('.')[-1] == name and (
    not rest or first in PACKAGES or first in MODULES
  )


@dataclasses.dataclass(frozen=True)
class Says:
  """A rule: what another macro of T5X's says; any other value is judged as that macro's would be.

  Attributes:
    target: the macro.
    rule: of its values.
  """

  target: str
  rule: Callable[[Any], Verdict]

  def __call__(self, value: Any) -> Verdict:
    """The verdict on a value, whose macros have been replaced."""
    return self.rule(value)
