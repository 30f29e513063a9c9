"""Errors that users can fix, shown as a message without a traceback."""

# A missing or forbidden bucket, as TensorFlow and Google's libraries report it.
_STORES = ('tensorflow.python.framework.errors', 'google.api_core', 'google.auth')


class ConfigError(ValueError):
  """An invalid configuration; the message has what was expected, what was given and the fix."""


def is_users(error: BaseException) -> bool:
  """Whether an error's message is all that a user needs; others are shown with a traceback."""
  if isinstance(error, ValueError | ArithmeticError | OSError | ImportError):
    return True
  return type(error).__module__.startswith(_STORES)
