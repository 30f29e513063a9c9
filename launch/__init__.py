"""`dss launch`: runs any verb of dss on this machine, on Cloud TPU, through SkyPilot or on GKE.

A launch is two things that do not mix: where (the flags), and what (all that follows `--`, a
command of dss, passed on as it is). What is trained is the business of gin files alone, so a launch
has none of its own, and a run does not depend on where it ran.
"""

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
  """Runs `dss launch`; returns the exit code, which is the job's where the job was waited for."""
  from dss_jax.launch import arguments  # here: `python -m dss_jax.launch.host` needs none of it

  return arguments.run(argv)
