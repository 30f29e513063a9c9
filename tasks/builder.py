"""The TFDS builder of all data sets: raw release files in, one prepared version out.

Owns: the prepared form, the counts, who is noted as the teacher, when a data set is built again.
Does not own: reading raw files (datasets/release.py) and completions (teacher/reading.py), what a
filter drops (teacher/filters.py), finding prepared data (prepared.py), the command (prepare.py).

A version is written to a temporary folder and renamed when complete; then older ones are deleted. A
killed preparation leaves the old version, or both, of which the newer is read.
"""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from dss_jax.datasets import release, rows
from dss_jax.datasets.completions import Provenance
from dss_jax.settings import json_form, progress, whole_folders
from dss_jax.tasks import prepared
from dss_jax.teacher import filters, reading

FORMAT = 4
"""Increase when the parsing or the features change: prepared data is then built again."""
STALE_SECONDS = 3600
"""Age from which an unfinished folder counts as left by a killed preparation."""


@dataclasses.dataclass
class Counts:
  """Statistics of a split before any filter, and the number of examples left after it.

  `examples` counts rows, all else counts the teacher's samples, of which a row has one or K.
  `disagree` counts parsed labels only, so a sample of a row with a gold label is counted once: as
  unparsed, as disagreeing or as agreeing.
  """

  examples: int = 0
  labeled: int = 0
  judged: int = 0
  agree: int = 0
  disagree: int = 0
  unparsed: int = 0
  empty_rationale: int = 0
  has_rationales: bool = False

  def add(self, sample: filters.Judged) -> None:
    """Counts one sample of the teacher."""
    self.labeled += bool(sample.label)
    self.judged += bool(sample.gold)
    self.agree += sample.correct
    self.disagree += bool(sample.gold and sample.label and not sample.correct)
    self.unparsed += not sample.label
    self.empty_rationale += not sample.rationale
    self.has_rationales |= bool(sample.rationale)

  def report(self, has_teacher: bool) -> dict[str, Any]:
    """The split's entry in the command's JSON; None of what rows alone do not hold.

    Args:
      has_teacher: whether there are completions.
    """
    has_labels = has_teacher or self.labeled > 0
    has_rationales = has_teacher or self.has_rationales
    accuracy = round(self.agree / self.judged, 6) if self.judged else None
    return {
      'examples': self.examples,
      'teacher_accuracy': accuracy if has_labels else None,
      'unparsed': self.unparsed if has_labels else None,
      'empty_rationale': self.empty_rationale if has_rationales else None,
      'disagree': self.disagree if has_labels else None,
    }


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Outcome of `prepare`.

  Attributes:
    folder: of the prepared version.
    change: 'new', 'unchanged', or 'replaced'.
    notes: what is noted with the data: `counts`, per split the entry in the command's JSON;
      `statuses`, per split how many completions were read how (reading.STATUSES); `dropped`, how
      many samples of train each rule of the filter dropped; `teacher`, `provenance` and others.
  """

  folder: epath.Path
  change: str
  notes: Mapping[str, Any]


def prepare(
  dataset: release.Dataset,
  splits: Mapping[str, release.SplitFiles],
  data_dir: str | None = None,
  row_filter: str = filters.NONE,
  parser: str = release.PARSERS[0],
  provenance: Provenance | None = None,
) -> Prepared:
  """Builds a data set, unless the version on disk has the same raw files, filter, parser, teacher.

  Args:
    dataset: how its raw files are read.
    splits: the raw files of the splits to be written.
    data_dir: TFDS folder; see prepared.py for the default.
    row_filter: rules of teacher/filters.py.
    parser: one of release.PARSERS.
    provenance: who wrote the completions, and how; None: the teacher that the data set names.

  Raises:
    ValueError: the data set has no such parser, raw files are malformed, the filter is none or
      needs teacher outputs that are missing, or it leaves no train row.
  """
  filters.Filter(row_filter, dataset.metric)
  dataset = release.with_parser(dataset, parser)
  has_teacher = {split: _has_teacher(dataset, files) for split, files in splits.items()}
  if row_filter != filters.NONE and not has_teacher.get('train', True):
    raise ValueError(
      f'--filter={row_filter} judges teacher outputs, but {splits["train"].rows} has none next '
      f'to it (llm/{dataset.splits["train"]}_CoT_<k>.json) or in --teacher_outputs '
      f'({dataset.splits["train"]}.jsonl): add them or set --filter=none.'
    )
  teacher = provenance.teacher if provenance else dataset.teacher
  identity = {
    'format': FORMAT,
    'filter': row_filter,
    'parser': parser,
    'sources': _hashes(splits),
    'teacher': teacher if any(has_teacher.values()) else '',
    'provenance': json_form.to_dict(provenance) if provenance else {},
  }
  folder = prepared.dataset_folder(dataset.name, data_dir)
  existing = prepared.versions(folder)
  if existing:
    path = prepared.version_folder(folder, existing[-1])
    notes = _notes(path, identity)
    if notes is not None:
      _delete_leftovers(folder, existing[-1])
      return Prepared(path, 'unchanged', notes)

  version = (1, 0, existing[-1][2] + 1 if existing else 0)
  path = prepared.version_folder(folder, version)
  builder = Dss(dataset, splits, identity, version=version, data_dir=str(folder.parent.parent))
  builder.write(path)
  notes = _notes(path, identity)
  if notes is None:
    prepared.open_version(path)  # raises an error that says what cannot be read
    # The other process had other raw files, another filter, parser or teacher.
    return prepare(dataset, splits, data_dir, row_filter, parser, provenance)
  _delete_leftovers(folder, version)
  return Prepared(path, 'replaced' if existing else 'new', notes)


class Dss(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Inputs, gold labels and what a teacher LLM said, for distilling step by step."""

  # Not registered: tfds.load then finds the newest version by its files, without this class.
  name = prepared.BUILDER_NAME
  VERSION = tfds.core.Version('1.0.0')
  code_path = None  # else TFDS would look for checksum files next to the code

  def __init__(
    self,
    dataset: release.Dataset,
    splits: Mapping[str, release.SplitFiles],
    identity: Mapping[str, Any],
    *,
    version: tuple[int, ...],
    data_dir: str,
  ):
    """Args: as in `prepare`; `identity` is the metadata by which versions are compared."""
    self._dataset = dataset
    self._splits = splits
    self._identity = identity
    self._notes = tfds.core.MetadataDict(
      dataset=dataset.name, **identity, counts={}, statuses={}, dropped={}
    )
    self.VERSION = tfds.core.Version('.'.join(map(str, version)))
    config = tfds.core.BuilderConfig(name=dataset.name)
    super().__init__(config=config, data_dir=data_dir)

  def write(self, path: epath.Path) -> None:
    """Writes the version, unless another process does it first; `path` is its folder."""
    try:
      with whole_folders.naming_a_full_disk(path):
        self.download_and_prepare(
          download_config=tfds.download.DownloadConfig(
            num_shards=1,  # one file: rows stay in order, and small sets gain nothing from more
            compute_stats=tfds.download.ComputeStatsMode.SKIP,
          )
        )
    except OSError:
      if not path.exists():
        raise

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=prepared.features(),
      disable_shuffling=True,
      metadata=self._notes,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    return {split: self._generate_examples(split) for split in self._splits}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (number, row), and stores the split's counts at its end."""
    files, metric = self._splits[split], self._dataset.metric
    spelling = self._identity['filter'] if split == 'train' else filters.NONE
    row_filter = filters.Filter(spelling, metric)
    own = self._identity['parser'] == release.PARSERS[0]
    read = reading.read if own else reading.read_as_is
    counts, statuses = Counts(), collections.Counter(dict.fromkeys(reading.STATUSES, 0))
    examples = release.read_examples(self._dataset, files, split, read)
    for example in _shown(examples, split):
      samples = filters.judged(example, metric)
      statuses.update(filter(None, example.status))
      for sample in samples:
        counts.add(sample)
      kept = [sample for sample in samples if row_filter.keeps(sample)]
      if kept:
        yield (
          counts.examples,
          {
            'input': example.input,
            'label': example.label,
            'rationale': [sample.rationale for sample in kept],
            'teacher_label': [sample.label for sample in kept],
          },
        )
        counts.examples += 1
    if not counts.examples:
      raise ValueError(
        f'{files.rows}: no row of split {split} is left with --filter={spelling}; expected at '
        'least one. Check the file, or set --filter=none.'
      )
    has_teacher = bool(files.completions)
    self._notes['counts'][split] = counts.report(has_teacher)
    self._notes['statuses'][split] = {k: n for k, n in statuses.items() if n}
    self._notes['dropped'] |= row_filter.dropped

  def _log_download_bytes(self) -> None:
    """Silences TFDS, whose message is about a download."""

  def _log_download_done(self) -> None:
    """Likewise."""


def _notes(path: epath.Path, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """The notes of a version on disk; None if it is of another identity or cannot be opened."""
  metadata = prepared.read_metadata(path)
  if any(metadata.get(key) != value for key, value in identity.items()):
    return None
  try:
    prepared.open_version(path)
  except (OSError, ValueError):
    return None
  return metadata


def _shown(examples: Iterator[release.Example], split: str) -> Iterator[release.Example]:
  """The examples, while a bar shows how many there were."""
  with progress.bar(f'preparing {split}') as advance:
    yield from progress.counted(examples, advance)


def _has_teacher(dataset: release.Dataset, files: release.SplitFiles) -> bool:
  """Whether there are completions, or rows that hold a teacher's rationale or label."""
  if files.completions or dataset.given is None:
    return bool(files.completions)
  for number, row in dataset.read(files.rows):
    with rows.at(f'{files.rows}, line {number}'):
      if dataset.given(row):
        return True
  return False


def _hashes(splits: Mapping[str, release.SplitFiles]) -> dict[str, dict[str, str]]:
  """SHA-256 of the raw files of each split, by file name."""
  return {
    split: {path.name: release.file_sha256(path) for path in (files.rows, *files.completions)}
    for split, files in splits.items()
  }


def _delete_leftovers(folder: epath.Path, current: tuple[int, ...]) -> None:
  """Deletes versions below the current one, and folders of preparations that were killed."""
  with contextlib.suppress(FileNotFoundError):  # another process may be deleting them too
    for version in prepared.versions(folder):
      if version < current:
        prepared.version_folder(folder, version).rmtree()
    for path in folder.iterdir():
      if path.name.startswith('incomplete.') and time.time() - path.stat().mtime > STALE_SECONDS:
        path.rmtree()
