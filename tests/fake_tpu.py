"""A Cloud TPU on loopback: queued resources, nodes and operations, spoken with the client's protos.

What a resource does is a plan: a list of states, one for each time that it is looked at, the last
one for ever, e.g. ['WAITING_FOR_RESOURCES', 'ACTIVE/READY', 'ACTIVE/PREEMPTED']. Each resource that
is asked for takes the next plan. With machines, a node that gets READY runs its start-up script, as
a host of the real one does, in a folder of its own; a node that is not READY any more is killed.
"""

import concurrent.futures
import contextlib
import http.server
import importlib.metadata
import os
import pathlib
import signal
import subprocess
import sys
import threading

import grpc
from google.cloud import tpu_v2
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, empty_pb2

READY = ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE/READY']  # a plan
States = tpu_v2.QueuedResourceState.State
SERVICE = 'google.cloud.tpu.v2.Tpu'
CALLS = {  # and the type of the answer: None for an operation
  'CreateQueuedResource': None,
  'DeleteQueuedResource': None,
  'GetQueuedResource': tpu_v2.QueuedResource,
  'GetNode': tpu_v2.Node,
}


class FakeTpu:
  """The server.

  Attributes:
    resources: those that exist, by name, with the states that are left of their plans.
    requests: every CreateQueuedResource request, in order.
    calls: the name of every call, in order.
    faults: status codes to answer the next calls of a name with, e.g. {'GetNode': [code]}.
  """

  def __init__(self, plans, machines=None):
    self.plans, self.machines = [list(plan) for plan in plans], machines
    self.resources: dict[str, list[str]] = {}
    self.node_states: dict[str, str] = {}
    self.requests: list[tpu_v2.CreateQueuedResourceRequest] = []
    self.calls: list[str] = []
    self.faults: dict[str, list[grpc.StatusCode]] = {}
    self.hosts: dict[str, list[subprocess.Popen]] = {}
    self.lock = threading.RLock()
    self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    handlers = {name: self._handler(name, answer) for name, answer in CALLS.items()}
    get_operation = grpc.unary_unary_rpc_method_handler(
      lambda request, context: self._operation(request.name, done=True),
      operations_pb2.GetOperationRequest.FromString,
      operations_pb2.Operation.SerializeToString,
    )
    self.server.add_generic_rpc_handlers(
      [
        grpc.method_handlers_generic_handler(SERVICE, handlers),
        grpc.method_handlers_generic_handler(
          'google.longrunning.Operations', {'GetOperation': get_operation}
        ),
      ]
    )
    self.endpoint = f'127.0.0.1:{self.server.add_insecure_port("127.0.0.1:0")}'

  def __enter__(self):
    self.server.start()
    return self

  def __exit__(self, *error):
    self.server.stop(None)
    for name in list(self.hosts):
      self._kill(name)

  def preempt(self, name: str, state: str = 'PREEMPTED', number=signal.SIGKILL) -> None:
    """Takes a node away: its hosts get the signal, then it is in `state`."""
    with self.lock:
      if number != signal.SIGKILL:
        for host in self.hosts.get(name, []):
          host.send_signal(number)  # to the script alone, as systemd does to start-up scripts
          host.wait(timeout=120)
      self._kill(name)
      if name in self.resources:
        self.resources[name] = [f'ACTIVE/{state}']

  # ----------------------------------------------------------------

  def _handler(self, name, answer):
    call = getattr(self, f'_{name}')

    def handle(request, context):
      with self.lock:
        self.calls.append(name)
        if self.faults.get(name):
          context.abort(self.faults[name].pop(0), f'no {name} for you')
        return call(request, context)

    request = getattr(tpu_v2, f'{name}Request')
    serialize = answer.serialize if answer else operations_pb2.Operation.SerializeToString
    return grpc.unary_unary_rpc_method_handler(handle, request.deserialize, serialize)

  def _CreateQueuedResource(self, request, context):
    name = request.queued_resource_id
    if name in self.resources:
      context.abort(grpc.StatusCode.ALREADY_EXISTS, f'{name} exists')
    self.requests.append(request)
    self.resources[name] = self.plans.pop(0) if len(self.plans) > 1 else list(self.plans[0])
    return self._operation(f'create-{name}', done=False)

  def _DeleteQueuedResource(self, request, context):
    name = request.name.rpartition('/')[2]
    if name not in self.resources:
      context.abort(grpc.StatusCode.NOT_FOUND, f'no {name}')
    if not request.force and self.resources[name][0].startswith('ACTIVE'):
      context.abort(grpc.StatusCode.FAILED_PRECONDITION, f'{name} has nodes')
    del self.resources[name]
    self._kill(name)
    return self._operation(f'delete-{name}', done=True)

  def _GetQueuedResource(self, request, context):
    name = request.name.rpartition('/')[2]
    if name not in self.resources:
      context.abort(grpc.StatusCode.NOT_FOUND, f'no {name}')
    plan = self.resources[name]
    queued, _, _ = plan[0].partition('/')
    queued, _, message = queued.partition(':')
    state = {'state': States[queued]}
    if queued == 'FAILED':
      state['failed_data'] = {'error': {'code': 8, 'message': message}}
    found = tpu_v2.QueuedResource(name=request.name, state=state)
    self._move(name)
    return found

  def _GetNode(self, request, context):
    """The state that goes with the queued resource's, which is looked at first."""
    name = request.name.rpartition('/')[2]
    node = self.node_states.get(name, '')
    if name not in self.resources or not node:
      context.abort(grpc.StatusCode.NOT_FOUND, f'no node {name}')
    return tpu_v2.Node(name=request.name, state=tpu_v2.Node.State[node])

  def _move(self, name):
    """One look further in the plan; machines start and end with their node."""
    plan = self.resources[name]
    node = plan[0].partition('/')[2]
    self.node_states[name] = node
    if len(plan) > 1:
      plan.pop(0)
    if node == 'READY' and self.machines and name not in self.hosts:
      spec = self.requests[-1].queued_resource.tpu.node_spec[0]
      self.hosts[name] = self.machines.start(spec.node, self.endpoint)
    elif node != 'READY':
      self._kill(name)

  def _kill(self, name):
    for host in self.hosts.pop(name, []):
      with contextlib.suppress(ProcessLookupError):
        os.killpg(host.pid, signal.SIGKILL)
      host.wait()

  def _operation(self, name, done):
    answer = any_pb2.Any()
    answer.Pack(empty_pb2.Empty() if name.startswith('delete') else tpu_v2.QueuedResource.pb()())
    return operations_pb2.Operation(name=name, done=done, response=answer if done else None)


class Machines:
  """Hosts as processes of this machine: each with a folder, a metadata server, and few programs.

  Args:
    folder: for all of it.
    hosts: in a slice.
    environment: more variables of the start-up script.
  """

  def __init__(self, folder: pathlib.Path, hosts: int = 1, environment=None):
    self.folder, self.count = folder, hosts
    self.environment = environment or {}
    self.made = 0
    self.programs = folder / 'programs'
    self.programs.mkdir(parents=True)
    self._program('python3', f'exec {sys._base_executable} "$@"')
    self._program('gcloud', GCLOUD.format(python=sys.executable, folder=folder))
    self.libraries = _libraries_without_ours(folder / 'libraries')
    self.metadata = [_metadata_server(number) for number in range(hosts)]

  def close(self) -> None:
    """Ends the metadata servers."""
    for server in self.metadata:
      server.shutdown()
      server.server_close()

  def start(self, node, endpoint: str) -> list[subprocess.Popen]:
    """Runs a node's start-up script on fresh hosts."""
    return [self._start(node.metadata['startup-script'], endpoint, n) for n in range(self.count)]

  def _start(self, script: str, endpoint: str, number: int) -> subprocess.Popen:
    self.made += 1
    home = self.folder / f'host-{self.made}'
    home.mkdir(exist_ok=True)
    (home / 'startup-script').write_text(script)
    environment = {
      'PATH': f'{self.programs}:/usr/bin:/bin',
      'HOME': str(home),
      'PYTHONPATH': str(self.libraries),
      'DSS_WORK': str(home / 'dss'),
      'DSS_PAUSES': '0',
      'DSS_TPU_ENDPOINT': endpoint,
      'GCE_METADATA_HOST': f'127.0.0.1:{self.metadata[number].server_port}',
      'CALLERS_PYTHONPATH': os.environ.get('PYTHONPATH', ''),
      **self.environment,
    }
    output = (home / 'output').open('w')
    return subprocess.Popen(
      ['bash', str(home / 'startup-script')],
      cwd=home,
      env=environment,
      stdout=output,
      stderr=output,
      start_new_session=True,
    )

  def _program(self, name: str, text: str) -> None:
    path = self.programs / name
    path.write_text(f'#!/bin/bash\n{text}\n')
    path.chmod(0o755)


# Copies from, to and removes gs://X as folder/gs/X, and deletes resources through the API.
GCLOUD = """
echo "$*" >> {folder}/gcloud.log
if [ "$1 $2" = 'storage cp' ]; then
  from=${{3/#gs:\\/\\//{folder}/gs/}} to=${{4/#gs:\\/\\//{folder}/gs/}}
  [ "$to" != "${{to%/}}" ] || mkdir -p "$(dirname "$to")"
  exec cp $from "$to"
fi
if [ "$1 $2 $3" = 'storage rm --quiet' ]; then
  exec rm ${{4/#gs:\\/\\//{folder}/gs/}}
fi
export PYTHONPATH=$CALLERS_PYTHONPATH
exec {python} -c 'from dss_jax.launch import tpu_vm; import sys
tpu_vm.CloudTpu("p", "z").delete(sys.argv[1])' "$5"
"""


def _libraries_without_ours(folder: pathlib.Path) -> pathlib.Path:
  """What this Python has installed, but dss_jax, for a host's pip to find there.

  libtpu stands there by name alone: hosts have fake CPU devices.
  """
  folder.mkdir()
  import flax

  site = pathlib.Path(flax.__file__).parent.parent
  leave = ('dss_jax', '__editable__', 'libtpu', 'pip', 'setuptools', '_distutils_hack')
  for entry in site.iterdir():
    if not entry.name.startswith(leave) and entry.suffix != '.pth':
      (folder / entry.name).symlink_to(entry)
  wanted = [line for line in importlib.metadata.requires('jax') or [] if line.startswith('libtpu')]
  version = wanted[0].split('==')[1].split('.*')[0]
  info = folder / f'libtpu-{version}.dist-info'
  info.mkdir()
  (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: libtpu\nVersion: {version}\n')
  return folder


def _metadata_server(number: int) -> http.server.ThreadingHTTPServer:
  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      known = self.path.endswith('/computeMetadata/v1/instance/attributes/agent-worker-number')
      good = known and self.headers['Metadata-Flavor'] == 'Google'
      self.send_response(200 if good else 404)
      self.end_headers()
      self.wfile.write(str(number).encode() if good else b'')

    def log_message(self, format, *args):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  return server
