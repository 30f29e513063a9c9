"""`python -m dss_jax`, the same as `dss`. Holds nothing: gin would register it twice."""

import sys

from dss_jax.cli import main

sys.exit(main())
