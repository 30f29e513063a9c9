"""A teacher on rented GPUs: a SkyPilot task that has vLLM answer the batch files of `dss annotate`.

Owns the task's text. Does not own: the batch files (teacher/batches.py), SkyPilot's file form of
other jobs (skypilot.py). Nothing of dss_jax runs there, so nothing but vLLM is installed.

A part that is answered is not asked again: its output is renamed when it is whole, so after a
machine is lost the job goes on with the next part.
"""

import re
import shlex
from typing import Any, NamedTuple

from dss_jax.launch import skypilot

SETUP = """\
set -e
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --seed --clear --python 3.11 ~/vllm
~/vllm/bin/python -m pip install --quiet vllm
"""
RUN = """\
set -e
cd ~/batch
ls requests-*.jsonl > /dev/null
for part in requests-*.jsonl; do
  answers="answers-$part"
  if [ -e "$answers" ]; then continue; fi
  ~/vllm/bin/vllm run-batch -i "$part" -o ~/answers.jsonl --model {model} {more}
  cp ~/answers.jsonl "$answers.tmp" && mv "$answers.tmp" "$answers"
done
"""
_NAME = re.compile(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?')
_ACCELERATORS = re.compile(r'[A-Za-z0-9-]+(:[1-9][0-9]*)?')


class Batch(NamedTuple):
  """What vLLM is to answer.

  Attributes:
    name: of the job.
    bucket: folder of the batch files, gs:// or s3://; answers go there, too.
    model: as Hugging Face names it, and as `dss annotate --model` does.
    accelerators: of SkyPilot, e.g. H100:1.
    spot: cheaper machines, which may be taken away.
    environment: variables to pass as secrets, e.g. HF_TOKEN.
    more: arguments of vLLM.
  """

  name: str
  bucket: str
  model: str
  accelerators: str
  spot: bool = False
  environment: tuple[str, ...] = ()
  more: tuple[str, ...] = ()


def text_of(batch: Batch) -> str:
  """The task file.

  Raises:
    ValueError: a name, address or number of accelerators that SkyPilot does not take.
  """
  wanted = {
    'name': (_NAME, 'lower-case letters, digits and -, 40 at most'),
    'accelerators': (_ACCELERATORS, 'a kind and a number, as H100:1'),
    'bucket': (re.compile(r'(gs|s3)://[^\s]+'), 'gs://BUCKET/FOLDER or s3://BUCKET/FOLDER'),
  }
  for field, (form, expected) in wanted.items():
    value = getattr(batch, field)
    if not form.fullmatch(value):
      raise ValueError(f'--{field}={value}: expected {expected}.')
  return skypilot.dumped(_task(batch))


def _task(batch: Batch) -> dict[str, Any]:
  run = RUN.format(model=shlex.quote(batch.model), more=shlex.join(batch.more))
  task: dict[str, Any] = {
    'name': batch.name,
    'resources': {
      'accelerators': batch.accelerators,
      'use_spot': batch.spot,
      'job_recovery': {'strategy': 'EAGER_NEXT_REGION', 'max_restarts_on_errors': 2},
    },
    'file_mounts': {'~/batch': {'source': batch.bucket, 'mode': 'MOUNT'}},
    'setup': SETUP,
    'run': run,
  }
  if batch.environment:
    task['secrets'] = dict.fromkeys(batch.environment)
  return task
