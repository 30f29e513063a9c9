"""GKE: the command line of Cluster Toolkit's `gcluster job submit`.

Owns that line, which passes a local shell, Kubernetes, and a shell in the container. The image
contains dss_jax; Kueue starts the job on every host of the slice, and a JobSet starts it again
when a node is lost.
"""

import dataclasses
import re
import shlex
from collections.abc import Mapping

from dss_jax.launch import job as jobs
from dss_jax.launch.job import Job

PLACE = re.compile(r'[a-z]+-[a-z]+[0-9]+(-[a-z][a-z0-9]*)?')
NAME = re.compile(r'[a-z]([-a-z0-9]*[a-z0-9])?')
IMAGE = re.compile(r'[\w.-]+(:[0-9]+)?(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]+)?', re.ASCII)
GRACE = '60s'  # for saving, after a host gets SIGTERM


def check(job: Job, image: str, cluster: str) -> None:
  """Refuses names that Google Cloud does not take.

  Raises:
    ValueError: the message has the flag, what was expected and what was given.
  """
  jobs.check_forms(dataclasses.replace(job, zone=''))
  if not PLACE.fullmatch(job.zone):
    raise ValueError(f'--zone is the zone or region of the cluster; not {job.zone!r}.')
  if not NAME.fullmatch(cluster):
    raise ValueError(f'--cluster is lower-case letters, digits and dashes; not {cluster!r}.')
  if not IMAGE.fullmatch(image):
    raise ValueError(f'--image is REGISTRY/NAME:TAG, without spaces; not {image!r}.')


def words(job: Job, image: str, cluster: str, values: Mapping[str, str]) -> list[str]:
  """The command line as a list of words.

  Args:
    job: the job.
    image: a container image with dss_jax[tpu].
    cluster: the GKE cluster.
    values: of the environment variables.

  Raises:
    ValueError: Cluster Toolkit does not have the topology.
  """
  machine = job.machine
  if machine.gke_machine_type is None or machine.gke_topology is None:
    raise ValueError(f'--topology={job.topology}: GKE has no such slice; use e.g. v5e-8.')
  line = ['gcluster', 'job', 'submit', f'--name={job.name}', f'--project={job.project}']
  line += [f'--cluster={cluster}', f'--location={job.zone}']
  line += [f'--compute-type={machine.gke_machine_type}', f'--topology={machine.gke_topology}']
  if job.spot:
    line.append('--gke-nap-provisioning=spot')
  line += [f'--restarts={job.retries}', f'--grace-period={GRACE}', f'--image={image}']
  line += [f'--env={name}={value}' for name, value in values.items()]
  command = shlex.join(['dss', *job.command]).replace('$', '$$')  # Kubernetes turns $$ into $
  return [*line, f'--command={command}']


def describe(job: Job, image: str, cluster: str) -> str:
  """The line for a shell, which substitutes the environment variables' values."""
  line = words(job, image, cluster, {})
  variables = [f'--env={name}="${name}"' for name in job.environment]
  return ' \\\n  '.join([shlex.join(line[:3]), *map(shlex.quote, line[3:]), *variables])
