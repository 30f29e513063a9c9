"""A real language model of random weights, served on this machine by `transformers serve`."""

# ruff: noqa: F811  a fixture

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from annotations import job, lines  # noqa: F401

from dss_jax.teacher import prompts
from dss_jax.teacher.requests import Request

pytest.importorskip('torch')
pytest.importorskip('accelerate')
pytest.importorskip('fastapi')
pytest.importorskip('uvicorn')
pytestmark = pytest.mark.torch


def write_model(folder):
  """A Llama of random weights that reads and writes bytes."""
  import tokenizers
  import torch
  import transformers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  plain = tokenizers.Tokenizer(models.BPE())
  plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
  alphabet, marks = pre_tokenizers.ByteLevel.alphabet(), ['<s>', '</s>']
  trainer = trainers.BpeTrainer(vocab_size=258, initial_alphabet=alphabet, special_tokens=marks)
  plain.train_from_iterator([], trainer)
  template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=plain, bos_token='<s>', eos_token='</s>', chat_template=template
  )
  tokenizer.save_pretrained(folder)
  torch.manual_seed(0)
  config = transformers.LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, max_position_embeddings=8192, bos_token_id=0, eos_token_id=1,
  )  # fmt: skip
  transformers.LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture
def served(tmp_path):
  """The name and address of a model."""
  model = str(tmp_path / 'model')
  environment = {**os.environ, 'HF_HUB_OFFLINE': '1', 'CUDA_VISIBLE_DEVICES': ''}
  write_model(model)
  with socket.socket() as one:
    one.bind(('127.0.0.1', 0))
    port = one.getsockname()[1]
  serve = f'--host=127.0.0.1 --port={port} --device=cpu'.split()
  start = 'import sys; from transformers.cli.transformers import main; main()'
  words = [sys.executable, '-c', start, 'serve', model, *serve]
  log = (tmp_path / 'log').open('wb')
  process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
  try:
    deadline = time.monotonic() + 120
    while not _answers(f'http://127.0.0.1:{port}/health'):
      assert process.poll() is None and time.monotonic() < deadline, (tmp_path / 'log').read_text()
      time.sleep(0.2)
    yield model, f'http://127.0.0.1:{port}/v1'
  finally:
    process.kill()
    process.wait()
    log.close()


def _answers(url):
  try:
    return urllib.request.urlopen(url, timeout=5).status == 200
  except (urllib.error.URLError, OSError):
    return False


def test_its_noise_is_read_in_both_modes_and_within_the_cap(job, served):
  model, url = served
  argv = (f'--base_url={url}', '--split=test', '--limit=1', '--max_tokens=12')
  prompt = prompts.load('svamp')
  for mode, form in (('chat', prompt.chat), ('completions', prompt.text)):
    out = job.annotate(*argv, f'--model={model}', f'--mode={mode}', f'--output={job.folder / mode}')
    tokens = json.loads(out[0])['tokens']
    (written,) = lines(job.folder / mode / 'test.jsonl')
    assert written['completions'][0] and written['finish_reasons'] == ['length']
    worst = Request('m', form(f'Q: {written["input"]}'), {'max_tokens': 12}).worst_tokens()
    assert tokens['input'] <= worst.input < 1.5 * tokens['input'] and tokens['output'] == 12
  said = job.annotate(*argv, f'--model={model}-other', status=2)[1]
  assert 'HTTP 400' in said and 'no request has an answer' in said
