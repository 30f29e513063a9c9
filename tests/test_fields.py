"""Every kind of annotation that our settings have, with values that fit and that do not."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import pytest

from dss_jax.settings import fields


@dataclasses.dataclass(frozen=True)
class _Settings:
  count: int = 1
  rate: float | None = 0.5
  name: int | str = 'best'
  pack: bool = True
  lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
  methods: Sequence[str] = ('dss',)
  activations: tuple[str, ...] = ('relu',)


@pytest.mark.parametrize(
  'given',
  [{}, {'rate': None}, {'rate': 1}, {'name': 3}, {'lengths': {'inputs': 3}}, {'methods': ['a']}],
)
def test_fitting_values_pass(given):
  assert fields.check(_Settings(**given)) is None


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('count', 'abc'),
    ('count', 64.0),
    ('count', True),
    ('rate', 'none'),
    ('name', None),
    ('pack', 'false'),
    ('lengths', 256),
    ('methods', 'dss'),
    ('activations', ['relu']),
  ],
)
def test_a_value_of_another_type_is_named(name, value):
  told = rf'_Settings\.{name} is of type .*, not {re.escape(repr(value))}\.'
  with pytest.raises(ValueError, match=told):
    fields.check(_Settings(**{name: value}))
