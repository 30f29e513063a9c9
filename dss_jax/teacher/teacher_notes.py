"""teacher.json: who wrote the completions of a folder, with the hash of each of its files.

Owns: that it is true of all files, whichever of them a run has written. Does not own: the files
(annotations.py), what it must hold (datasets/completions.py, which also compares the hashes).
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from dss_jax.datasets import completions
from dss_jax.settings import json_form, whole_files
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.printable import one_line
from dss_jax.teacher.requests import Tokens


@dataclasses.dataclass(frozen=True)
class Record:
  """What teacher.json has of one file.

  Attributes:
    sha256: of the file.
    parameters: of its requests.
    requests: whose answers are in it.
    tokens: of these, `input`, `cached` and `output`.
    usd: for all that was asked for it, failures included; None: there was no price.
  """

  sha256: str
  parameters: Mapping[str, Any]
  requests: int
  tokens: Mapping[str, int]
  usd: float | None


def sha256(text: str) -> str:
  """Of a text as UTF-8, hexadecimal."""
  return hashlib.sha256(text.encode()).hexdigest()


def together(
  folder: pathlib.Path, records: Mapping[str, Record], about: Mapping[str, Any]
) -> dict[str, Any]:
  """The notes on a folder once some of its files are written anew.

  Args:
    folder: which may have files of an earlier run.
    records: of each file that is written.
    about: who is asked: `teacher`, `prompt`, `date`, `licence_note`.

  Raises:
    ConfigError: other files are of another teacher or prompt, or of nobody known.
  """
  others, date = others_of(folder, set(records), about)
  files = dict(sorted({**others, **records}.items()))
  how = {name: one.parameters for name, one in files.items()}
  first, *rest = how.values()
  costs = [one.usd for one in files.values() if one.usd is not None]
  return {
    **about,
    'parameters': first if all(one == first for one in rest) else how,
    'date': max(about['date'], date),
    'requests': sum(one.requests for one in files.values()),
    'tokens': {
      name: sum(one.tokens.get(name, 0) for one in files.values()) for name in Tokens._fields
    },
    'usd': round(sum(costs), 6) if len(costs) == len(files) else None,
    'files': {name: json_form.to_dict(one) for name, one in files.items()},
  }


def write(folder: pathlib.Path, notes: Mapping[str, Any]) -> None:
  """Writes teacher.json, whole."""
  text = json.dumps(notes, indent=2, ensure_ascii=False)
  whole_files.write_text(folder / completions.TEACHER_FILE, f'{text}\n')


def others_of(
  folder: pathlib.Path, names: set[str], about: Mapping[str, Any]
) -> tuple[dict[str, Record], str]:
  """The records of files that are not written now, and when the last answer in them came.

  Raises:
    ConfigError: as `together`.
  """
  others = sorted(path.name for path in completions.files_in(folder) if path.name not in names)
  if not others:
    return {}, ''
  file = folder / completions.TEACHER_FILE
  notes = json_form.read_object(file) if file.exists() else {}
  if 'files' not in notes or any(notes.get(name) != about[name] for name in ('teacher', 'prompt')):
    raise ConfigError(
      f'{folder} has {", ".join(others)} of {_who(notes)}; choose another --output for '
      f'{_who(about)}, or annotate all splits.'
    )
  for name in others:
    completions.check_file(folder / name, notes)
  return {
    name: json_form.from_dict(Record, notes['files'][name], f'{file}, {name}') for name in others
  }, str(notes.get('date', ''))


def _who(notes: Mapping[str, Any]) -> str:
  prompt = notes.get('prompt')
  by = ' '.join(str(one) for one in prompt.values()) if isinstance(prompt, Mapping) else '?'
  return one_line(f'{notes.get("teacher", "nobody known")} by the prompt {by}', 120)
