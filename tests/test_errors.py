"""Exit codes: 2 for what another attempt would repeat, 74 for what may pass by itself."""

import errno
import gzip
import http.client
import importlib
import io
import json
import socket
import ssl
import urllib.error

import google.auth.exceptions
import grpc
import huggingface_hub.errors
import pytest
import requests
import tensorflow as tf
from google.api_core import exceptions as google_errors

from dss_jax.settings import errors
from dss_jax.settings.errors import MAY_PASS, USERS


def caused(error: BaseException, cause: BaseException) -> BaseException:
  error.__cause__ = cause
  return error


def answered(status: int, kind=requests.HTTPError) -> BaseException:
  response = requests.Response()
  response.status_code = status
  return kind(f'the server answers {status}', response=response)


def of_hub(kind, status: int) -> BaseException:
  httpx = importlib.import_module(huggingface_hub.errors.HTTPError.__module__.split('.')[0])
  request = httpx.Request('GET', 'https://huggingface.co/a')
  return kind('no', response=httpx.Response(status, request=request))


def of_grpc(status: grpc.StatusCode) -> BaseException:
  error = grpc.RpcError('no')
  error.code = lambda: status
  return error


def of_tf(name: str) -> BaseException:
  return getattr(tf.errors, name)(None, None, name)


def of_urllib(status: int) -> BaseException:
  return urllib.error.HTTPError('https://a', status, 'no', {}, io.BytesIO())


TENSORSTORE = 'Error opening "zarr" driver: Error reading gs://b/x/.zarray: retries failed'
PASSING = {
  'reset': ConnectionResetError(errno.ECONNRESET, 'Connection reset by peer'),
  'pipe': BrokenPipeError('the bucket went away'),
  'refused': ConnectionRefusedError(errno.ECONNREFUSED, 'refused'),
  'timeout': TimeoutError('timed out'),
  'full': OSError(errno.ENOSPC, 'No space left on device'),
  'quota': OSError(errno.EDQUOT, 'Disk quota exceeded'),
  'files': OSError(errno.EMFILE, 'Too many open files'),
  'disk': OSError(errno.EIO, 'Input/output error'),
  'stale': OSError(errno.ESTALE, 'Stale file handle'),
  'name': socket.gaierror(socket.EAI_AGAIN, 'Temporary failure in name resolution'),
  'tls': ssl.SSLEOFError('EOF occurred in violation of protocol'),
  'without number': OSError('the processes of this run did not connect'),
  'urllib': urllib.error.URLError(ConnectionResetError()),
  'urllib 503': of_urllib(503),
  'half': http.client.IncompleteRead(b''),
  'requests': requests.ConnectionError('no'),
  'requests 429': answered(429),
  'requests 500': answered(500),
  'hub 503': of_hub(huggingface_hub.errors.HfHubHTTPError, 503),
  'google 503': google_errors.ServiceUnavailable('no'),
  'google deadline': google_errors.DeadlineExceeded('no'),
  'google 429': google_errors.TooManyRequests('no'),
  'google retries': google_errors.RetryError('no', cause=None),
  'credentials server': google.auth.exceptions.TransportError('no'),
  'grpc': of_grpc(grpc.StatusCode.UNAVAILABLE),
  'tensorstore': ValueError(f'ABORTED: {TENSORSTORE}'),
  'tensorstore within': ValueError(f'cannot restore: UNAVAILABLE: {TENSORSTORE}'),
  'wrapped': caused(ValueError('the download broke off after 3 bytes.'), ConnectionResetError()),
  'wrapped half': caused(ValueError('the download broke off.'), http.client.IncompleteRead(b'')),
  'wrapped answer': caused(ValueError('the server answered 503'), of_urllib(503)),
  'wrapped twice': caused(
    ValueError('there is no folder a, and the hub cannot be reached'),
    caused(huggingface_hub.errors.LocalEntryNotFoundError('a'), TimeoutError()),
  ),
  'wrapped unknown': caused(OSError('did not connect'), RuntimeError('no')),
  **{
    name: of_tf(f'{name}Error')
    for name in ('Unavailable', 'DeadlineExceeded', 'Aborted', 'ResourceExhausted', 'Unknown')
  },
}
OF_USERS = {
  'value': ValueError('BATCH_SIZE 3 is odd.'),
  'config': errors.ConfigError('no'),
  'quoted': ValueError('a.jsonl, line 1: expected an object, got "a bad UNAVAILABLE: x".'),
  'quoted twice': ValueError("'a' is of type int, not 'UNAVAILABLE: x'"),
  'import': ModuleNotFoundError('no module mine'),
  'arithmetic': FloatingPointError('the loss is not finite'),
  'file': FileNotFoundError(errno.ENOENT, 'no'),
  'permission': PermissionError(errno.EACCES, 'no'),
  'folder': IsADirectoryError(errno.EISDIR, 'no'),
  'no folder': NotADirectoryError(errno.ENOTDIR, 'no'),
  'long': OSError(errno.ENAMETOOLONG, 'File name too long'),
  'read only': OSError(errno.EROFS, 'Read-only file system'),
  'no gzip': gzip.BadGzipFile('not a gzipped file'),
  'certificate': ssl.SSLCertVerificationError('self-signed certificate'),
  'address': requests.exceptions.InvalidURL('no'),
  'json': json.JSONDecodeError('no', 'UNAVAILABLE', 0),
  'urllib 404': of_urllib(404),
  'requests 403': answered(403),
  'hub 404': of_hub(huggingface_hub.errors.RepositoryNotFoundError, 404),
  'urllib 101': of_urllib(101),
  'urllib 304': of_urllib(304),
  'hub 401': of_hub(huggingface_hub.errors.HfHubHTTPError, 401),
  'google 404': google_errors.NotFound('no'),
  'google 403': google_errors.Forbidden('no'),
  'credentials': google.auth.exceptions.DefaultCredentialsError('no'),
  'grpc': of_grpc(grpc.StatusCode.PERMISSION_DENIED),
  'tensorstore': ValueError(f'NOT_FOUND: {TENSORSTORE}'),
  'wrapped file': caused(errors.ConfigError('gin: no such file'), FileNotFoundError()),
  'wrapped answer': caused(ValueError('the hub answers 404'), of_urllib(404)),
  'refused by the cloud': caused(OSError('Cloud TPU: no'), google_errors.PermissionDenied('no')),
  **{
    name: of_tf(f'{name}Error')
    for name in ('NotFound', 'PermissionDenied', 'Unauthenticated', 'InvalidArgument', 'DataLoss')
  },
}


@pytest.mark.parametrize('error', PASSING.values(), ids=PASSING)
def test_what_may_pass_is_tried_again(error):
  assert errors.exit_code(error) == MAY_PASS


@pytest.mark.parametrize('error', OF_USERS.values(), ids=OF_USERS)
def test_what_would_happen_again_is_final(error):
  assert errors.exit_code(error) == USERS


@pytest.mark.parametrize('error', [*PASSING.values(), *OF_USERS.values()], ids=repr)
def test_all_of_these_are_one_line(error):
  assert errors.is_users(error) or isinstance(error, grpc.RpcError)


def test_our_own_mistakes_are_not_users():
  for error in (KeyError('x'), RuntimeError('UNAVAILABLE: the other process'), AssertionError()):
    assert not errors.is_users(error)


def test_causes_in_a_circle_end():
  one, other = ValueError('a'), ValueError('b')
  assert errors.exit_code(caused(one, caused(other, one))) == USERS
