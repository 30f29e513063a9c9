"""Prepared data sets on disk, as SeqIO sources.

Owns: the place of a prepared data set, which version is read, the error if it is missing.
Does not own: writing it (builder.py), tasks (registration.py).

    <data_dir>/dss/<name>/1.0.<n>      n counts preparations; the highest is read

`data_dir` is, as in TFDS and SeqIO: the given one, else seqio.set_tfds_data_dir_override, else the
environment's TFDS_DATA_DIR, else ~/tensorflow_datasets. It may be gs://.
"""

import os
from collections.abc import Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

BUILDER_NAME = 'dss'


def default_data_dir() -> str:
  """The TFDS data folder of the current environment (TFDS itself reads it only when imported)."""
  return os.environ.get('TFDS_DATA_DIR') or os.path.join('~', 'tensorflow_datasets')


def dataset_folder(name: str, data_dir: str | None = None) -> epath.Path:
  """The folder that holds the versions of a prepared data set, whether it exists or not."""
  return epath.Path(data_dir or default_data_dir()).expanduser() / BUILDER_NAME / name


def versions(folder: epath.Path) -> list[tuple[int, ...]]:
  """The complete versions in a data set's folder, lowest first."""
  if not folder.exists():
    return []
  names = [path.name.split('.') for path in folder.iterdir()]
  return sorted(tuple(map(int, name)) for name in names if len(name) == 3 and _numeric(name))


def version_folder(folder: epath.Path, version: tuple[int, ...]) -> epath.Path:
  """The folder of one version."""
  return folder / '.'.join(map(str, version))


def newest(name: str, data_dir: str | None = None) -> epath.Path:
  """The folder of the newest version of a prepared data set.

  Raises:
    ValueError: it has not been prepared there.
  """
  folder = dataset_folder(name, data_dir)
  existing = versions(folder)
  if not existing:
    root = folder.parent.parent
    raise ValueError(
      f'The data set {name} is not prepared in {root}: run `dss prepare --dataset={name} '
      f'--raw_dir=<folder of the raw files> --data_dir={root}`, or set TFDS_DATA_DIR to the folder '
      'that has it.'
    )
  return version_folder(folder, existing[-1])


def read_metadata(version: epath.Path) -> dict[str, Any]:
  """The metadata that builder.py wrote: filter, raw files, counts; empty if not readable."""
  metadata = tfds.core.MetadataDict()
  try:
    metadata.load_metadata(version)
  except (OSError, ValueError):
    return {}
  return dict(metadata)


class PreparedSource(seqio.TfdsDataSource):
  """A prepared data set, opened on first use: it need not exist yet.

  Its splits are those on disk, and its rows come in the order of the raw file.
  """

  def __init__(self, name: str, data_dir: str | None = None):
    """Args: the data set's name; the TFDS folder, by default resolved when the data is read."""
    super().__init__(f'{BUILDER_NAME}/{name}:1.0.0', tfds_data_dir=data_dir, read_only=True)
    self._dataset_name = name
    self._tfds_dataset = _NewestVersion(name, data_dir)

  @property
  def splits(self) -> Sequence[str]:
    return tuple(self.tfds_dataset.info.splits)

  @property
  def metadata(self) -> dict[str, Any]:
    """See `read_metadata`."""
    return read_metadata(newest(self._dataset_name, self.tfds_dataset.data_dir))

  def get_dataset(
    self,
    split: str | None = None,
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """Returns dicts of the strings input and label, and rationale and teacher_label [samples].

    Raises:
      ValueError: the data set is not prepared, or was prepared without this split.
    """
    split = split or 'train'
    if split not in self.splits:
      raise ValueError(
        f'The prepared data set {self._dataset_name} in {self.tfds_dataset.builder.data_dir} has '
        f'no split {split}, only {", ".join(self.splits)}: its raw file was missing when it was '
        'prepared. Add the file and run `dss prepare` again, or use another split.'
      )
    dataset = super().get_dataset(split, shuffle=False, shard_info=shard_info)
    return dataset.shuffle(self.num_input_examples(split), seed=seed) if shuffle else dataset


class AugmentedSource(seqio.DataSource):
  """A prepared data set whose train split is extended with the inputs of an unlabeled data set.

  Rows of the unlabeled one have the teacher's label as their label (empty if there is none).
  """

  def __init__(self, name: str, unlabeled: str, data_dir: str | None = None):
    """Args: names of the two prepared data sets; the TFDS folder of both."""
    super().__init__(())
    self._labeled = PreparedSource(name, data_dir)
    self._unlabeled = PreparedSource(unlabeled, data_dir)
    self._unlabeled_name = unlabeled

  @property
  def splits(self) -> Sequence[str]:
    return self._labeled.splits

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def num_input_examples(self, split: str) -> int | None:
    count = self._labeled.num_input_examples(split)
    if split == 'train' and count is not None:
      count += self._unlabeled.num_input_examples('train') or 0
    return count

  def get_dataset(self, split: str = 'train', **kwargs: Any) -> tf.data.Dataset:
    """Returns dicts of the strings input and label, and rationale and teacher_label [samples].

    Raises:
      ValueError: a data set is not prepared, or the second one has no teacher outputs.
    """
    labeled = self._labeled.get_dataset(split, **kwargs)
    if split != 'train':
      return labeled
    if self._unlabeled.metadata['counts']['train']['teacher_accuracy'] is None:
      raise ValueError(
        f'The data set {self._unlabeled_name} was prepared without teacher outputs, so its inputs '
        f'have no labels: put them into {self._unlabeled_name}/llm/train_CoT_<k>.json of the raw '
        'files and run `dss prepare` again.'
      )
    unlabeled = self._unlabeled.get_dataset(split, **kwargs)
    return labeled.concatenate(unlabeled.map(lambda row: {**row, 'label': row['teacher_label'][0]}))


class _NewestVersion(seqio.utils.LazyTfdsLoader):
  """SeqIO's loader, but for the newest version on disk.

  The original loads by name through TFDS, which fixes its data folder at import and takes the
  version of the code.
  """

  _builders: dict[str, tfds.core.DatasetBuilder] = {}  # noqa: RUF012 - a version never changes

  def __init__(self, name: str, data_dir: str | None):
    super().__init__(f'{BUILDER_NAME}/{name}:1.0.0', data_dir=data_dir, read_only=True)
    self._dataset_name = name

  def _get_builder(self, split: str | None = None) -> tfds.core.DatasetBuilder:
    path = os.fspath(newest(self._dataset_name, self.data_dir))
    if path not in self._builders:
      self._builders[path] = tfds.builder_from_directory(path)
    return self._builders[path]


def _numeric(name: Sequence[str]) -> bool:
  return all(part.isdigit() for part in name)
