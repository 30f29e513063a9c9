"""SkyPilot: a managed job that recovers from preemption, as a task file.

Owns the file's text. SkyPilot runs its own loop over zones and preemptions; the job's package and
files come from the bucket, and the same command continues the run.
"""

import shlex
from typing import Any

from dss_jax.launch.job import Job

SETUP = """\
set -e
cd ~/dss
if [ ! -e installed ]; then
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --seed --clear --python 3.11 venv
  if [ -e package/constraints.txt ]; then set -- --constraint package/constraints.txt; fi
  venv/bin/python -m pip install --quiet "$@" "$(ls ~/dss/package/dss_jax-*.whl){extra}"
{t5x}  touch installed
fi
"""
T5X = '  venv/bin/python -m dss_jax.launch.t5x_source --quiet\n'
RUN = 'mkdir -p ~/dss/work && cd ~/dss/work\nexec ~/dss/venv/bin/dss'


def task(job: Job, files: bool) -> dict[str, Any]:
  """The task, as plain values.

  Args:
    job: the job.
    files: whether files of the working directory are shipped.

  Raises:
    ValueError: the topology is not a TPU.
  """
  machine = job.machine
  if machine.platform != 'tpu':
    raise ValueError(f'--topology={job.topology}: the skypilot target is for TPUs, e.g. v5e-8.')
  mounts = {'~/dss/package': f'{job.folder}/package'}
  if files:
    mounts['~/dss/work'] = f'{job.folder}/files'
  text = {
    'name': job.name,
    'resources': {
      'infra': f'gcp/{job.zone.rpartition("-")[0]}/{job.zone}' if job.zone else 'gcp',
      'accelerators': f'tpu-{machine.accelerator_type}',
      'accelerator_args': {'runtime_version': machine.runtime_version, 'tpu_vm': True},
      'use_spot': job.spot,
      'job_recovery': {
        'strategy': 'FAILOVER' if job.zone else 'EAGER_NEXT_REGION',
        'max_restarts_on_errors': job.restarts,
      },
    },
    'file_mounts': mounts,
    'setup': SETUP.format(extra=job.extra, t5x=T5X if 't5x' in job.extra else ''),
    'run': f'{RUN} {shlex.join(job.command)}\n',
  }
  if job.environment:
    text['secrets'] = dict.fromkeys(job.environment)
  return text


def text_of(job: Job, files: bool) -> str:
  """The task file."""
  return dumped(task(job, files))


def dumped(values: dict[str, Any]) -> str:
  """A task as YAML, with its scripts as blocks."""
  import yaml  # not at the top: most launches do not need it

  class Dumper(yaml.SafeDumper):
    pass

  def lines(dumper, value):  # scripts as blocks, not as one quoted line
    style = '|' if '\n' in value else None
    return dumper.represent_scalar('tag:yaml.org,2002:str', value, style)

  Dumper.add_representer(str, lines)
  return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def launch_command(job: Job, path: str) -> list[str]:
  """The command that submits the file; SkyPilot takes the secrets' values from the environment."""
  secrets = [word for name in job.environment for word in ('--secret', name)]
  return ['sky', 'jobs', 'launch', '--yes', '--name', job.name, *secrets, path]
