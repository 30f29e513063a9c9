"""Which errors a user is shown as one line instead of a traceback.

Owns the list, for the command line and for processes of a multi-process run. Imports nothing.
"""

USER_ERRORS = (ValueError, ArithmeticError, OSError, ImportError)
"""Errors whose message says what was expected, what was given and what mends it."""
