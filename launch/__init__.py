"""`dss launch`: runs any verb of dss on this machine, on Cloud TPU, through SkyPilot or on GKE.

A launch has two separate parts: where to run (the flags), and what to run (everything after `--`, a
command of dss, passed on unchanged). Only gin files configure training, so a launch has none of its
own, and a run does not depend on where it ran.
"""

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
  """Runs `dss launch`; returns the exit code, which is the job's if it was waited for."""
  from dss_jax.launch import arguments  # here: `python -m dss_jax.launch.host` needs none of it

  return arguments.run(argv)
