"""The raw release: one JSON row per line, and the teacher's completions in batches next to it.

Owns: the layout of the files, the specification of a data set, joining rows with completions. Does
not own: single data sets (svamp.py, ...), parsing a completion (teacher_outputs.py), the prepared
form (builder.py).

    <folder>/<name>/<name>_<split>.json           one JSON object per line
    <folder>/<name>/llm/<split>_CoT_<k>.json      JSON list of completions, the k-th batch of rows;
                                                  a list of lists if a row has several
"""

import dataclasses
import hashlib
import itertools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from dss_jax.datasets import rows
from dss_jax.datasets.rows import Row
from dss_jax.datasets.teacher_outputs import TeacherOutput
from dss_jax.methods import Choices

SOURCE = 'datasets.zip of the repository google-research/distilling-step-by-step'
"""Where the raw files come from, for messages."""
TEACHER = 'PaLM 540B'
"""The model that wrote the release's completions."""
VALIDATION_FRACTION = 0.1
VALIDATION_SEED = 0
FILTERS = ('none', 'clean', 'agree')
"""`clean` drops train rows with an unparsed label or an empty rationale; `agree` also drops those
whose teacher label is not the gold one. Validation and test are never filtered."""
PARSERS = ('own', 'released')
"""How completions are read: as teacher_outputs.py does, or as the paper's released code does."""
MAX_COMPLETION = 1_000_000
"""Characters; the longest of the release has some thousands."""
_COMPLETIONS = (
  'expected a JSON list of texts, the raw completions, or of lists of texts if each row has several'
)
INPUT_SEPARATOR = '</s>'
"""Stands between the parts of an NLI input; the preprocessor makes it a true EOS id."""


@dataclasses.dataclass(frozen=True)
class Example:
  """One row of a prepared data set; missing texts are empty.

  Attributes:
    input: what the student reads, without a task prefix.
    label: gold label.
    rationale: the teacher's, one for each of K samples.
    teacher_label: the teacher's answer in each of them.
  """

  input: str
  label: str
  rationale: tuple[str, ...] = ()
  teacher_label: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Dataset:
  """How to read a data set of the release.

  Attributes:
    name: folder and task name.
    metric: how its labels are compared, 'text' or 'equation'.
    fields: returns a row's (input, gold label); raises ValueError if the row has none.
    parse: returns the rationale and label of a completion and its row.
    splits: from our split names to the release's. `validation` of `train` means the held-out 10 %.
    file_names: per split of the release, names of its file, best first; by default
      `<name>_<split>.json`.
    read: yields the numbered rows of such a file; by default JSON lines, CSV or TSV by its name.
    teacher: who wrote the completions, for model cards; '' if unknown.
    parse_released: as `parse`, but as the paper's released code reads a completion, if it does.
    choices: among which the label is, for methods that score them; None if it is any text.
  """

  name: str
  metric: str
  fields: Callable[[Row], tuple[str, str]]
  parse: Callable[[str, Row], TeacherOutput]
  splits: Mapping[str, str]
  file_names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  read: Callable[[pathlib.Path], Iterator[tuple[int, Row]]] = rows.read
  teacher: str = ''
  parse_released: Callable[[str], TeacherOutput] | None = None
  choices: Choices | None = None

  @property
  def holds_out_validation(self) -> bool:
    """Whether validation rows are taken from train."""
    return self.splits.get('validation') == self.splits['train']


def with_parser(dataset: Dataset, parser: str) -> Dataset:
  """The data set with its completions read by one of PARSERS.

  Raises:
    ValueError: the paper's code does not read this data set.
  """
  if parser == PARSERS[0]:
    return dataset
  read = dataset.parse_released
  if read is None:
    raise ValueError(
      f"--parser={parser}: the paper's code has no parser for {dataset.name}; leave --parser out."
    )
  return dataclasses.replace(dataset, parse=lambda completion, row: read(completion))


@dataclasses.dataclass(frozen=True)
class SplitFiles:
  """The raw files of a split: its rows and the teacher's completions (maybe none)."""

  rows: pathlib.Path
  completions: tuple[pathlib.Path, ...]


def file_sha256(path: pathlib.Path) -> str:
  """SHA-256 of a file, hexadecimal."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def text(row: Row, key: str) -> str:
  """A row's text without any literal `</s>`, which would read as an end of sequence.

  Raises:
    ValueError: the row lacks the key, or its value is not a text.
  """
  return without_separator(rows.text(row, key))


def without_separator(value: str) -> str:
  """Replaces the literal text `</s>` by a space."""
  return value.replace(INPUT_SEPARATOR, ' ')


def release_folder(folder: pathlib.Path, dataset: Dataset) -> pathlib.Path:
  """Finds the folder that holds `<name>/`: the one given, its `datasets/`, or its parent.

  Raises:
    ValueError: none of them does.
  """
  for candidate in (folder, folder / 'datasets', folder.parent):
    if (candidate / dataset.name).is_dir():
      return candidate
  raise ValueError(
    f'Expected a folder {folder / dataset.name} with the raw files of {dataset.name} (from '
    f'{SOURCE}), but there is none: set --raw_dir to the folder that holds {dataset.name}/.'
  )


def wanted_files(dataset: Dataset, folder: pathlib.Path, split: str) -> tuple[pathlib.Path, ...]:
  """The paths that may hold a split's rows, best first."""
  raw_split = dataset.splits[split]
  names = dataset.file_names.get(raw_split, (f'{dataset.name}_{raw_split}.json',))
  return tuple(folder / dataset.name / name for name in names)


def split_files(dataset: Dataset, folder: pathlib.Path, split: str) -> SplitFiles | None:
  """Finds a split's raw files; None if its rows are missing.

  Raises:
    ValueError: a batch of completions is missing between others.
  """
  existing = [path for path in wanted_files(dataset, folder, split) if path.is_file()]
  if not existing:
    return None
  pattern = re.compile(rf'{re.escape(dataset.splits[split])}_CoT_(\d+)\.json')
  batches = {}
  for path in (folder / dataset.name / 'llm').glob('*.json'):
    if match := pattern.fullmatch(path.name):
      batches[int(match.group(1))] = path
  if missing := sorted(set(range(len(batches))) - set(batches)):
    raise ValueError(
      f'Expected batches 0 to {max(batches)} of the completions of {existing[0].name} in '
      f'{folder / dataset.name / "llm"}, but {dataset.splits[split]}_CoT_{missing[0]}.json is '
      f'missing; get it from {SOURCE}.'
    )
  return SplitFiles(existing[0], tuple(path for _, path in sorted(batches.items())))


def read_examples(dataset: Dataset, files: SplitFiles, split: str) -> Iterator[Example]:
  """Yields the examples of a split in the order of its file, one batch of completions in memory.

  Raises:
    ValueError: a row or a completions file is malformed, or their numbers differ.
  """
  if not dataset.holds_out_validation or split == 'test':
    yield from _joined(dataset, files)
    return
  held_out = held_out_rows(sum(1 for _ in dataset.read(files.rows)))
  for number, example in enumerate(_joined(dataset, files)):
    if (number in held_out) == (split == 'validation'):
      yield example


def held_out_rows(rows: int) -> frozenset[int]:
  """Row numbers (from 0) of the 10 %, rounded up, that are held out of train for validation.

  The recipe, and with it the rows, are those of `train_test_split(test_size=0.1, seed=0)` of
  Hugging Face datasets, which the paper's released code calls.
  """
  held_out = int(np.ceil(VALIDATION_FRACTION * rows))
  return frozenset(np.random.default_rng(VALIDATION_SEED).permutation(rows)[:held_out].tolist())


def _joined(dataset: Dataset, files: SplitFiles) -> Iterator[Example]:
  """All rows of a file, each with its completion if the split has any."""
  numbered_rows = dataset.read(files.rows)
  if not files.completions:
    for number, row in numbered_rows:
      yield _example(dataset, files.rows, number, row, ())
    return
  rows_seen = completions_seen = 0
  for numbered_row, completion in itertools.zip_longest(numbered_rows, _completions(files)):
    rows_seen += numbered_row is not None
    completions_seen += completion is not None
    if numbered_row is not None and completion is not None:
      number, row = numbered_row
      yield _example(dataset, files.rows, number, row, completion)
  if rows_seen != completions_seen:
    first, last = files.completions[0], files.completions[-1]
    names = str(first) if first == last else f'{first} to {last.name}'
    raise ValueError(
      f'Expected one completion for each row, but {files.rows} has {rows_seen} rows and {names} '
      f'hold {completions_seen} completions: get both from the same release.'
    )


def _example(
  dataset: Dataset, path: pathlib.Path, number: int, row: Row, completions: Sequence[str]
) -> Example:
  with rows.at(f'{path}, line {number}'):
    input_text, label = dataset.fields(row)
    outputs = [dataset.parse(without_separator(text), row) for text in completions]
  rationales = tuple(output.rationale for output in outputs)
  return Example(input_text, label, rationales, tuple(output.label for output in outputs))


def _completions(files: SplitFiles) -> Iterator[list[str]]:
  """The completions of each row: one, or K."""
  for path in files.completions:
    batch = rows.read_json(path)
    if not isinstance(batch, list):
      raise ValueError(f'{path}: {_COMPLETIONS}, got {rows.shown(batch)}.')
    for number, item in enumerate(batch, start=1):
      texts = item if isinstance(item, list) else [item]
      for text_ in texts:
        if not isinstance(text_, str):
          raise ValueError(f'{path}: {_COMPLETIONS}; item {number} has {rows.shown(text_)}.')
        if len(text_) > MAX_COMPLETION:
          raise ValueError(
            f'{path}: item {number} has {len(text_)} characters; expected a completion of '
            f'{MAX_COMPLETION} at most.'
          )
      yield texts
