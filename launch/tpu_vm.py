"""Cloud TPU: the request for a queued resource, and the calls that make, inspect and delete it.

Owns the `google-cloud-tpu` client. Version 2 of the API has queued resources; v2alpha1 adds nothing
that is needed. watch.py decides what to do about a state.
"""

import contextlib
import os
import pathlib
import shlex
import uuid
from typing import Any, NamedTuple

from dss_jax.launch.job import Job

ENDPOINT = 'DSS_TPU_ENDPOINT'  # HOST:PORT of an emulator, used without TLS or credentials
SCOPE = 'https://www.googleapis.com/auth/cloud-platform'
CALL_S = 120.0  # how long a call may be retried
DELETE_S = 1200.0
NOT_FOUND = 'NOT_FOUND'
WAITING = ('CREATING', 'ACCEPTED', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'DELETING')


class Seen(NamedTuple):
  """The state of a resource in the API.

  Attributes:
    queued: state of the queued resource, e.g. 'ACTIVE', or NOT_FOUND.
    node: state of its node, e.g. 'READY', or NOT_FOUND.
    message: why it failed.
  """

  queued: str
  node: str = NOT_FOUND
  message: str = ''

  @property
  def ready(self) -> bool:
    """Whether the job's hosts are running."""
    return self.queued == 'ACTIVE' and self.node == 'READY'

  @property
  def lost(self) -> bool:
    """Whether it will never be ready; a preempted node does not always have the state PREEMPTED."""
    return not self.ready and self.queued not in WAITING

  def __str__(self):
    node = f', node {self.node}' if self.node != NOT_FOUND or self.queued == 'ACTIVE' else ''
    return f'queued resource {self.queued}{node}{": " if self.message else ""}{self.message}'


class AlreadyExists(ValueError):
  """The project has a resource of this name that belongs to another job."""


def startup_script(job: Job) -> str:
  """The script that every host runs when it starts: the job's variables, then startup.sh."""
  names = {
    'DSS_FOLDER': job.folder,
    'DSS_EXTRA': job.extra,
    'DSS_QUEUED_RESOURCE': job.name,
    'DSS_PROJECT': job.project,
    'DSS_ZONE': job.zone,
  }
  lines = [f'export {name}={shlex.quote(value)}' for name, value in names.items()]
  body = (pathlib.Path(__file__).parent / 'startup.sh').read_text(encoding='utf-8')
  return '\n'.join(['#!/usr/bin/env bash', *lines, '', body])


def request(job: Job) -> dict[str, Any]:
  """The CreateQueuedResource request, as plain values."""
  parent = f'projects/{job.project}/locations/{job.zone}'
  account = {'email': job.service_account} if job.service_account else {}
  node = {
    'accelerator_type': job.machine.accelerator_type,
    'runtime_version': job.machine.runtime_version,
    'network_config': {'enable_external_ips': True},
    'service_account': {**account, 'scope': [SCOPE]},
    'scheduling_config': {'spot': job.spot},
    'labels': {'dss-job': job.name},
    'metadata': {'startup-script': startup_script(job)},
  }
  spec = {'parent': parent, 'node_id': job.name, 'node': node}
  resource = {'tpu': {'node_spec': [spec]}, **({'spot': {}} if job.spot else {})}
  return {'parent': parent, 'queued_resource_id': job.name, 'queued_resource': resource}


class CloudTpu:
  """The calls, for one project and zone."""

  def __init__(self, project: str, zone: str):
    self.tpu, self.errors = _libraries()
    self.parent = f'projects/{project}/locations/{zone}'
    endpoint = os.environ.get(ENDPOINT)
    if endpoint:
      import grpc

      transports = self.tpu.services.tpu.transports
      self.channel = grpc.insecure_channel(endpoint)
      transport = transports.TpuGrpcTransport(channel=self.channel)
      self.client = self.tpu.TpuClient(transport=transport)
    else:
      with self._our_errors():
        self.client = self.tpu.TpuClient()

  def create(self, job: Job) -> None:
    """Requests a job's resource; returns when the API has accepted it.

    Raises:
      AlreadyExists: there is a resource of that name.
      OSError: the API refuses, or cannot be reached.
    """
    with self._our_errors():
      call = {**request(job), 'request_id': str(uuid.uuid4())}  # a retry does not make a second one
      operation = self.client.create_queued_resource(
        request=call, retry=self._retry(), timeout=CALL_S
      )
      operation.result(timeout=CALL_S)

  def look(self, name: str) -> Seen:
    """The state of the resource and its node.

    Raises:
      OSError: the API refuses, or cannot be reached.
    """
    with self._our_errors():
      try:
        path = f'{self.parent}/queuedResources/{name}'
        resource = self.client.get_queued_resource(name=path, retry=self._retry(), timeout=CALL_S)
      except self.errors.NotFound:
        return Seen(NOT_FOUND)
      state = resource.state.state.name
      message = resource.state.failed_data.error.message
      try:
        path = f'{self.parent}/nodes/{name}'
        node = self.client.get_node(name=path, retry=self._retry(), timeout=CALL_S)
      except self.errors.NotFound:
        return Seen(state, NOT_FOUND, message)
      return Seen(state, node.state.name, message)

  def delete(self, name: str) -> None:
    """Deletes the resource with its node; returns when both are gone, also if they never existed.

    Raises:
      OSError: the API refuses, or cannot be reached: something may still be billed.
    """
    path = f'{self.parent}/queuedResources/{name}'
    with self._our_errors():
      try:
        call = self.tpu.DeleteQueuedResourceRequest(name=path, force=True)
        operation = self.client.delete_queued_resource(
          request=call, retry=self._retry(), timeout=CALL_S
        )
        operation.result(timeout=DELETE_S)
      except self.errors.NotFound:
        return

  def _retry(self):
    from google.api_core import retry

    transient = self.errors.ServiceUnavailable, self.errors.InternalServerError
    return retry.Retry(retry.if_exception_type(*transient), timeout=CALL_S)

  @contextlib.contextmanager
  def _our_errors(self):
    """Turns the library's errors into ValueError and OSError, which dss shows as one line."""
    from google.auth import exceptions

    try:
      yield
    except self.errors.AlreadyExists as error:
      raise AlreadyExists(f'Cloud TPU: {error.message}') from error
    except self.errors.GoogleAPIError as error:
      raise OSError(f'Cloud TPU: {getattr(error, "message", error)}') from error
    except exceptions.GoogleAuthError as error:
      raise OSError(f'Cloud TPU: {error}') from error
    except TimeoutError as error:
      raise OSError(f'Cloud TPU does not answer: {error}') from error


def _libraries():
  try:
    from google.api_core import exceptions
    from google.cloud import tpu_v2
  except ImportError as error:
    raise ImportError(
      "Cloud TPU needs the package google-cloud-tpu: pip install 'dss_jax[launch]'."
    ) from error
  return tpu_v2, exceptions
