"""From a language model to a student on one machine, for `make teacher-smoke`.

    python tests/teacher_smoke.py [--work=DIR] [SETTINGS of dss train]

A server on loopback speaks OpenAI's protocol and stands for the language model: its answers are
the rationales that the generator of the embedded data knows. `dss annotate` asks it about every
embedded input, a student is trained by step by step on what it answered, and scored.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import teacher_server

from dss_jax.datasets import embedded, embedded_raw
from dss_jax.teacher import prompts

NAME = 'embedded_llm'


def main() -> int:
  """Runs the chain in a folder that is removed at the end, unless --work names one."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument('--work', type=pathlib.Path)
  given, settings = parser.parse_known_args()
  with tempfile.TemporaryDirectory() as temporary:
    work = given.work or pathlib.Path(temporary)
    with teacher_server.serve(recorded()) as server:
      _annotate(work, server.url)
    run = ['--gin_file=runs/smoke.gin', f'--dataset={NAME}', '--method=dss', *settings]
    _dss('train', *run, f'--data_dir={work}/data', f'--model_dir={work}/run')
    _dss('evaluate', f'--model_dir={work}/run')
    return _dss(
      'predict', f'--model_dir={work}/run', f'--input={embedded.problems("test")[0]["input"]}'
    )


def recorded() -> dict[str, str]:
  """What the language model says, by question."""
  prompt = prompts.load(NAME)
  return {
    prompt.question(row): f'{row["rationale"]} So the answer is {row["label"]}.'
    for split in embedded_raw.SPLITS
    for row in embedded.problems(split)
  }


def _annotate(work: pathlib.Path, url: str) -> None:
  embedded_raw.write(work / 'raw')
  flags = ['--model=recorded', f'--base_url={url}', f'--raw_dir={work}/raw']
  _dss('annotate', f'--dataset={NAME}', *flags, f'--data_dir={work}/data')
  notes = json.loads((work / 'data/annotations' / NAME / 'teacher.json').read_text())
  print(f'teacher: {notes["teacher"]}, {notes["requests"]} requests')


def _dss(*arguments: str) -> int:
  print(f'$ dss {" ".join(arguments)}', flush=True)
  environment = {**os.environ, 'OPENAI_API_KEY': os.environ.get('OPENAI_API_KEY', 'none')}
  return subprocess.run(
    [sys.executable, '-m', 'dss_jax', *arguments], env=environment, check=True
  ).returncode


if __name__ == '__main__':
  sys.exit(main())
