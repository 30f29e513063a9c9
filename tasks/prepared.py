"""Prepared data sets on disk, as SeqIO sources.

Owns: the place of a prepared data set, which version is read, the error if it is missing, and that
only what builder.py writes is opened: TFDS would import any class that a folder names, and read any
path. Does not own: writing it (builder.py), tasks (registration.py).

    <data_dir>/dss/<name>/1.0.<n>      n counts preparations; the highest is read

`data_dir` is, as in TFDS and SeqIO: the given one, else seqio.set_tfds_data_dir_override, else the
environment's TFDS_DATA_DIR, else ~/tensorflow_datasets. It may be gs://.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from google.protobuf import json_format

from dss_jax.settings import json_form

BUILDER_NAME = 'dss'
TEXT_FIELDS, SAMPLE_FIELDS = ('input', 'label'), ('rationale', 'teacher_label')
_VERSION = re.compile(r'(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}')
RECORD_BYTES = 16
"""Of a row in a TFRecord file beside its content: a length and two checksums."""
SPLIT_FILES = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'


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
  names = [path.name for path in folder.iterdir()]
  return sorted(tuple(map(int, name.split('.'))) for name in names if _VERSION.fullmatch(name))


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


def features() -> tfds.features.FeaturesDict:
  """The features of every prepared data set; a row has one sample of the teacher or several."""
  text, samples = tfds.features.Text(), tfds.features.Sequence(tfds.features.Text())
  return tfds.features.FeaturesDict(
    dict.fromkeys(TEXT_FIELDS, text) | dict.fromkeys(SAMPLE_FIELDS, samples)
  )


def read_metadata(version: epath.Path) -> dict[str, Any]:
  """What builder.py noted: filter, raw files, counts, teacher, ...; empty if not readable."""
  try:
    metadata = json_form.read_object(version / 'metadata.json')
  except (OSError, ValueError):
    return {}
  return metadata if _is_metadata(metadata) else {}


def _is_metadata(values: Mapping[str, Any]) -> bool:
  texts = all(isinstance(values.get(name), str) for name in ('dataset', 'filter', 'teacher'))
  texts &= isinstance(values.get('parser', ''), str)
  tables = [values.get('counts'), values.get('sources'), values.get('statuses', {})]
  plain = all(isinstance(values.get(name, {}), dict) for name in ('provenance', 'dropped'))
  return (
    texts
    and plain
    and all(
      isinstance(table, dict) and all(isinstance(entry, dict) for entry in table.values())
      for table in tables
    )
  )


def open_version(version: epath.Path) -> tfds.core.DatasetBuilder:
  """Opens one version of a prepared data set.

  Raises:
    ValueError: it is not what `dss prepare` writes.
  """
  if json_form.read_object(version / 'features.json') != json_format.MessageToDict(
    features().to_proto()
  ):
    raise ValueError(
      f'{version}/features.json: expected the four texts {", ".join(TEXT_FIELDS + SAMPLE_FIELDS)} '
      'as `dss prepare` writes them, and nothing else; prepare the data set again.'
    )
  info = json_form.read_object(version / 'dataset_info.json')
  splits = info.get('splits')
  if not (
    (info.get('name'), info.get('version')) == (BUILDER_NAME, version.name)
    and (info.get('configName'), info.get('fileFormat')) == (version.parent.name, 'tfrecord')
    and isinstance(splits, list)
    and all(map(_is_split, splits))
    and len({split['name'] for split in splits}) == len(splits)
  ):
    raise ValueError(
      f'{version}/dataset_info.json: expected version {version.name} of '
      f'{BUILDER_NAME}/{version.parent.name} in TFRecord files beside it, as `dss prepare` writes '
      'them; prepare the data set again.'
    )
  try:
    opened = tfds.builder_from_directory(os.fspath(version))
  except (json_format.ParseError, AssertionError, TypeError, ValueError) as error:
    problem = str(error)[:200]
    raise ValueError(f'{version}/dataset_info.json cannot be read: {problem!a}.') from error
  for split in opened.info.splits.values():
    for file, length in zip(split.filepaths, split.shard_lengths, strict=True):
      _check_shard(epath.Path(file), length)
  return opened


def _check_shard(file: epath.Path, length: int) -> None:
  """Refuses more rows than a file can hold: memory for as many would be asked for."""
  most = file.stat().length // RECORD_BYTES if file.is_file() else None
  if most is None or length > most:
    has = 'is no file' if most is None else f'can hold {most} at most'
    raise ValueError(
      f'{file.parent}/dataset_info.json: expected {length} rows in {file.name}, which {has}; '
      'prepare the data set again.'
    )


def _is_split(split: Any) -> bool:
  """Whether a split has a plain name, and files that are named after it in the same folder."""
  if not isinstance(split, dict) or split.get('filepathTemplate') != SPLIT_FILES:
    return False
  name, lengths = split.get('name'), split.get('shardLengths')
  counts = [split.get('numBytes'), *(lengths if isinstance(lengths, list) else [None])]
  return (
    isinstance(name, str)
    and bool(re.fullmatch(r'\w+', name))
    and all(isinstance(count, str) and re.fullmatch('[0-9]{1,18}', count) for count in counts)
  )


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
    counts = self._unlabeled.metadata.get('counts', {})
    if counts.get('train', {}).get('teacher_accuracy') is None:
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
      self._builders[path] = open_version(epath.Path(path))
    return self._builders[path]
