"""Every kind of annotation that our settings have, with values that fit and that do not."""

import dataclasses
import os
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
    ('activations', ('relu', 3)),
    ('rate', float('nan')),
    ('rate', float('inf')),
    ('lengths', {'inputs': 3.0}),
    ('lengths', {'inputs': True}),
    ('lengths', {3: 3}),
    ('methods', ['dss', None]),
  ],
)
def test_a_value_of_another_type_is_named(name, value):
  told = rf'_Settings\.{name} is (of type .*|a finite number), not {re.escape(repr(value))}\.'
  with pytest.raises(ValueError, match=told):
    fields.check(_Settings(**{name: value}))


@dataclasses.dataclass(frozen=True)
class _Folders:
  folder: fields.Path = ''
  other: fields.Path | None = None
  text: str = ''


def test_a_tilde_is_the_home_folder_in_paths_alone(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  settings = _Folders('~/a', '~', '~/a')
  fields.check(settings)
  assert settings == _Folders('/home/me/a', '/home/me', '~/a')
  for path in ('gs://b/~/a', 'a/~', './~/a'):
    assert fields.expanded(path) == path
  with pytest.raises(ValueError, match=r"'file:///a' is no path: expected a file or folder"):
    fields.check(_Folders('file:///a'))
  assert fields.expanded('~root/a').endswith('/a') and '~' not in fields.expanded('~root/a')


def test_a_name_that_is_not_utf_8_is_refused():
  with pytest.raises(ValueError, match=r"'/a\\udcff' is no name .* not UTF-8: rename it"):
    fields.check(_Folders(os.fsdecode(b'/a\xff')))


def test_a_home_folder_that_is_not_there_is_told():
  with pytest.raises(ValueError, match=r'^~no_such_user/a: there is no home folder ~no_such_user'):
    fields.check(_Folders('~no_such_user/a'))
