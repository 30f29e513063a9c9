"""The checks of `dss doctor` of what other servers ask for: certificates, proxy, clock and keys.

Owns these checks; they read the environment and files, ask no server and show no key. Does not own:
the checks of this machine (doctor_checks.py).
"""

import json
import os
import pathlib
import ssl
import time
import urllib.parse
from collections.abc import Iterator, Mapping

from dss_jax.commands.findings import BAD, OK, WARNING, Finding

_FOLDER_OR_FILE = ('REQUESTS_CA_BUNDLE', 'CURL_CA_BUNDLE')
_SCHEMES = ('http', 'https', 'socks4', 'socks5', 'socks5h')
_KEY_FILES = {
  'authorized_user', 'service_account', 'external_account', 'external_account_authorized_user',
  'impersonated_service_account', 'gdch_service_account',
}  # fmt: skip
"""The field "type" of files that google-auth reads."""
_PRODUCT = pathlib.Path('/sys/class/dmi/id/product_name')
"""'Google Compute Engine' on Google's virtual machines."""


def certificates(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
  """By what servers are trusted."""
  named = {name: environment[name] for name in ('SSL_CERT_FILE', 'SSL_CERT_DIR', *_FOLDER_OR_FILE)
           if environment.get(name)}  # fmt: skip
  wrong = {name: why for name, path in named.items() if (why := _unusable(name, path))}
  for name, why in wrong.items():
    yield Finding(BAD, 'certificates', f'{name} names {named[name]}, {why}', f'unset {name}')
  if wrong:
    return
  known = ssl.get_default_verify_paths()
  system = known.cafile or known.capath
  if named:
    shown = ', '.join(f'{path} ({name})' for name, path in named.items())
    yield Finding(OK, 'certificates', f'of {shown}')
  elif system:
    yield Finding(OK, 'certificates', f'of {system}')
  else:
    yield Finding(WARNING, 'certificates', 'the system has none', 'apt install ca-certificates')


def _unusable(name: str, path: str) -> str:
  """Why a variable's file or folder of certificates cannot be used; '' if it can."""
  if name == 'SSL_CERT_DIR':
    is_there = any(os.path.isdir(one) for one in path.split(os.pathsep))
    return '' if is_there else 'which is no folder'
  if not os.path.exists(path):
    return 'which does not exist'
  if os.path.isdir(path):
    return '' if name in _FOLDER_OR_FILE else 'which is a folder'
  try:
    ssl.create_default_context(cafile=path)
  except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
    return f'which cannot be read as certificates ({getattr(error, "strerror", error)})'
  return ''


def proxy(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
  """Where requests go, without the password that such an address may have."""
  for name in ('HTTPS_PROXY', 'https_proxy', 'ALL_PROXY', 'all_proxy'):
    value = environment.get(name)
    if not value:
      continue
    fix = f'export {name}=http://HOST:PORT'
    try:
      address = urllib.parse.urlsplit(value if '://' in value else f'http://{value}')
      host, port = address.hostname, address.port
    except ValueError:  # its text may have a part of the password
      host, port, address = None, None, urllib.parse.SplitResult('http', '', '', '', '')
    where = f'{host}:{port}' if port else f'{host}'
    if address.scheme not in _SCHEMES:
      yield Finding(BAD, 'proxy', f'{name} has the scheme {address.scheme}://, which is none of '
                    f'{", ".join(_SCHEMES)}', fix)  # fmt: skip
    elif not host:
      yield Finding(BAD, 'proxy', f'{name} has no host and port that can be read', fix)
    elif '://' not in value:
      yield Finding(WARNING, 'proxy', f'{name} leads to {where}, without the http:// that some '
                    'programs ask for', f'export {name}=http://{where}')  # fmt: skip
    else:
      yield Finding(OK, 'proxy', f'{name} leads to {where}')


def clock() -> Iterator[Finding]:
  """The time, by which certificates are judged."""
  if time.time() < 1_760_000_000:  # October 2025, before this package was written
    yield Finding(BAD, 'clock', f'it is {time.strftime("%Y-%m-%d")} by this machine',
                  'set the clock: certificates seem to be of the future')  # fmt: skip


def teacher(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
  """Whether the key of the teacher's server is there."""
  key = environment.get('OPENAI_API_KEY', '')
  if key != key.strip() or key[:1] in ('"', "'"):
    yield Finding(BAD, 'teacher', 'OPENAI_API_KEY has white space or quotes around it',
                  'export OPENAI_API_KEY=... without them')  # fmt: skip
  else:
    state = 'is set' if key else 'is not set; dss annotate needs it for servers that ask for a key'
    yield Finding(OK, 'teacher', f'OPENAI_API_KEY {state}')


def google_cloud(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
  """Whether Google's libraries find credentials."""
  named = environment.get('GOOGLE_APPLICATION_CREDENTIALS')
  folder = environment.get('CLOUDSDK_CONFIG') or '~/.config/gcloud'
  file = pathlib.Path(named or f'{folder}/application_default_credentials.json')
  file = file if named else file.expanduser()  # as google-auth: a ~ in the variable is not expanded
  if named or file.is_file():
    why = _no_key_file(file)
    origin = 'GOOGLE_APPLICATION_CREDENTIALS' if named else str(file)
    if why:
      fix = 'unset it, or give the path of a key file' if named else \
        'gcloud auth application-default login'  # fmt: skip
      yield Finding(BAD, 'Google Cloud', f'the file of {origin} {why}', fix)
    else:
      yield Finding(OK, 'Google Cloud', f'credentials are there ({origin})')
  elif _is_googles_machine():
    yield Finding(OK, 'Google Cloud', "credentials are those of this machine's service account; "
                  'dss doctor --path=gs://BUCKET/x tries them')  # fmt: skip
  else:
    yield Finding(OK, 'Google Cloud', 'credentials are not there; gs:// and dss launch need them: '
                  'gcloud auth application-default login')  # fmt: skip


def _no_key_file(file: pathlib.Path) -> str:
  """Why a file holds no credentials; '' if it does. Nothing that it holds is repeated."""
  try:
    value = json.loads(file.read_text())
  except FileNotFoundError:
    return 'does not exist'
  except OSError as error:
    return f'cannot be read ({error.strerror})'
  except (ValueError, RecursionError):
    return 'is no JSON'
  is_known = isinstance(value, dict) and value.get('type') in _KEY_FILES
  return '' if is_known else 'holds no credentials: its "type" is not one that google-auth reads'


def _is_googles_machine() -> bool:
  try:
    return 'Google' in _PRODUCT.read_text()
  except OSError:
    return False


def hugging_face(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
  """Whether there is a token, where huggingface_hub looks for it."""
  cache = environment.get('XDG_CACHE_HOME') or '~/.cache'
  home = environment.get('HF_HOME') or f'{cache}/huggingface'
  file = pathlib.Path(environment.get('HF_TOKEN_PATH') or f'{home}/token').expanduser()
  has_token = any(environment.get(name) for name in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'))
  state = 'is there' if has_token or file.is_file() else \
    'is not there; public models need none'  # fmt: skip
  yield Finding(OK, 'Hugging Face', f'a token {state}')
