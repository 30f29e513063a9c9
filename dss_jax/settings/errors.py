"""Errors of settings."""


class ConfigError(ValueError):
  """A configuration that cannot be; says what was expected, what was given and what mends it."""
