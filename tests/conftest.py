"""How every test runs: eight fake CPU devices, checked shapes and types, fixed seeds, no warnings.

Owns the process's settings and the fixtures that several test files share. Keeps its imports
light: TensorFlow and torch are imported by the tests that need them.
"""

import contextlib
import functools
import gc
import os
import pathlib
import random

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # the same numbers on every CPU

import programs

os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {programs.XLA_FLAGS}'.strip()

import importlib.util  # noqa: F401  gin-config 0.5.0 needs it before `import gin`

import jax
import jaxtyping
import numpy as np
import optax
import pytest

# Not in XLA_FLAGS: a process that a test starts has one device, as a user's has.
jax.config.update('jax_num_cpu_devices', 8)
# Tests compile more than they compute: this halves their time.
jax.config.update('jax_disable_most_optimizations', True)
# What one worker has compiled the others load, and so does the next run; `make clean` forgets it.
jax.config.update('jax_compilation_cache_dir', str(programs.FOLDER))
jax.config.update('jax_persistent_cache_min_compile_time_secs', programs.WORTH_KEEPING_S)
# Our own code says how types and ranks are made equal; other libraries' runs in `lenient`.
jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')
jaxtyping.install_import_hook(
  [
    'dss_jax.models',
    'dss_jax.training.losses',
    'dss_jax.training.optimizers',
    'dss_jax.inference.decoding',
  ],
  'beartype.beartype',
)

from dss_jax.models import t5  # noqa: E402  after the hook, which checks the shapes in it
from dss_jax.training import optimizers  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
LONG = (  # files, by the processor time that they took in November 2026: 180 to 30 s
  'test_gcs', 'test_distributed', 'test_sweep', 'test_launch_startup', 'test_kill', 'test_train',
  'test_export_weights', 'test_registration', 'test_saving', 'test_teacher_real_server',
  'test_paper_training', 'test_huggingface', 'test_plan', 'test_t5x_train', 'test_t5x_whole_jobs',
)  # fmt: skip


@contextlib.contextmanager
def lenient():
  """JAX's own rules of promotion, for arithmetic that another library or a test's formula does."""
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    yield


def _lenient_optimizer(make):
  """`make_optimizer` whose updates, which are optax's arithmetic, run in `lenient`."""

  @functools.wraps(make)
  def made(*arguments, **settings) -> optax.GradientTransformation:
    transform = make(*arguments, **settings)
    return optax.GradientTransformation(lenient()(transform.init), lenient()(transform.update))

  return made


optimizers.make_optimizer = _lenient_optimizer(optimizers.make_optimizer)


def pytest_configure(config):
  """A warning that our own code causes is an error; others' warnings are not ours to mend."""
  config.addinivalue_line('filterwarnings', r'error:::dss_jax')


def pytest_collection_modifyitems(items):
  """Long files first: processes of pytest take whole files in turn, and end at about one time."""
  place = {name: at for at, name in enumerate(LONG)}
  items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


def pytest_collection_finish():
  """What imports made stays; to look through it again and again took a tenth of the tests' time."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def _seeds():
  """The same numbers in any order of the tests, also where code draws from a global generator."""
  random.seed(0)
  np.random.seed(0)


@pytest.fixture(scope='session')
def repository() -> pathlib.Path:
  """The root of the checkout."""
  return REPOSITORY


@pytest.fixture(scope='session')
def raw_dir() -> pathlib.Path:
  """The folder of the real data sets in the release's layout; the test is skipped without it."""
  default = REPOSITORY.parent / 'shared' / 'datasets'
  folder = pathlib.Path(os.environ.get('DSS_RAW_DIR', default))
  if not folder.is_dir():
    pytest.skip(
      'needs the real data sets: set DSS_RAW_DIR to a folder in the layout of datasets.zip'
    )
  return folder


@pytest.fixture(scope='session')
def tiny_config() -> t5.T5Config:
  """A T5 1.1 in float32 of some ten thousand parameters, with dropout."""
  return t5.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dtype='float32',
  )


@pytest.fixture(scope='session')
def tiny_params(tiny_config) -> t5.Params:
  """Fresh parameters of `tiny_config`."""
  return jax.jit(t5.init, static_argnums=0)(tiny_config, jax.random.key(0))
