"""SCAN_LAYERS and REMAT_POLICY where they are 'auto': the program that ends the run first.

Owns the rule and the figures behind it, which are the TPU compiler's (benchmarks/RESULTS.md,
"Layers scanned, full remat" and "Layers unrolled"). A network that no figures are of has scanned
layers. A value that is set wins. The numbers of a run do not depend on the choice, nor do
checkpoints. Does not own the programs (models/t5.py); `dss plan --search` compiles them
(planning/search.py).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

from dss_jax.models import flops, t5
from dss_jax.runs.run_config import RunConfig
from dss_jax.settings.topologies import Topology

AUTO = 'auto'
NARROWEST = 640  # the embedding from which on unrolled layers were compiled
BEST_MFU = 0.57  # of scanned programs: no step is shorter than by it
ROOM = 0.9  # of the memory that an estimate may take
TOKENS = 512 + 128  # of a row of the figures
VOCABULARY = 32128  # of the networks of the figures
DTYPE = 'bfloat16'  # of their activations
ALIKE = 1.5  # times a width of the figures is still that network's
COPIES = {'adamw': 4, 'adafactor': 2}  # of each parameter, 4 bytes: itself, its gradient, moments


class Network(NamedTuple):
  """A T5 1.1 that was compiled.

  Attributes:
    emb_dim, heads, mlp_dim: its widths; of all heads together.
    layers: of both stacks.
    parameters: in millions.
    compiler: the memory that compiling it with unrolled layers takes, in GB, measured for Base and
      XXL; the others have XXL's, as a bound.
  """

  emb_dim: int
  heads: int
  mlp_dim: int
  layers: int
  parameters: int
  compiler: float


class Figures(NamedTuple):
  """A network on a slice, layers unrolled beside layers scanned with REMAT_POLICY full; Adafactor.

  Attributes:
    chip: its generation.
    network: that was compiled.
    shards: that the state is divided into.
    rows: of a device, of 512 and 128 tokens.
    mfu: of the scanned program.
    saved: the share of a step that unrolling saves.
    compilation: the seconds that it takes longer.
    memory: of a device with layers unrolled, in GB.
    remat_policy: with layers unrolled.
  """

  chip: str
  network: Network
  shards: int
  rows: int
  mfu: float
  saved: float
  compilation: int
  memory: float
  remat_policy: str


BASE = Network(768, 768, 2048, 24, 248, 7.1)
LARGE = Network(1024, 1024, 2816, 48, 783, 18)
XL = Network(2048, 2048, 5120, 48, 2850, 18)
XXL = Network(4096, 4096, 10240, 48, 11135, 18)
FIGURES = (
  Figures('v5e', BASE, 8, 16, 0.45, 1 - 0.057 / 0.078, 160 - 75, 4.1, 'none'),
  Figures('v3', BASE, 8, 16, 0.52, 1 - 0.174 / 0.217, 117 - 68, 4.4, 'none'),
  Figures('v5e', LARGE, 4, 8, 0.42, 1 - 0.097 / 0.144, 211 - 85, 6.0, 'none'),
  Figures('v3', LARGE, 8, 16, 0.57, 1 - 0.553 / 0.692, 173 - 51, 11.0, 'none'),
  Figures('v4', XL, 4, 8, 0.41, 1 - 0.277 / 0.389, 428 - 106, 10.6, 'minimal'),
  Figures('v5e', XL, 4, 2, 0.23, 1 - 0.158 / 0.239, 409 - 71, 6.3, 'minimal'),
  Figures('v5e', XXL, 16, 2, 0.27, 1 - 0.471 / 0.803, 426 - 91, 11.3, 'minimal'),
  Figures('v4', XXL, 16, 8, 0.47, 1 - 0.883 / 1.317, 466 - 134, 18.9, 'minimal'),
)


def chosen(
  run: RunConfig, machine: Topology | None, mesh: Mapping[str, int]
) -> tuple[t5.T5Config, str]:
  """The network with the program for its layers, and a line on what the choice saves.

  Args:
    run: with the vocabulary's size.
    machine: any with devices of the kind; None for one without figures.
    mesh: the sizes of data, fsdp and tensor.

  Returns:
    The network without 'auto', and the line; '' where nothing was to choose.
  """
  model = run.model
  scanned = with_scanned(model)
  if AUTO not in (model.scan_layers, model.remat_policy):
    return model, ''
  if machine is None or machine.platform != 'tpu' or model.emb_dim < NARROWEST:
    return scanned, ''
  figures = _nearest(model, machine, _rows(run, mesh))
  if figures is None:
    return scanned, ''
  unrolled = _with(model, False, figures.remat_policy)
  if model.scan_layers is True or unrolled.remat_policy != figures.remat_policy:
    return scanned, ''
  if not _fits(run, machine, mesh, figures):
    said = f'layers are scanned: unrolled, they need more memory than {ROOM:.0%} of a device'
    return scanned, said if scanned.scan_layers else ''
  if not scanned.scan_layers:
    return unrolled, ''
  step_s = _step_seconds(run, machine, mesh, figures)
  extra_s = figures.compilation * _layers(model) / figures.network.layers
  pays_after = math.ceil(extra_s / (figures.saved * step_s))
  saved_s = run.train_steps * figures.saved * step_s - extra_s
  if saved_s <= 0:
    return scanned, (
      f'layers are scanned: unrolled ones compile {_time(extra_s)} longer, which pays after some '
      f'{pays_after:,} updates (SCAN_LAYERS = False)'
    )
  return unrolled, (
    f'layers are unrolled, REMAT_POLICY {unrolled.remat_policy}: by estimate this saves '
    f'{_time(saved_s)} of {_time(run.train_steps * step_s)} (SCAN_LAYERS = True to scan them)'
  )


def may_fit(run: RunConfig, machine: Topology, mesh: Mapping[str, int]) -> bool:
  """Whether unrolled layers may fit, by estimate; True where no figures are of such a network."""
  figures = _nearest(run.model, machine, _rows(run, mesh))
  return figures is None or _fits(run, machine, mesh, figures)


def compiler_bytes(model: t5.T5Config) -> float:
  """The memory that compiling the network with unrolled layers takes, by estimate."""
  width = lambda network: abs(math.log2(network.emb_dim / model.emb_dim))  # noqa: E731
  nearest = min((figures.network for figures in FIGURES), key=width)
  return 1e9 * nearest.compiler * _layers(model) / nearest.layers


def with_scanned(model: t5.T5Config) -> t5.T5Config:
  """The network with scanned layers where it has 'auto': least memory, quickly compiled."""
  return _with(model, True, _scanned_policy(model))


def _with(model: t5.T5Config, scan: bool, remat_policy: str) -> t5.T5Config:
  """The network with these where it has 'auto'."""
  return dataclasses.replace(
    model,
    scan_layers=scan if model.scan_layers == AUTO else model.scan_layers,
    remat_policy=remat_policy if model.remat_policy == AUTO else model.remat_policy,
  )


def _scanned_policy(model: t5.T5Config) -> str:
  """What scanned layers have: on a CPU, small networks are slower if they recompute more.

  On v5e-8, T5 small takes 29.7 ms with 'minimal' and 29.0 with 'full'.
  """
  return 'none' if model.emb_dim <= 128 else 'minimal' if model.emb_dim < NARROWEST else 'full'


def _nearest(model: t5.T5Config, machine: Topology, rows: float) -> Figures | None:
  """The figures of the most similar network and chip; None where none are of such a network."""
  is_v3 = _chip(machine) == 'v3'  # whose layers gain less by unrolling than those of all others
  usable = [
    figures for figures in FIGURES
    if (figures.chip == 'v3') == is_v3 and model.dtype == DTYPE
    and all(1 / ALIKE <= times <= ALIKE for times in _times(model, figures))
  ]  # fmt: skip

  def distance(figures: Figures) -> tuple[float, bool, float]:
    width = abs(math.log2(figures.network.emb_dim / model.emb_dim))
    return width, figures.chip != _chip(machine), abs(math.log2(figures.rows / rows))

  return min(usable, key=distance, default=None)


def _times(model: t5.T5Config, figures: Figures) -> tuple[float, ...]:
  """How many times the network's widths are those of the figures."""
  assert model.vocab_size is not None
  network = figures.network
  return (
    model.emb_dim / network.emb_dim, model.num_heads * model.head_dim / network.heads,
    model.mlp_dim / network.mlp_dim, model.vocab_size / VOCABULARY,
  )  # fmt: skip


def _chip(machine: Topology) -> str:
  return machine.name.partition('-')[0]


def _layers(model: t5.T5Config) -> int:
  return model.num_encoder_layers + model.num_decoder_layers


def _rows(run: RunConfig, mesh: Mapping[str, int]) -> float:
  """Rows of a device that are computed at once."""
  return run.data.batch_size / run.num_microbatches / (mesh['data'] * mesh['fsdp'])


def _step_seconds(
  run: RunConfig, machine: Topology, mesh: Mapping[str, int], figures: Figures
) -> float:
  """The least that an update with scanned layers takes."""
  lengths = run.data.task_feature_lengths
  needed = flops.train_step(run.model, run.data.batch_size, lengths['inputs'], lengths['targets'])
  mfu = figures.mfu if _rows(run, mesh) <= figures.rows else BEST_MFU
  assert machine.peak_flops
  return needed / (machine.peak_flops * math.prod(mesh.values()) * mfu)


def _fits(run: RunConfig, machine: Topology, mesh: Mapping[str, int], figures: Figures) -> bool:
  """Whether unrolled layers leave room: the state, and the rest of the figures for larger rows."""
  assert machine.hbm_bytes
  copies, shards = COPIES[run.optimizer.name], mesh['fsdp'] * mesh['tensor']
  state = 4 * copies * flops.parameters(run.model) / shards
  rest = 1e9 * figures.memory - 8e6 * figures.network.parameters / figures.shards
  tokens = sum(run.data.task_feature_lengths[name] for name in ('inputs', 'targets'))
  size = _layers(run.model) / figures.network.layers * max(_times(run.model, figures))
  larger = _rows(run, mesh) * tokens / (figures.rows * TOKENS) * size
  return state + rest * max(larger, 1.0) <= ROOM * machine.hbm_bytes


def _time(seconds: float) -> str:
  if seconds < 120:
    return f'{seconds:.0f} s'
  return f'{seconds / 60:.0f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'
