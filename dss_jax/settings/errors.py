"""Errors that users can fix, shown as a message without a traceback, and a process's exit codes."""

import errno
import gzip
import re

USERS = 2  # a mistake of configuration or input, which another attempt would repeat
MAY_PASS = 74  # input or output failed, as a network, bucket or disk does; EX_IOERR of sysexits.h

# A missing or forbidden bucket, as TensorFlow and Google's libraries report it.
_STORES = ('tensorflow.python.framework.errors', 'google.api_core', 'google.auth')
_TRANSPORTS = ('httpx', 'httpcore')  # and httpx2, by the same names
_USERS_FILES = (
  FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError,
  gzip.BadGzipFile, ChildProcessError,
)  # fmt: skip
_USERS_ERRNOS = {
  errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODEV, errno.ENOTEMPTY, errno.ENXIO,
  errno.EROFS, errno.EXDEV,
}  # fmt: skip
# Cancelled, unknown, deadline exceeded, resource exhausted, aborted, internal, unavailable: of gRPC
# and of TensorFlow, by number, and as tensorstore writes them into a ValueError.
_RPC_CODES = {1, 2, 4, 8, 10, 13, 14}
# No quote before it: what is quoted in a message is of users.
_RPC_TEXT = re.compile(
  r'[^\'"]*(?<![^\s:(])(?:DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|UNAVAILABLE): '
)
_WITHOUT_STATUS = {'RetryError', 'TransportError', 'TimeoutError'}  # of Google's libraries


class ConfigError(ValueError):
  """An invalid configuration; the message has what was expected, what was given and the fix."""


def is_users(error: BaseException) -> bool:
  """Whether an error's message is all that a user needs; others are shown with a traceback."""
  if isinstance(error, ValueError | ArithmeticError | OSError | ImportError):
    return True
  return type(error).__module__.startswith(_STORES) or bool(_may_pass(error))


def exit_code(error: BaseException) -> int:
  """The exit code of an error that `is_users`: MAY_PASS if another attempt may succeed, else USERS.

  The first cause decides: a ValueError that was raised from a broken connection may pass.
  """
  chain = [error]
  while (cause := chain[-1].__cause__) is not None and not any(cause is one for one in chain):
    chain.append(cause)
  verdicts = [verdict for one in reversed(chain) if (verdict := _may_pass(one)) is not None]
  return MAY_PASS if verdicts and verdicts[0] else USERS


def _may_pass(error: BaseException) -> bool | None:
  """Whether an error of input or output may pass by itself; None if it is no such error."""
  status, module = _http_status(error), type(error).__module__
  if status is not None:
    return status in (408, 425, 429) or status >= 500
  code = _rpc_code(error)
  if code is not None:
    return code in _RPC_CODES
  if module.startswith(_STORES):
    return type(error).__name__ in _WITHOUT_STATUS
  if isinstance(error, OSError):
    users = isinstance(error, (ValueError, *_USERS_FILES)) or error.errno in _USERS_ERRNOS
    return not users  # ValueError too: a malformed address, a certificate of somebody else
  if any(one.__module__ == 'http.client' for one in type(error).__mro__):
    return type(error).__name__ != 'InvalidURL'
  if module.startswith(_TRANSPORTS):
    return not isinstance(error, ValueError | TypeError) and 'URL' not in type(error).__name__
  return True if isinstance(error, ValueError) and _RPC_TEXT.match(str(error)) else None


def _http_status(error: BaseException) -> int | None:
  """The status of a server's answer, as urllib, requests, httpx and Google's libraries have it."""
  response = getattr(error, 'response', None)
  for status in (getattr(response, 'status_code', None), getattr(error, 'code', None)):
    if isinstance(status, int) and status // 100 in (1, 3, 4, 5):
      return int(status)
  return None


def _rpc_code(error: BaseException) -> int | None:
  """The number of gRPC's status, of an error of gRPC or TensorFlow."""
  module = type(error).__module__
  if module.startswith('tensorflow.python.framework.errors'):
    return getattr(error, 'error_code', None)
  if module.startswith('grpc') and callable(getattr(error, 'code', None)):
    return error.code().value[0]  # type: ignore[attr-defined]
  return None
