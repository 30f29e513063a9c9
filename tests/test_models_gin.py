"""The model files in gin/models: each parses alone, builds abstractly and has its known size."""

import importlib.util  # noqa: F401  gin-config 0.5.0 needs it before `import gin`
import math

import gin
import jax
import jax.numpy as jnp
import pytest

from dss_jax.models import t5
from dss_jax.settings import gin_files

# Parameters of the released checkpoints; tiny is our own.
PARAMETERS = {
  't5_1_1/tiny': 6_612_352,
  't5_1_1/small': 76_961_152,
  't5_1_1/base': 247_577_856,
  't5_1_1/large': 783_150_080,
  't5_1_1/xl': 2_849_757_184,
  't5_1_1/xxl': 11_135_332_352,
  't5_1_0/small': 60_506_624,
  't5_1_0/base': 222_903_552,
  't5_1_0/large': 737_668_096,
  't5_1_0/3b': 2_851_598_336,
  't5_1_0/11b': 11_307_321_344,
}


@pytest.fixture(autouse=True)
def _clean_gin():
  """No test leaves a gin config behind."""
  yield
  gin.clear_config()
  gin.config._LOCATION_PREFIXES[:] = ['']


def _model(name: str, *overrides: str) -> t5.T5Config:
  """What MODEL is with gin/models/<name>.gin, and T5's own vocabulary unless overridden."""
  argv = [f'--gin_file=models/{name}.gin', '--topology=cpu', '--vocab_size=32128', *overrides]
  gin_files.parse(argv, 'runs/plan.gin')
  return gin_files.configured('plan.PlanConfig').run.model


def test_every_model_file_is_tested(repository):
  folder = repository / 'gin' / 'models'
  names = {str(file.relative_to(folder).with_suffix('')) for file in folder.rglob('*.gin')}
  assert names - {'pretrained'} == set(PARAMETERS)  # which is whatever it is given


@pytest.mark.parametrize('name', PARAMETERS)
def test_number_of_parameters_without_making_an_array(name):
  shapes, axes = t5.abstract(_model(name))
  leaves = jax.tree.leaves(shapes)
  assert all(type(leaf) is jax.ShapeDtypeStruct for leaf in leaves)
  assert sum(math.prod(leaf.shape) for leaf in leaves) == PARAMETERS[name]
  named = jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
  assert [len(leaf) for leaf in named] == [len(leaf.shape) for leaf in leaves]


@pytest.mark.parametrize('name', PARAMETERS)
def test_every_model_computes_logits_abstractly(name):
  config = _model(name)
  tokens = jax.ShapeDtypeStruct((2, 6), jnp.int32)
  logits = jax.eval_shape(
    lambda params, *batch: t5.bind(config, params)(*batch),
    t5.abstract(config)[0],
    tokens,
    tokens,
    tokens,
    tokens,
  )
  assert logits.shape == (2, 6, 32128) and logits.dtype == jnp.float32


def test_version_decides_the_feed_forward_and_the_logits():
  new, old = _model('t5_1_1/large'), _model('t5_1_0/large')
  assert (new.mlp_activations, new.logits_via_embedding) == (('gelu', 'linear'), False)
  assert (old.mlp_activations, old.logits_via_embedding) == (('relu',), True)


def test_macros_reach_the_network():
  config = _model(
    't5_1_1/xl',
    '--dropout_rate=0.2',
    '--vocab_size=384',
    '--dtype=float32',
    '--remat_policy=none',
    '--scan_layers=False',
  )
  assert config.dropout_rate == 0.2 and config.vocab_size == 384 and config.dtype == 'float32'
  assert config.remat_policy == 'none' and config.scan_layers is False
