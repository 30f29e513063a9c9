"""A job's folder as others may have left it: a result or a sentence, never a traceback."""

import contextlib
import json
import pathlib
import tempfile
from collections.abc import Iterator

import fuzzing
import pytest
from hypothesis import strategies

from dss_jax.launch.folder import JobFolder
from dss_jax.launch.job import Job

JOB = {'name': 'cqa', 'command': ['train'], 'topology': 'v5e-8', 'bucket': 'gs://b'}
LEAVES = strategies.none() | strategies.booleans() | strategies.integers() | strategies.text()
VALUES = strategies.recursive(LEAVES, lambda v: strategies.lists(v) | strategies.dictionaries(
  strategies.text(), v))  # fmt: skip
NAMES = strategies.sampled_from([*JOB, 'zone', 'restarts', 'state', 'exit_code', 'message', 'x'])


@contextlib.contextmanager
def with_file(name: str, content: bytes) -> Iterator[JobFolder]:
  with tempfile.TemporaryDirectory() as text:
    folder = pathlib.Path(text)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    yield JobFolder(folder)


@fuzzing.fuzz(
  strategies.sampled_from(['job.json', 'result.json', 'hosts/0.json', 'env.json']),
  strategies.binary() | VALUES.map(lambda value: json.dumps(value).encode()),
)
def test_any_content_is_read_or_refused(name, content):
  with with_file(name, content) as folder:
    kinds = {
      folder.job: Job, folder.result: dict | None, folder.reports: dict, folder.environment: dict
    }  # fmt: skip
    for call, kind in kinds.items():
      with fuzzing.may_refuse():
        assert isinstance(call(), kind)


@fuzzing.fuzz(strategies.dictionaries(NAMES, VALUES))
def test_a_job_with_any_values_is_read_or_refused(values):
  content = json.dumps({**JOB, **values}).encode()
  with with_file('job.json', content) as folder, fuzzing.may_refuse():
    assert isinstance(folder.job(), Job)


@pytest.mark.parametrize(
  'content', ['[]', '{}', '{"exit_code": "0"}', '"x"', '\xff', '[' * 100_000, '{"state": 1}']
)
def test_a_result_without_an_exit_code_is_refused(content):
  refused = pytest.raises(ValueError, match=r'result\.json (has no exit code|is not what)')
  with with_file('result.json', content.encode('latin-1')) as folder, refused:
    folder.result()
