"""Seconds from costs: an estimate from the compiler's cycles and from nominal rates.

Owns the model of time. Nothing here was measured on a TPU.
"""

import dataclasses

from dss_jax.planning.hlo import Collective, Costs
from dss_jax.settings.topologies import Topology

# Shares of the nominal rates that instructions without an estimate are assumed to reach.
OF_PEAK_FLOPS = 0.6
OF_BANDWIDTH = 0.8


@dataclasses.dataclass(frozen=True)
class Seconds:
  """Estimated time of one step.

  Attributes:
    compute: the compiler's cycles at the chip's clock, and the instructions that have none.
    overlapped: communication that runs beside computation.
    exposed: communication that computation waits for.
  """

  compute: float
  overlapped: float
  exposed: float

  @property
  def step(self) -> float:
    """Of the whole step; overlapped communication counts where it outlasts computation."""
    return max(self.compute, self.overlapped) + self.exposed


def seconds(costs: Costs, machine: Topology) -> Seconds:
  """The estimated time of a program on a TPU."""
  assert machine.clock  # every TPU has one
  others = sum(
    count * of_work(flops, size, machine) for flops, size, count in costs.without_estimate
  )
  times = {True: 0.0, False: 0.0}
  for one in costs.collectives:
    times[one.overlapped] += _collective(one, machine)
  return Seconds(costs.cycles / machine.clock + others, times[True], times[False])


def of_work(flops: int, size: int, machine: Topology) -> float:
  """Seconds of an instruction for which the compiler has no estimate."""
  assert machine.peak_flops and machine.hbm_bandwidth  # every TPU has them
  computing = flops / (OF_PEAK_FLOPS * machine.peak_flops)
  return max(computing, size / (OF_BANDWIDTH * machine.hbm_bandwidth))


def _collective(one: Collective, machine: Topology) -> float:
  """Seconds on one ring, sent both ways round.

  Each device passes on all parts but its own, and an all-reduce does so twice. A permutation passes
  on what it is given; the compiler makes them in pairs, one for each way round.
  """
  assert machine.link_bandwidth
  passes = 2 if one.kind == 'all-reduce' else 1
  part = 1.0 if one.kind == 'collective-permute' else 1 - 1 / max(one.group, 1)
  return passes * part * one.bytes / (2 * machine.link_bandwidth)
