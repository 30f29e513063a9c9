"""config.json of every family and time is read as the network that it is, and ours is theirs."""

import json

import hf_checkpoints
import pytest

from dss_jax.checkpoints.hf import hf_config
from dss_jax.models import t5

T5_1_1 = hf_checkpoints.FAMILIES['T5 1.1']
SIZES = {
  'emb_dim': 16,
  'num_heads': 3,
  'head_dim': 4,
  'mlp_dim': 20,
  'num_encoder_layers': 2,
  'num_decoder_layers': 2,
}


@pytest.mark.parametrize(
  ('family', 'changes'),
  [
    ('T5 1.0', {'mlp_activations': ('relu',), 'logits_via_embedding': True}),
    ('T5 1.1', {}),
    ('LM-adapted', {}),
    ('Flan-T5', {}),
    ('mT5', {'vocab_size': 250112, 'emb_dim': 8}),
    ('umT5', {'relative_bias_per_layer': True}),
    ('ByT5', {'vocab_size': 384, 'num_encoder_layers': 3, 'num_decoder_layers': 1}),
  ],
)
def test_every_family_is_the_network_that_it_is(family, changes):
  network = hf_config.network_of(hf_checkpoints.FAMILIES[family], family)
  expected = t5.T5Config(**{'vocab_size': 40, **SIZES, **changes})
  assert network == expected
  assert (network.dropout_rate, network.dtype) == (0.1, 'bfloat16')


def test_relative_positions_are_read():
  settings = {
    **T5_1_1,
    'relative_attention_num_buckets': 16,
    'relative_attention_max_distance': 64,
  }
  network = hf_config.network_of(settings, 'it')
  assert network.relative_attention_num_buckets == 16
  assert network.relative_attention_max_distance == 64


@pytest.mark.parametrize(
  ('changes', 'tied'),
  [
    ({'tie_word_embeddings': True}, True),  # transformers 4
    ({'tie_word_embeddings': True, 'scale_decoder_outputs': True}, True),  # 5, of a T5 1.0
    ({'tie_word_embeddings': True, 'scale_decoder_outputs': False}, False),  # 5, of a T5 1.1
    ({'tie_word_embeddings': None}, True),
    ({'model_type': 'mt5', 'tie_word_embeddings': None}, False),
    ({'model_type': 'mt5', 'tie_word_embeddings': True, 'transformers_version': '5.2.0'}, False),
    ({'model_type': 'mt5', 'tie_word_embeddings': True, 'transformers_version': '4.40.0'}, True),
    ({'model_type': 'umt5'}, False),
    ({'model_type': 'umt5', 'tie_word_embeddings': None}, True),
    ({'model_type': 'umt5', 'tie_word_embeddings': True, 'transformers_version': '5.2.0'}, True),
  ],
)
def test_tied_logits_are_told_from_what_transformers_writes(changes, tied):
  assert hf_config.network_of({**T5_1_1, **changes}, 'it').logits_via_embedding == tied


@pytest.mark.parametrize(
  'changes',
  [
    {'model_type': 'longt5'},
    {'model_type': None, 'architectures': ['BartModel']},
    {'feed_forward_proj': 'gated-silu'},
    {'feed_forward_proj': 'gelu'},
    {'dense_act_fn': 'gelu'},
    {'is_gated_act': False},
    {'is_encoder_decoder': False},
    {'layer_norm_epsilon': 1e-5},
    {'decoder_start_token_id': 1},
    {'pad_token_id': 1},
    {'eos_token_id': 2},
    {'scale_decoder_outputs': True},
    {'tie_encoder_decoder': True},
    {'pruned_heads': {'0': [1]}},
    {'quantization_config': {'load_in_8bit': True}},
  ],
)
def test_what_our_network_does_not_compute_is_refused(changes):
  with pytest.raises(ValueError, match=r'^the/model ') as caught:
    hf_config.network_of({**T5_1_1, **changes}, 'the/model')
  name, value = next(iter(changes.items()))
  assert name in str(caught.value) or 'model_type' in str(caught.value)
  assert repr(value) in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['d_model', 'num_layers', 'vocab_size'])
def test_a_size_that_is_not_there_is_named(name):
  with pytest.raises(ValueError, match=f'has {name} None'):
    hf_config.network_of({**T5_1_1, name: None}, 'it')


@pytest.mark.parametrize('value', [0, -1, '16', 2.5])
def test_a_size_that_is_none_is_refused(value):
  with pytest.raises(ValueError, match='has d_model'):
    hf_config.network_of({**T5_1_1, 'd_model': value}, 'it')


@pytest.mark.parametrize('family', hf_checkpoints.FAMILIES)
def test_what_we_write_is_read_as_the_same_network(family):
  network = hf_config.network_of(hf_checkpoints.FAMILIES[family], family)
  written = json.loads(json.dumps(hf_config.config_json(network)))
  assert hf_config.network_of(written, 'ours') == network


@pytest.mark.parametrize('family', ['T5 1.0', 'T5 1.1', 'umT5'])
def test_transformers_reads_what_we_write_as_what_the_model_says_of_itself(family, tmp_path):
  """Its T5Config of the hub's config.json and of ours say the same of everything we compute."""
  transformers = pytest.importorskip('transformers')
  theirs = hf_checkpoints.FAMILIES[family]
  read = []
  for settings in (theirs, hf_config.config_json(hf_config.network_of(theirs, family))):
    (tmp_path / 'config.json').write_text(json.dumps(settings))
    read.append(transformers.AutoConfig.from_pretrained(tmp_path).to_dict())
  used = [
    'model_type', 'vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_heads', 'num_layers',
    'num_decoder_layers', 'feed_forward_proj', 'dense_act_fn', 'is_gated_act', 'dropout_rate',
    'tie_word_embeddings', 'scale_decoder_outputs', 'layer_norm_epsilon', 'pad_token_id',
    'relative_attention_num_buckets', 'relative_attention_max_distance', 'eos_token_id',
    'decoder_start_token_id', 'is_encoder_decoder',
  ]  # fmt: skip
  assert {name: read[0].get(name) for name in used} == {name: read[1].get(name) for name in used}


@pytest.mark.parametrize('content', ['{"a": ', '[1]', ''])
def test_a_file_that_is_no_object_is_named(content, tmp_path):
  (tmp_path / 'config.json').write_text(content)
  with pytest.raises(ValueError, match=r'config\.json'):
    hf_config.read_json(tmp_path / 'config.json')


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'has no config\.json'):
    hf_config.read_json(tmp_path / 'config.json')
