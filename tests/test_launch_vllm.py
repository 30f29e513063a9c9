"""`dss launch vllm`: the task is what SkyPilot reads, and its script runs as it must."""

import os
import subprocess

import pytest
import yaml

from dss_jax import cli

FLAGS = ['--name=teach', '--bucket=gs://b/batch', '--model=Qwen/Q $1', '--accelerators=H100:2']


def task(capsys, *more):
  assert cli.main(['launch', 'vllm', *FLAGS, *more]) == 0
  return yaml.safe_load(capsys.readouterr().out)


def test_a_task_mounts_the_batch_and_passes_secrets_by_name(capsys, monkeypatch):
  monkeypatch.setenv('HF_TOKEN', 'hf_secret')
  assert cli.main(['launch', 'vllm', *FLAGS, '--spot', '--env=HF_TOKEN']) == 0
  out = capsys.readouterr().out
  found = yaml.safe_load(out)
  assert found['file_mounts'] == {'~/batch': {'source': 'gs://b/batch', 'mode': 'MOUNT'}}
  assert found['resources']['accelerators'] == 'H100:2' and found['resources']['use_spot']
  assert found['secrets'] == {'HF_TOKEN': None} and 'hf_secret' not in out
  assert 'sky jobs launch --yes --name teach --secret HF_TOKEN teach.yaml' in out


def test_the_script_answers_each_part_once(capsys, tmp_path):
  """With a stand-in for vllm that fails at the second part, and then works."""
  script = task(capsys, '--', '--max-model-len=4096')['run']
  (tmp_path / 'batch').mkdir()
  for number in (1, 2):
    (tmp_path / 'batch' / f'requests-000{number}.jsonl').write_text(f'{number}\n')
  program = tmp_path / 'vllm' / 'bin' / 'vllm'
  program.parent.mkdir(parents=True)
  program.write_text(
    '#!/bin/sh\nprintf "%s|" "$@" >> ~/calls\necho >> ~/calls\n'
    'if [ "$3" = requests-0002.jsonl ] && [ ! -e ~/again ]; then touch ~/again; exit 1; fi\n'
    'cp "$3" "$5"\n'
  )
  program.chmod(0o755)
  environment = {**os.environ, 'HOME': str(tmp_path)}
  run = lambda: subprocess.run(['bash', '-c', script], env=environment).returncode  # noqa: E731
  assert run() == 1 and run() == 0
  calls = (tmp_path / 'calls').read_text().splitlines()
  assert len(calls) == 3 and calls[0].startswith('run-batch|-i|requests-0001.jsonl|-o|')
  assert calls[0].endswith('|--model|Qwen/Q $1|--max-model-len=4096|')
  answers = sorted(path.name for path in (tmp_path / 'batch').glob('answers-*'))
  assert answers == ['answers-requests-0001.jsonl', 'answers-requests-0002.jsonl']


@pytest.mark.parametrize('flag', ['--name=A', '--bucket=/tmp/x', '--accelerators=H100:many'])
def test_what_skypilot_does_not_take_is_refused(capsys, flag):
  assert cli.main(['launch', 'vllm', *FLAGS, flag]) == 2
  assert flag in capsys.readouterr().err
