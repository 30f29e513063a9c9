"""Errors that a user mends: those whose message says all, without a traceback."""

# A bucket that is not there or not allowed, as TensorFlow and Google's libraries say it.
_STORES = ('tensorflow.python.framework.errors', 'google.api_core', 'google.auth')


class ConfigError(ValueError):
  """A configuration that cannot be; says what was expected, what was given and what mends it."""


def is_users(error: BaseException) -> bool:
  """Whether an error's message is all that a user needs; of others the traceback is shown."""
  if isinstance(error, ValueError | ArithmeticError | OSError | ImportError):
    return True
  return type(error).__module__.startswith(_STORES)
