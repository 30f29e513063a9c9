"""The command line of `dss launch`, and what each target and action does with it.

Owns the flags. Everything after `--` is a command of dss and is passed on unparsed.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from dss_jax.launch import checks, gke, local, package, skypilot, tpu_vm, vllm_batch
from dss_jax.launch import job as jobs
from dss_jax.launch import watch as watching
from dss_jax.launch.folder import JobFolder
from dss_jax.settings import fields, topologies, whole_files
from dss_jax.settings.printable import printable

USAGE = """dss launch TARGET [flags] -- VERB [arguments of dss VERB]
       dss launch ACTION BUCKET/NAME"""
HELP = """Targets, which only print what they would do unless --submit is given:
  local      this machine, one process or several
  tpu-vm     a Cloud TPU queued resource, made again when it is lost, deleted at the end
  skypilot   a SkyPilot task with spot recovery
  gke        a `gcluster job submit` of Cluster Toolkit
  vllm       prints a SkyPilot task: vLLM answers the batch files of `dss annotate` on GPUs

Actions on a submitted tpu-vm job:
  status     the resource, the hosts, the result
  logs       what the hosts wrote
  watch      follow it, and make the resource again when it is lost
  stop       let it save, end and delete its resource; the same launch command continues it
  delete     delete its resource now

  dss launch tpu-vm --name=cqa --bucket=gs://b/jobs --zone=us-west4-a --topology=v5e-8 --spot \\
    --submit -- train --gin_file=models/t5_1_1/base.gin --gin_file=datasets/cqa.gin \\
    --vocabulary=gs://b/spiece.model --data_dir=gs://b/data --model_dir=gs://b/cqa
"""
DELETED = 130  # the exit code of a deleted job, the same as of an interrupted one


def run(argv: Sequence[str]) -> int:
  """Reads the command line and does what it says; returns the exit code."""
  arguments = list(argv)
  at = arguments.index('--') if '--' in arguments else len(arguments)
  options = parser().parse_args(arguments[:at])
  if getattr(options, 'output', None):
    options.output = fields.expanded(options.output)
  options.file = [fields.expanded(path) for path in getattr(options, 'file', ())]
  return options.act(options, tuple(arguments[at + 1 :]))


def parser() -> argparse.ArgumentParser:
  """The flags of every target and action."""
  raw = argparse.RawDescriptionHelpFormatter
  made = argparse.ArgumentParser(
    prog='dss launch', usage=USAGE, description=HELP, formatter_class=raw
  )
  commands = made.add_subparsers(
    prog='dss launch', required=True, metavar='TARGET or ACTION', help=argparse.SUPPRESS
  )

  def add_target(name: str) -> argparse.ArgumentParser:
    usage = f'dss launch {name} [flags] -- VERB [arguments of dss VERB]'
    return commands.add_parser(name, usage=usage)

  here = add_target('local')
  here.set_defaults(act=_local)
  here.add_argument('--submit', action='store_true', help='run it')
  here.add_argument(
    '--processes',
    type=int,
    default=1,
    help='number of processes, which stand for the hosts of a slice',
  )
  here.add_argument('--devices', type=int, help='fake CPU devices of each process')
  for name, act in (('tpu-vm', _tpu_vm), ('skypilot', _skypilot), ('gke', _gke)):
    target = add_target(name)
    target.set_defaults(act=act)
    _add_remote_flags(target)
    if name == 'tpu-vm':
      target.add_argument('--detach', action='store_true', help='do not wait for the end')
      target.add_argument('--service_account', help="e-mail; default: the project's")
    if name == 'skypilot':
      target.add_argument('--output', help='write the task file there')
    if name == 'gke':
      target.add_argument('--image', required=True, help='required; with dss_jax[tpu]')
      target.add_argument('--cluster', required=True, help='required')
  _add_vllm_flags(add_target('vllm'))
  for name, act in (
    ('status', _status),
    ('logs', _logs),
    ('watch', _watch),
    ('stop', _stop),
    ('delete', _delete),
  ):
    action = commands.add_parser(name, usage=f'dss launch {name} BUCKET/NAME')
    action.set_defaults(act=act)
    action.add_argument('folder', metavar='BUCKET/NAME')
  return made


def _add_remote_flags(parser: argparse.ArgumentParser) -> None:
  slices = [name for name, machine in topologies.TOPOLOGIES.items() if machine.platform == 'tpu']
  add = parser.add_argument
  add('--submit', action='store_true', help='submit it; without this flag it is only printed')
  add('--name', required=True, help='required; of the job and its rented resource')
  add('--topology', required=True, help=f'required; {", ".join(slices)}')
  add('--bucket', default='', help='gs://BUCKET/FOLDER; the job gets a folder NAME in it')
  add('--project', default=os.environ.get('GOOGLE_CLOUD_PROJECT', ''))
  add('--zone', default='', help='e.g. us-west4-a')
  add('--spot', action='store_true', help='cheaper; may be preempted, and is then requested again')
  add('--env', action='append', default=[], metavar='NAME', help='variable to pass; repeat')
  add(
    '--file',
    action='append',
    default=[],
    metavar='PATH',
    help='file or folder to ship with the job',
  )
  add(
    '--restarts', type=int, default=2, help='how often a failed command is run again on its hosts'
  )
  add('--retries', type=int, default=20, help='how often a resource is requested again, in total')


def _add_vllm_flags(parser: argparse.ArgumentParser) -> None:
  parser.set_defaults(act=_vllm)
  parser.usage = 'dss launch vllm [flags] [-- more arguments of vllm]'
  add = parser.add_argument
  add('--name', required=True, help='required; of the job')
  add('--bucket', required=True, help='required; gs:// or s3:// folder with requests-*.jsonl')
  add('--model', required=True, help='required; as of dss annotate')
  add('--accelerators', required=True, help='required; of SkyPilot, e.g. H100:1')
  add('--spot', action='store_true', help='cheaper; may be preempted')
  add('--env', action='append', default=[], metavar='NAME', help='variable to pass; repeat')
  add('--output', help='write the task file there')


def _job(options: argparse.Namespace, command: tuple[str, ...], *needed: str) -> jobs.Job:
  for name in needed:
    if not getattr(options, name):
      raise ValueError(f'this target needs --{name}=... .')
  for name in options.env:
    if not re.fullmatch(r'[A-Za-z_][A-Za-z0-9_]*', name):
      raise ValueError(  # without what was given, which may be a key
        '--env takes the name of a variable of this environment, as --env=HF_TOKEN: letters, '
        'digits and _. Its value is never part of the command.'
      )
  return jobs.Job(
    name=options.name,
    command=command,
    topology=options.topology,
    bucket=options.bucket,
    project=options.project,
    zone=options.zone,
    spot=options.spot,
    environment=tuple(options.env),
    service_account=getattr(options, 'service_account', None),
    restarts=options.restarts,
    retries=options.retries,
  )


def _local(options: argparse.Namespace, command: tuple[str, ...]) -> int:
  if not command:
    raise ValueError('expected a command of dss after `--`, e.g. `-- train --gin_file=...`.')
  if options.submit:
    return local.run(command, options.processes, options.devices)
  print(local.describe(command, options.processes, options.devices))
  return 0


def _tpu_vm(options: argparse.Namespace, command: tuple[str, ...]) -> int:
  job = _job(options, command, 'bucket', 'project', 'zone')
  if job.machine.accelerator_type is None:
    raise ValueError(f'--topology={job.topology}: the tpu-vm target is for TPUs, e.g. v5e-8.')
  values = jobs.values_of(job.environment, os.environ)
  files = _checked_files(job, options)
  if not options.submit:
    print(_describe_tpu_vm(job, files))
    return 0
  watch = watching.Watch(job, JobFolder(job.folder), tpu_vm.CloudTpu(job.project, job.zone))
  watch.check_free()  # before writing to the folder of a running job
  return watch.submit(options.detach, lambda: _write_folder(job, files, values))


def _checked_files(job: jobs.Job, options: argparse.Namespace) -> tuple[str, ...]:
  """The files to ship with a job that can work; says which are left out of a folder."""
  jobs.check_remote(job)
  if os.path.isabs(job.bucket):  # only emulated hosts have this machine's folders
    if not os.environ.get(tpu_vm.ENDPOINT):
      raise ValueError(
        f'--bucket={job.bucket} is on this machine: give --bucket=gs://BUCKET/FOLDER.'
      )
    files = jobs.files_to_ship(job.command, options.file)
  else:
    files = checks.check(job, options.file)
  for name in jobs.left_out(options.file):
    watching.say(f'left out of --file: {name}, which is hidden or has a private key')
  for note in package.notes():
    watching.say(note)
  return files


def _write_folder(job: jobs.Job, files: Sequence[str], values: dict[str, str]) -> None:
  with tempfile.TemporaryDirectory() as build_folder:
    wheel = package.build(pathlib.Path(build_folder))
    JobFolder(job.folder).submit(job, wheel, files, values)


def _describe_tpu_vm(job: jobs.Job, files: Sequence[str]) -> str:
  request = tpu_vm.request(job)
  node = request['queued_resource']['tpu']['node_spec'][0]['node']
  script = node['metadata'].pop('startup-script')
  command = json.dumps(list(job.command), indent=2, ensure_ascii=False)
  return '\n'.join(
    [
      _describe_folder(job, files, job.environment),
      f'The command, in job.json: dss {command}',
      f'Cloud TPU API v2, CreateQueuedResource: {json.dumps(request, indent=2)}',
      f'with metadata startup-script:\n{script}',
      f'Then the job is followed: the resource is made again when its node is not READY (at most '
      f'{job.retries} times) and deleted at the end, on Ctrl-C and on any error; the log is shown.',
      'Nothing was submitted; add --submit to do it.',
    ]
  )


def _describe_folder(job: jobs.Job, files: Sequence[str], environment: Sequence[str]) -> str:
  names = ['job.json', 'package/', *(f'files/{name}' for name in files)]
  if environment:
    names.append(f'env.json (values of {", ".join(environment)}; removed at the end)')
  return f'Written to {job.folder}: {", ".join(names)}'


def _skypilot(options: argparse.Namespace, command: tuple[str, ...]) -> int:
  job = _job(options, command, 'bucket')
  files = _checked_files(job, options)
  text = skypilot.text_of(job, bool(files))
  path = options.output or f'{job.name}.yaml'
  line = skypilot.launch_command(job, path)
  if options.output or options.submit:
    whole_files.write_text(path, text)
  if options.submit:
    jobs.values_of(job.environment, os.environ)
    _write_folder(job, files, {})
    return _call(line, f'`sky jobs queue` shows it, `sky jobs cancel --name {job.name}` ends it')
  print(text if not options.output else f'Wrote {path}')
  print(f'# {_describe_folder(job, files, ())}')
  print(f'# --submit does that, then: {shlex.join(line)}')
  return 0


def _vllm(options: argparse.Namespace, command: tuple[str, ...]) -> int:
  given = (options.name, options.bucket, options.model, options.accelerators, options.spot)
  batch = vllm_batch.Batch(*given, tuple(options.env), command)
  text = vllm_batch.text_of(batch)
  path = options.output or f'{options.name}.yaml'
  secrets = [word for name in options.env for word in ('--secret', name)]
  line = ['sky', 'jobs', 'launch', '--yes', '--name', options.name, *secrets, path]
  if options.output:
    whole_files.write_text(path, text)
  print(text if not options.output else f'Wrote {path}')
  print(f'# Copy the files that `dss annotate --write_batch` wrote to {options.bucket}, then:')
  print(f'# {shlex.join(line)}')
  print('# At the end copy answers-*.jsonl back beside them, and run dss annotate --read_batch.')
  return 0


def _gke(options: argparse.Namespace, command: tuple[str, ...]) -> int:
  job = _job(options, command, 'project', 'zone')
  gke.check(job, options.image, options.cluster)
  checks.check(job, options.file, uploads=False)
  if job.environment:
    watching.say(
      f'warning: on GKE the values of {", ".join(job.environment)} are in clear text in the '
      "cluster's JobSet, and in this machine's list of processes while gcluster runs: for keys, "
      "use the cluster's own secrets"
    )
  if not options.submit:
    print(gke.describe(job, options.image, options.cluster))
    return 0
  values = jobs.values_of(job.environment, os.environ)
  line = gke.words(job, options.image, options.cluster, values)
  return _call(line, f'`gcluster job list` shows it, `gcluster job cancel {job.name}` ends it')


def _call(line: Sequence[str], advice: str) -> int:
  """Runs a program that submits; says what may be left running if it is interrupted."""
  with watching.interruptions():
    try:
      return subprocess.run(line).returncode
    except KeyboardInterrupt:
      watching.say(f'interrupted: the job may have been submitted; {advice}')
      raise
    except FileNotFoundError:
      raise ValueError(
        f'{line[0]} is not installed; without --submit the job is printed.'
      ) from None  # whose message would have the values of variables


def _status(options: argparse.Namespace, command: tuple[str, ...]) -> int:
  folder, cloud, job = _submitted(options.folder)
  lines = [f'{job.name} on {job.topology} in {job.zone}: {cloud.look(job.name)}']
  for host, report in folder.reports().items():
    code = report.get('exit_code')
    ended = '' if code is None else f', exit code {code}'
    lines.append(f'host {host}: {report.get("state")}{ended}, at {report.get("time")}')
  result = folder.result()
  if result:
    message = f': {result["message"]}' if result['message'] else ''
    lines.append(f'over: {result["state"]}, exit code {result["exit_code"]}{message}')
  print(printable('\n'.join(lines)))
  return 0


def _logs(options: argparse.Namespace, command: tuple[str, ...]) -> int:
  folder = JobFolder(options.folder)
  folder.job()  # raises if there is none
  for text in folder.logs():
    sys.stdout.write(printable(text))
  return 0


def _watch(options: argparse.Namespace, command: tuple[str, ...]) -> int:
  folder, cloud, job = _submitted(options.folder)
  return watching.Watch(job, folder, cloud).attach()


def _stop(options: argparse.Namespace, command: tuple[str, ...]) -> int:
  folder, cloud, job = _submitted(options.folder)
  if not cloud.look(job.name).ready:
    raise ValueError(
      f'{job.name} does not run; to end it, use `dss launch delete {options.folder}`.'
    )
  folder.ask_to_stop()
  print(f'{job.name} will save and end; to follow it, use `dss launch watch {options.folder}`.')
  return 0


def _delete(options: argparse.Namespace, command: tuple[str, ...]) -> int:
  folder, cloud, job = _submitted(options.folder)
  folder.finish('deleted', DELETED)  # first: else a watcher would make the resource again
  cloud.delete(job.name)
  print(f'{job.name} is deleted; its saved files stay.')
  return 0


def _submitted(path: str) -> tuple[JobFolder, tpu_vm.CloudTpu, jobs.Job]:
  folder = JobFolder(path)
  job = folder.job()
  return folder, tpu_vm.CloudTpu(job.project, job.zone), job
