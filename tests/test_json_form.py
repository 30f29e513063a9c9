"""Dataclasses as JSON and back, their differences, and files that are written whole."""

import dataclasses
import json
import tracemalloc

import pytest

from dss_jax.settings import json_form, whole_files
from dss_jax.settings.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class _Inner:
  sizes: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class _Outer:
  inner: _Inner
  lengths: dict[str, int]
  maybe: _Inner | None = None


def test_a_dataclass_survives_json():
  outer = _Outer(_Inner(), {'inputs': 3})
  values = json.loads(json.dumps(json_form.to_dict(outer)))
  assert values == {'inner': {'sizes': [1, 2]}, 'lengths': {'inputs': 3}, 'maybe': None}
  again = json_form.from_dict(_Outer, values)
  assert isinstance(again.inner, _Inner) and again.maybe is None
  assert json_form.to_dict(again) == json_form.to_dict(outer)
  both = json_form.from_dict(
    _Outer, json_form.to_dict(dataclasses.replace(outer, maybe=_Inner((5,))))
  )
  assert isinstance(both.maybe, _Inner)


def test_differences_name_nested_values():
  a = _Outer(_Inner(), {'inputs': 3})
  b = _Outer(_Inner((1, 3)), {'inputs': 4}, maybe=None)
  assert json_form.differences(a, a) == []
  assert json_form.differences(a, b) == [
    'inner.sizes: [1, 2] -> [1, 3]',
    'lengths.inputs: 3 -> 4',
  ]
  assert json_form.differences(a, b, ignore=['inner.sizes']) == ['lengths.inputs: 3 -> 4']


def test_a_field_that_is_not_there_is_of_another_version():
  with pytest.raises(ConfigError, match="_Inner has no field 'size'; another version wrote it"):
    json_form.from_dict(_Inner, {'size': 3})


@pytest.mark.parametrize('value', ['[]', '{}', '1', '""', '{"a":1}', '[[[]]]'])
@pytest.mark.parametrize('kind', [str, str.encode])
def test_millions_of_small_values_are_not_kept(value, kind):
  text = kind('[' + f'{value},' * 3_000_000 + '0]')
  tracemalloc.start()
  with pytest.raises(ConfigError, match='file is not JSON that can be read: it has more than'):
    json_form.parse(text, 'file')
  assert tracemalloc.get_traced_memory()[1] < 1 << 20
  tracemalloc.stop()


@pytest.mark.parametrize(
  'entry', ['["▁piece of mT5",-10.123456789012345]', '"a completion, with commas, " ']
)
def test_files_of_many_values_are_read(entry):
  """mT5's tokenizer.json has 250,100 pieces; a teacher's file of e-SNLI 549,367 completions."""
  count = 260_000 if entry.startswith('[') else 549_367
  assert len(json_form.parse('[' + f'{entry},' * count + '0]', 'file')) == count + 1


def test_a_file_is_replaced_whole(tmp_path):
  whole_files.write_text(tmp_path / 'a', 'first')
  whole_files.write_text(tmp_path / 'a', 'second')
  assert (tmp_path / 'a').read_text() == 'second'
  assert [file.name for file in tmp_path.iterdir()] == ['a']
