"""`python -m dss_jax`, the same as `dss`. Holds nothing: gin would register it twice."""

import os
import sys

import dss_jax

# `python -m` searches the working directory first, where any file may be named like a library.
home = os.path.dirname(os.path.dirname(dss_jax.__file__))
if not sys.flags.safe_path and sys.path[0] == os.getcwd() != home:
  del sys.path[0]

from dss_jax.cli import main  # noqa: E402

sys.exit(main())
