"""A Hugging Face id or folder -> a local folder: which revision, which files, fetched once.

Owns the choice among a model's files on the hub, and the errors where none can be used. Uses
huggingface_hub with its cache, so that a download resumes, HF_ENDPOINT and HF_TOKEN are honoured,
and a file in the cache is not fetched again. Reads no weights.

Order: a folder, local or gs://; safetensors of the main revision; safetensors that the hub's own
conversion bot proposes in a pull request; Flax's msgpack; PyTorch's .bin, if torch is installed.
"""

import atexit
import contextlib
import fnmatch
import functools
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from dss_jax.checkpoints.hf import added_tokens, hf_config, hf_files
from dss_jax.settings import plain_files

VOCABULARIES = ('spiece.model', 'sentencepiece.model')
TOKENIZER = added_tokens.CONFIG
BOT = 'SFconvertbot'
TIMEOUT_SECONDS = 60  # for an answer; huggingface_hub has a shorter one for files, and none else
_BESIDE_WEIGHTS = (hf_config.CONFIG, *added_tokens.FILES, *VOCABULARIES)
ID = re.compile(r'[\w-][\w.-]*(/[\w-][\w.-]*)?')


class Found(NamedTuple):
  """A local folder that holds a model.

  Attributes:
    folder: with config.json and weights, if the model is complete.
    origin: where it is from, for messages.
    notes: lines to show to the user.
  """

  folder: pathlib.Path
  origin: str
  notes: tuple[str, ...] = ()


class _Choice(NamedTuple):
  revision: str
  weights: str
  notes: tuple[str, ...] = ()


def find(path_or_id: str) -> Found:
  """The folder itself, or, where there is no such folder, that of a model downloaded from the hub.

  Raises:
    ValueError: there is neither, the model may not be read, or the hub cannot be reached.
    OSError: a file cannot be written.
  """
  path = epath.Path(path_or_id).expanduser()
  if path.is_dir():
    here = _copied(path_or_id) if '://' in path_or_id else pathlib.Path(path)
    return Found(here, f'Hugging Face folder {path_or_id}')
  if plain_files.exists(path):
    raise ValueError(f'{path_or_id} is a file: give the folder that holds it and config.json.')
  if not ID.fullmatch(path_or_id):
    raise ValueError(
      f'There is no folder {path_or_id}, and it is not a Hugging Face id like google/t5-v1_1-base.'
    )
  folder, notes = _from_hub(path_or_id)
  return Found(folder, f'Hugging Face {path_or_id}', notes)


@functools.cache
def _copied(path: str) -> pathlib.Path:
  """A local copy of a bucket folder's readable files, deleted when this process exits."""
  here = tempfile.TemporaryDirectory(prefix='dss-')
  atexit.register(here.cleanup)
  files = {file.name: file for file in epath.Path(path).iterdir()}
  kinds = hf_files.SAFETENSORS, hf_files.MSGPACK, hf_files.BIN
  weights = next((kind for kind in kinds if _has(set(files), kind)), kinds[0])
  for name, file in files.items():
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in _patterns(weights)):
      file.copy(pathlib.Path(here.name, name))
  return pathlib.Path(here.name)


def _from_hub(model: str) -> tuple[pathlib.Path, tuple[str, ...]]:
  import huggingface_hub

  huggingface_hub.get_session().timeout = TIMEOUT_SECONDS
  with _clear_errors(model):
    try:
      choice = _choose(huggingface_hub.HfApi(), model)
      return _fetched(model, choice), choice.notes
    except _Unreachable:
      cached = _cached(model)
      if cached is None:
        raise
      return cached, (f'{model} is taken from the cache {cached}: the hub cannot be reached.',)


def _choose(api: Any, model: str) -> _Choice:
  """The revision and the weights to take."""
  main = _files(api, model, 'main')
  if _has(main, hf_files.SAFETENSORS):
    return _Choice('main', hf_files.SAFETENSORS)
  for number, revision in _conversions(api, model):
    if _has(_files(api, model, revision), hf_files.SAFETENSORS):
      note = (
        f'{model} has no safetensors of its own; they come from {revision}, pull request {number} '
        f"of the hub's {BOT}, which is not merged."
      )
      return _Choice(revision, hf_files.SAFETENSORS, (note,))
  if _has(main, hf_files.MSGPACK):
    return _Choice('main', hf_files.MSGPACK)
  if _has(main, hf_files.BIN):
    if not hf_files.has_torch():
      raise ValueError(f'{hf_files.BIN} of Hugging Face {model} {hf_files.INSTALL_TORCH}.')
    return _Choice('main', hf_files.BIN)
  raise ValueError(
    f'Hugging Face {model} has no weights that can be read: expected {hf_files.SAFETENSORS}, '
    f'{hf_files.MSGPACK} or {hf_files.BIN}.'
  )


def _files(api: Any, model: str, revision: str) -> set[str]:
  with _one_exception():
    info = api.model_info(model, revision=revision, timeout=TIMEOUT_SECONDS)
  return {sibling.rfilename for sibling in info.siblings or ()}


def _conversions(api: Any, model: str) -> Iterator[tuple[int, str]]:
  """Number and revision of the open pull requests of the conversion bot, newest first.

  Anybody can open one; only the bot's are certain to hold the same weights.
  """
  with _one_exception():
    requests = list(api.get_repo_discussions(model))
  for request in sorted(requests, key=lambda request: -request.num):
    if request.is_pull_request and request.author == BOT and request.status in ('open', 'draft'):
      yield request.num, f'refs/pr/{request.num}'


def _has(files: set[str], weights: str) -> bool:
  return not files.isdisjoint((weights, f'{weights}{hf_files.INDEX}'))


def _patterns(weights: str) -> list[str]:
  stem, suffix = os.path.splitext(weights)
  shards = f'{stem}-?????-of-?????{suffix}'
  return [*_BESIDE_WEIGHTS, weights, f'{weights}{hf_files.INDEX}', shards]


def _fetched(model: str, choice: _Choice, local: bool = False) -> pathlib.Path:
  import huggingface_hub

  with _one_exception():
    folder = huggingface_hub.snapshot_download(
      model,
      revision=choice.revision,
      allow_patterns=_patterns(choice.weights),
      local_files_only=local,
    )
  return pathlib.Path(folder)


def _cached(model: str) -> pathlib.Path | None:
  """The folder of a model that was downloaded completely before, if there is one."""
  from huggingface_hub import constants

  refs = pathlib.Path(constants.HF_HUB_CACHE, f'models--{model.replace("/", "--")}', 'refs')
  revisions = (str(file.relative_to(refs)) for file in sorted(refs.rglob('*')) if file.is_file())
  for revision in revisions:  # 'main' comes before 'refs/pr/1'
    for weights in (hf_files.SAFETENSORS, hf_files.MSGPACK, hf_files.BIN):
      with contextlib.suppress(_Unreachable):
        folder = _fetched(model, _Choice(revision, weights), local=True)
        if _has({file.name for file in folder.iterdir()}, weights):
          return folder
  return None


class _Unreachable(Exception):
  """The hub does not answer."""


@contextlib.contextmanager
def _one_exception() -> Iterator[None]:
  """Turns every exception of huggingface_hub that means "no answer" into `_Unreachable`.

  Raises:
    ValueError: what answers is no hub.
  """
  from huggingface_hub import constants, errors

  try:
    yield
  except (errors.HfHubHTTPError, errors.HFValidationError):
    raise  # an answer
  except (
    errors.LocalEntryNotFoundError,
    errors.HTTPError,  # the transport's
    ConnectionError,
    TimeoutError,
  ) as error:
    raise _Unreachable from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f'{constants.ENDPOINT} does not answer as a Hugging Face hub does (is it a page of a proxy, '
      'or HF_ENDPOINT wrong?): give a local folder.'
    ) from error


@contextlib.contextmanager
def _clear_errors(model: str) -> Iterator[None]:
  """Raises one sentence on why a model cannot be fetched, instead of the hub's message."""
  from huggingface_hub import constants, errors

  page = f'{constants.ENDPOINT}/{model}'
  alternative = 'or give a local folder'
  try:
    yield
  except errors.GatedRepoError as error:
    raise ValueError(
      f'Hugging Face {model} is gated: accept its terms at {page} and set HF_TOKEN to a token of '
      f'that account, {alternative}.'
    ) from error
  except errors.RepositoryNotFoundError as error:
    raise ValueError(
      f'There is no folder {model} and no such model at {page}, or it is private: check the name, '
      f'set HF_TOKEN if it is private, {alternative}.'
    ) from error
  except errors.HfHubHTTPError as error:
    status = error.response.status_code
    advice = (
      'set HF_TOKEN to a token that may read it' if status in (401, 403) else 'try again later'
    )
    raise ValueError(
      f'The hub answers {status} for Hugging Face {model} ({page}): {advice}, {alternative}.'
    ) from error
  except errors.HFValidationError as error:
    raise ValueError(f'There is no folder {model}, and it is not a Hugging Face id.') from error
  except _Unreachable as error:
    raise ValueError(
      f'There is no folder {model}, and the hub cannot be reached at {constants.ENDPOINT} (is the '
      f'machine offline, or HF_HUB_OFFLINE set?): give a local folder.'
    ) from error
