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
from typing import Protocol

import numpy as np

from dss_jax.datasets import completions, rows
from dss_jax.datasets.rows import Row
from dss_jax.datasets.teacher_outputs import TeacherOutput
from dss_jax.methods import Choices

SOURCE = 'datasets.zip of the repository google-research/distilling-step-by-step'
"""Where the raw files come from, for messages."""
TEACHER = 'PaLM 540B'
"""The model that wrote the release's completions."""
VALIDATION_FRACTION = 0.1
VALIDATION_SEED = 0
PARSERS = ('own', 'released')
"""How completions are read: as teacher_outputs.py does, or as the paper's released code does."""
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
    status: how each was read, by a reader that says so; '' by others.
  """

  input: str
  label: str
  rationale: tuple[str, ...] = ()
  teacher_label: tuple[str, ...] = ()
  status: tuple[str, ...] = dataclasses.field(default=(), compare=False)


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
    given: returns what a row itself holds of a teacher, K rationales and labels, which a split
      without completions takes; None: nothing.
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
  given: Callable[[Row], Sequence[TeacherOutput]] | None = None

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


class Output(Protocol):
  """A completion that was read; teacher/reading.py adds a status."""

  @property
  def rationale(self) -> str:
    """The teacher's; may be empty."""

  @property
  def label(self) -> str:
    """The teacher's; may be empty."""


Reader = Callable[[str, Callable[[str], TeacherOutput], str | None], Output]
"""Reads a completion by a parser, knowing why the text ends."""


def _parsed(
  completion: str, parse: Callable[[str], TeacherOutput], finish_reason: str | None
) -> Output:
  """Reads a completion by the parser alone."""
  del finish_reason
  return parse(without_separator(completion))


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


def annotated(
  dataset: Dataset, splits: Mapping[str, SplitFiles], folder: pathlib.Path
) -> dict[str, SplitFiles]:
  """The raw files of splits with the completions of a folder that `dss annotate` wrote.

  A file of it is named after the split of the raw file that it belongs to, or after ours; a split
  without one has no completions, whatever lies beside its raw file.

  Raises:
    ValueError: it has a file for none of the splits.
  """
  found = {}
  for split, files in splits.items():
    names = dict.fromkeys([dataset.splits[split], split])
    paths = [folder / f'{name}.jsonl{packed}' for name in names for packed in ('', '.gz')]
    found[split] = SplitFiles(files.rows, tuple(path for path in paths if path.is_file())[:1])
  if not any(files.completions for files in found.values()):
    wanted = ', '.join(dict.fromkeys(f'{dataset.splits[split]}.jsonl' for split in splits))
    raise ValueError(
      f'{folder}: expected completions in {wanted}, of one split at least; there is none.'
    )
  return found


def read_examples(
  dataset: Dataset, files: SplitFiles, split: str, read: Reader = _parsed
) -> Iterator[Example]:
  """Yields the examples of a split in the order of its file, one batch of completions in memory.

  Of completions that say what was asked about, rows that were not asked about are left out.

  Args:
    dataset: how a row reads.
    files: of the split.
    split: of ours.
    read: reads a completion by the data set's parser, as teacher/reading.py does.

  Raises:
    ValueError: a row or a completions file is malformed, or they do not belong together.
  """
  held_out: frozenset[int] = frozenset()
  if dataset.holds_out_validation and split != 'test':
    held_out = held_out_rows(sum(1 for _ in dataset.read(files.rows)))
  for number, example in _joined(dataset, files, read):
    if not held_out or (number in held_out) == (split == 'validation'):
      yield example


def held_out_rows(rows: int) -> frozenset[int]:
  """Row numbers (from 0) of the 10 %, rounded up, that are held out of train for validation.

  The recipe, and with it the rows, are those of `train_test_split(test_size=0.1, seed=0)` of
  Hugging Face datasets, which the paper's released code calls.
  """
  held_out = int(np.ceil(VALIDATION_FRACTION * rows))
  return frozenset(np.random.default_rng(VALIDATION_SEED).permutation(rows)[:held_out].tolist())


def _joined(dataset: Dataset, files: SplitFiles, read: Reader) -> Iterator[tuple[int, Example]]:
  """The rows of a file by their number, from 0, each with what the teacher wrote, if anything."""
  if not files.completions:
    for index, place, row, texts in _rows(dataset, files):
      with rows.at(place):
        yield index, _as_example(texts, dataset.given(row) if dataset.given else ())
  elif completions.is_lines(files.completions[0]):
    yield from _joined_by_input(dataset, files, read)
  else:
    yield from _joined_by_order(dataset, files, read)


def _joined_by_order(
  dataset: Dataset, files: SplitFiles, read: Reader
) -> Iterator[tuple[int, Example]]:
  """As `_joined`, of files with one entry for each row."""
  rows_seen = outputs_seen = 0
  pairs = itertools.zip_longest(_rows(dataset, files), completions.read(files.completions))
  for row, outputs in pairs:
    rows_seen += row is not None
    outputs_seen += outputs is not None
    if row is not None and outputs is not None:
      index, place, values, texts = row
      yield index, _example(dataset, place, values, texts, outputs, read)
  if rows_seen != outputs_seen:
    first, last = files.completions[0], files.completions[-1]
    names = str(first) if first == last else f'{first} to {last.name}'
    raise ValueError(
      f'Expected one completion for each row, but {files.rows} has {rows_seen} rows and {names} '
      f'hold {outputs_seen} completions: get both from the same release.'
    )


def _joined_by_input(
  dataset: Dataset, files: SplitFiles, read: Reader
) -> Iterator[tuple[int, Example]]:
  """As `_joined`, of files that say what was asked; rows that were not are left out."""
  asked = completions.read(files.completions)
  outputs = next(asked, None)
  for index, place, row, texts in _rows(dataset, files):
    if outputs is not None and outputs.input == texts[0]:
      yield index, _example(dataset, place, row, texts, outputs, read)
      outputs = next(asked, None)
  if outputs is not None:
    raise ValueError(
      f'{outputs.place}: the input {rows.shown(outputs.input)} is that of no row of {files.rows}, '
      'or of an earlier one; expected the inputs of its rows, in their order.'
    )


def _rows(dataset: Dataset, files: SplitFiles) -> Iterator[tuple[int, str, Row, tuple[str, str]]]:
  """The number, from 0, the place, the row, and its (input, gold label), of all rows of a file."""
  for index, (number, row) in enumerate(dataset.read(files.rows)):
    place = f'{files.rows}, line {number}'
    with rows.at(place):
      texts = dataset.fields(row)
    yield index, place, row, texts


def _example(
  dataset: Dataset,
  place: str,
  row: Row,
  texts: tuple[str, str],
  outputs: completions.Outputs,
  read: Reader,
) -> Example:
  with rows.at(place):
    found = [
      read(text, lambda own: dataset.parse(own, row), reason)
      for text, reason in zip(outputs.completions, outputs.finish_reasons, strict=True)
    ]
  return _as_example(texts, found)


def _as_example(texts: tuple[str, str], found: Sequence[Output]) -> Example:
  """A row's (input, gold label) with what a teacher wrote about it."""
  return Example(
    *texts,
    rationale=tuple(one.rationale for one in found),
    teacher_label=tuple(one.label for one in found),
    status=tuple(getattr(one, 'status', '') for one in found),
  )
