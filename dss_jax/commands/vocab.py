"""`dss vocab`: trains a SentencePiece vocabulary on the text of SeqIO tasks.

Owns: reading the texts, the trainer's settings, writing the .model file. Does not own: loading a
vocabulary, nor T5's 100 extra ids, which are added at loading (tasks/vocabulary.py).

Special ids are T5's: pad 0, end of sequence 1, unknown 2, no beginning. Unlike T5's, text is kept
as it is instead of NFKC-normalised; digits are pieces of their own, so that the numbers of an
equation can be copied and composed; what no piece covers is spelled in bytes, so that nothing is
unknown; `[label]` and `[rationale]` are one piece each; and pieces are byte-pair merges, since the
unigram trainer prunes a small corpus down to syllables.
"""

import argparse
import dataclasses
import io
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence

from dss_jax import methods
from dss_jax.data import examples
from dss_jax.datasets import rows
from dss_jax.settings import arguments, fields, progress, whole_files

DEFAULT_SIZE = 8000
MAX_TEXTS = 2_000_000
"""The most texts of the tasks that are read; they are held in memory."""
_BYTE_PIECES = 256
_DESCRIPTION = """\
Trains a SentencePiece vocabulary on the train split of SeqIO tasks: their inputs and targets, with
the special ids of T5. The 100 extra ids of T5 are added when it is loaded.
"""
_EXAMPLES = """\
dss vocab --task=svamp_dss,asdiv_dss --output=svamp.model --size=2000
dss vocab --module=mine --task=mine_dss --data_dir=data --output=mine.model
"""
_NORMALIZATION = '10FFFF\tFFFD\n'
"""A rule for a code point that no text has; without any, tf.text logs a line per tokenizer."""


@dataclasses.dataclass(frozen=True)
class TrainedVocabulary:
  """A SentencePiece model.

  Attributes:
    model: the serialised model, the content of a .model file.
    size: number of pieces, special ones included, without the 100 ids that loading adds.
    texts: how many texts it was trained on.
  """

  model: bytes
  size: int
  texts: int


def task_texts(names: Sequence[str], split: str = 'train') -> Iterator[str]:
  """Yields the inputs and targets of SeqIO tasks and mixtures as text, each task once.

  The parts of an input on either side of `</s>` are texts of their own. No vocabulary need be set.

  Raises:
    ValueError: a name is not registered, its task keeps no text, or a text is not UTF-8.
  """
  import seqio

  from dss_jax.tasks import preprocessors, vocabulary

  tasks: dict[str, seqio.Task] = {}
  for name in names:
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
      tasks.setdefault(task.name, task)
  keys = ('inputs_pretokenized', 'targets_pretokenized')
  for task in tasks.values():
    with vocabulary.temporary_vocabulary('bytes'):  # the tasks tokenise; the result is not used
      dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False)
    missing = [key for key in keys if key not in dataset.element_spec]
    if missing:
      raise ValueError(
        f'The task {task.name} does not keep its text ({", ".join(missing)}); tokenise it with '
        'copy_pretokenized=True.'
      )
    texts = dataset.map(lambda row: {key: row[key] for key in keys})
    for number, example in enumerate(texts.as_numpy_iterator()):
      for key in keys:
        place = f'task {task.name!r}, split {split!r}, row {number} (from 0), {key}'
        for part in rows.decode(example[key], place).split(preprocessors.SEPARATOR):
          if part.strip():
            yield part.strip()


def train_vocabulary(texts: Iterator[str], size: int) -> TrainedVocabulary:
  """Trains a SentencePiece model; the same texts give the same model.

  Args:
    texts: at most MAX_TEXTS of them are read.
    size: pieces wanted, special ones and 256 bytes included; the model has fewer if the texts do
      not hold that many.

  Raises:
    ValueError: there are no texts, or the size is too small for the bytes and the characters.
  """
  import sentencepiece
  from sentencepiece import sentencepiece_model_pb2

  counted = list(itertools.islice(texts, MAX_TEXTS))
  if not counted:
    raise ValueError('The tasks have no text to train a vocabulary on.')
  writer = io.BytesIO()
  try:
    with tempfile.NamedTemporaryFile('w', suffix='.tsv') as rules:
      rules.write(_NORMALIZATION)
      rules.flush()
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(counted),
        model_writer=writer,
        model_type='bpe',
        vocab_size=size,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        user_defined_symbols=[f'▁{mark}' for mark in methods.marks()],
        byte_fallback=True,
        split_digits=True,
        normalization_rule_tsv=rules.name,
        max_sentence_length=100_000,
        num_threads=1,  # otherwise the number of threads changes the pieces
        minloglevel=2,
      )
  except RuntimeError as error:
    raise ValueError(
      f'No vocabulary of {size} pieces: {error}. At least {_BYTE_PIECES} bytes, the special pieces '
      'and every character must fit; raise --size.'
    ) from error
  proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
  proto.ParseFromString(writer.getvalue())
  proto.normalizer_spec.ClearField('normalization_rule_tsv')  # the same texts give the same model
  model = proto.SerializeToString(deterministic=True)
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  return TrainedVocabulary(model, processor.get_piece_size(), len(counted))


def write_model(model: bytes, path: str) -> None:
  """Writes a .model file, local or gs://, whole or not at all.

  Raises:
    OSError: the folder does not exist or cannot be written.
  """
  try:
    whole_files.write_bytes(path, model)
  except OSError as error:
    raise OSError(f'Cannot write {path}: {error.strerror or error}. Set --output.') from error


def main(argv: Sequence[str]) -> int:
  """Runs `dss vocab`; returns the process's exit status."""
  given = options(argv)
  if given.data_dir:
    os.environ['TFDS_DATA_DIR'] = fields.expanded(given.data_dir)
  with progress.bar('reading texts') as advance:
    texts = progress.counted(task_texts(given.task.split(',')), advance)
    trained = train_vocabulary(texts, given.size)
  output = fields.expanded(given.output)
  write_model(trained.model, output)
  if trained.size < given.size:
    print(f'The texts hold only {trained.size} pieces; {given.size} were asked for.')
  print(
    f'Wrote {output}: {trained.size} pieces from {trained.texts} texts. '
    f'Use it with --vocabulary={output}.'
  )
  return 0


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  made = arguments.verb_parser('vocab', _DESCRIPTION, _EXAMPLES)
  made.add_argument(
    '--task', required=True, metavar='NAME[,NAME...]', help='tasks or mixtures, such as cqa_dss'
  )
  made.add_argument(
    '--output', required=True, metavar='FILE.model', help='where to write it (local or gs://)'
  )
  made.add_argument(
    '--size',
    type=arguments.whole(),
    default=DEFAULT_SIZE,
    metavar='N',
    help='pieces, 3 special ones and 256 bytes included (default: %(default)s)',
  )
  made.add_argument(
    '--data_dir',
    metavar='DIR',
    help='folder of prepared data (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)',
  )
  arguments.add_module_flag(made)
  return made


def options(argv: Sequence[str]) -> argparse.Namespace:
  """The flags of a command line, checked without reading anything; imports their modules.

  Raises:
    ValueError: a task is not registered, or the size holds not even the bytes.
  """
  given = parser().parse_args(argv)
  if given.size < _BYTE_PIECES:
    raise ValueError(
      f'--size={given.size} does not hold the {_BYTE_PIECES} bytes, the special pieces and every '
      'character; raise --size.'
    )
  from dss_jax.tasks import registration, sources

  arguments.import_modules(given.modules)
  sources.add_prepared_datasets()
  registration.add_methods()
  for name in given.task.split(','):
    examples.check_known('--task: task or mixture', name, registration.all_names())
  return given
