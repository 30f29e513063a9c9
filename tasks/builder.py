"""The TFDS builder of all data sets: raw release files in, one prepared version out.

Owns: the prepared form, what a filter drops, the counts, when a data set is built again. Does not
own: reading raw files (release.py), finding prepared data (prepared.py), the command (prepare.py).

A version is written to a temporary folder and appears by one rename, then older ones are deleted: a
killed preparation leaves the old version, or both, of which the newer is read.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from dss_jax.datasets import anli1, asdiv, cqa, esnli, release, svamp
from dss_jax.tasks import metrics, prepared

DATASETS: Mapping[str, release.Dataset] = {
  module.DATASET.name: module.DATASET for module in (esnli, anli1, cqa, svamp, asdiv)
}
FILTERS = ('none', 'clean', 'agree')
"""`clean` drops train rows with an unparsed label or an empty rationale; `agree` also drops those
whose teacher label is not the gold one. Validation and test are never filtered."""
FORMAT = 1
"""Count up when the parsing or the features change: prepared data is then built again."""
STALE_SECONDS = 3600
"""Age at which an unfinished folder is that of a killed preparation, not of a running one."""


@dataclasses.dataclass
class Counts:
  """What is known of a split before any filter, and how many examples are left after it.

  `disagree` counts parsed labels only, so a row with a gold label is counted once: as unparsed, as
  disagreeing or as agreeing.
  """

  examples: int = 0
  judged: int = 0
  agree: int = 0
  disagree: int = 0
  unparsed: int = 0
  empty_rationale: int = 0

  def add(self, example: release.Example, correct: bool, kept: bool) -> None:
    """Counts one example."""
    self.examples += kept
    self.judged += bool(example.label)
    self.agree += correct
    self.disagree += bool(example.label and example.teacher_label and not correct)
    self.unparsed += not example.teacher_label
    self.empty_rationale += not example.rationale

  def report(self, has_teacher: bool) -> dict[str, Any]:
    """The split's entry in the command's JSON; None where there are no teacher outputs."""
    if not has_teacher:
      names = ('teacher_accuracy', 'unparsed', 'empty_rationale', 'disagree')
      return {'examples': self.examples, **dict.fromkeys(names)}
    return {
      'examples': self.examples,
      'teacher_accuracy': round(self.agree / self.judged, 6) if self.judged else None,
      'unparsed': self.unparsed,
      'empty_rationale': self.empty_rationale,
      'disagree': self.disagree,
    }


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Outcome of `prepare`.

  Attributes:
    folder: of the prepared version.
    change: 'new', 'unchanged', or 'replaced'.
    counts: per split, the entry in the command's JSON.
  """

  folder: epath.Path
  change: str
  counts: Mapping[str, Mapping[str, Any]]


def keeps(row_filter: str, example: release.Example, correct: bool) -> bool:
  """Whether a train row passes a filter; without a gold label nothing disagrees."""
  if row_filter == 'none':
    return True
  clean = bool(example.teacher_label and example.rationale)
  return clean and (row_filter == 'clean' or correct or not example.label)


def prepare(
  dataset: release.Dataset,
  splits: Mapping[str, release.SplitFiles],
  data_dir: str | None = None,
  row_filter: str = 'none',
) -> Prepared:
  """Builds a data set, unless the version on disk has the same raw files, filter and format.

  Args:
    dataset: how its raw files are read.
    splits: the raw files of the splits to be written.
    data_dir: TFDS folder; see prepared.py for the default.
    row_filter: one of FILTERS.

  Raises:
    ValueError: raw files are malformed, the filter needs teacher outputs that are missing, or it
      leaves no train row.
  """
  if row_filter not in FILTERS:
    raise ValueError(f'filter must be one of {", ".join(FILTERS)}; got {row_filter!r}.')
  train = splits.get('train')
  if row_filter != 'none' and train is not None and not train.completions:
    raise ValueError(
      f'--filter={row_filter} judges teacher outputs, but {train.rows} has none beside it '
      f'(llm/{dataset.splits["train"]}_CoT_<k>.json): add them or set --filter=none.'
    )
  identity = {'format': FORMAT, 'filter': row_filter, 'sources': _hashes(splits)}
  folder = prepared.dataset_folder(dataset.name, data_dir)
  found = prepared.versions(folder)
  if found:
    metadata = prepared.read_metadata(prepared.version_folder(folder, found[-1]))
    if metadata and all(metadata.get(key) == value for key, value in identity.items()):
      _delete_leftovers(folder, found[-1])
      path = prepared.version_folder(folder, found[-1])
      return Prepared(path, 'unchanged', metadata['counts'])

  version = (1, 0, found[-1][2] + 1 if found else 0)
  builder = Dss(dataset, splits, identity, version=version, data_dir=str(folder.parent.parent))
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(
      num_shards=1,  # one file: rows stay in order, and small sets gain nothing from more
      compute_stats=tfds.download.ComputeStatsMode.SKIP,
    )
  )
  _delete_leftovers(folder, version)
  path = prepared.version_folder(folder, version)
  return Prepared(path, 'replaced' if found else 'new', builder.info.metadata['counts'])


class Dss(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Inputs, gold labels and what a teacher LLM said, for distilling step by step."""

  # Not registered: tfds.load then finds the newest version by its files, without this class.
  name = prepared.BUILDER_NAME
  VERSION = tfds.core.Version('1.0.0')
  code_path = None  # TFDS would look for checksum files beside the code; there are none
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in DATASETS]  # noqa: RUF012

  def __init__(
    self,
    dataset: release.Dataset,
    splits: Mapping[str, release.SplitFiles],
    identity: Mapping[str, Any],
    *,
    version: tuple[int, ...],
    data_dir: str,
  ):
    """Args: as of `prepare`; `identity` is what makes a version differ from another."""
    self._dataset = dataset
    self._splits = splits
    self._filter = identity['filter']
    self._notes = tfds.core.MetadataDict(dataset=dataset.name, **identity, counts={})
    self.VERSION = tfds.core.Version('.'.join(map(str, version)))
    super().__init__(config=dataset.name, data_dir=data_dir)

  def _info(self) -> tfds.core.DatasetInfo:
    names = [field.name for field in dataclasses.fields(release.Example)]
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in names}),
      disable_shuffling=True,
      metadata=self._notes,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    return {split: self._generate_examples(split) for split in self._splits}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (number, row), and notes the counts of the split at its end."""
    files = self._splits[split]
    row_filter = self._filter if split == 'train' else 'none'
    is_correct = metrics.LABEL_CORRECT[self._dataset.metric]
    counts = Counts()
    for example in release.read_examples(self._dataset, files, split):
      correct = bool(example.label) and is_correct(example.label, example.teacher_label)
      kept = keeps(row_filter, example, correct)
      counts.add(example, correct, kept)
      if kept:
        yield counts.examples - 1, dataclasses.asdict(example)
    if not counts.examples:
      raise ValueError(
        f'{files.rows}: no row of split {split} is left with --filter={row_filter}; expected at '
        'least one. Check the file, or set --filter=none.'
      )
    self._notes['counts'][split] = counts.report(has_teacher=bool(files.completions))

  def _log_download_bytes(self) -> None:
    """Silences TFDS, whose message speaks of a download."""

  def _log_download_done(self) -> None:
    """Likewise."""


def _hashes(splits: Mapping[str, release.SplitFiles]) -> dict[str, dict[str, str]]:
  """SHA-256 of the raw files of each split, by file name."""
  return {
    split: {path.name: release.file_sha256(path) for path in (files.rows, *files.completions)}
    for split, files in splits.items()
  }


def _delete_leftovers(folder: epath.Path, current: tuple[int, ...]) -> None:
  """Deletes versions below the current one, and folders of preparations that were killed."""
  for version in prepared.versions(folder):
    if version < current:
      prepared.version_folder(folder, version).rmtree()
  for path in folder.iterdir():
    if path.name.startswith('incomplete.') and time.time() - path.stat().mtime > STALE_SECONDS:
      path.rmtree()
