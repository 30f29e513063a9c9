"""Counts on how many inputs of a split CTranslate2 says what our decoder says, greedily.

    python benchmarks/ct2_parity.py RUN [--split=test] [--limit=N] [--batch_size=32]

RUN is a folder of `dss train`. It is exported as `dss export --to=hf` does and converted by
CTranslate2's own converter (torch, transformers and ctranslate2, on a CPU, in float32); both decode
the labels of the split, and the rationales where the student writes them. The last line is JSON:
for each task the number of inputs, of identical token sequences and of identical texts, and the
first difference. Exit status 1 if there is any difference.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np

from dss_jax.commands import export_weights
from dss_jax.inference import evaluator
from dss_jax.inference.decoding import EOS_ID, Decoding
from dss_jax.runs import student
from dss_jax.tasks import registration


def main() -> int:
  """Runs the comparison; returns the exit code."""
  import generate_parity

  options = generate_parity.parser(__doc__.split('\n\n')[0], 32).parse_args()
  with tempfile.TemporaryDirectory() as folder:
    exported = pathlib.Path(folder) / 'exported'
    arguments = [f'--checkpoint={options.run}', f'--output={exported}', f'--step={options.step}']
    export_weights.main(['--to=hf', *arguments])
    translator = convert(exported, pathlib.Path(folder) / 'ct2')
    step = int(options.step) if options.step.isdigit() else options.step
    settings = student.StudentConfig(options.run, step, Decoding('greedy'), batch_size=64)
    loaded = generate_parity.in_float32(student.load(settings))
    found = {
      task: compare(loaded, task, options, translator, exported)
      for task in generate_parity.tasks_of(loaded)
    }
  print(json.dumps(found))
  return int(any(result['ids'] < result['inputs'] for result in found.values()))


def convert(exported: pathlib.Path, folder: pathlib.Path):
  """CTranslate2's translator of an exported student, which is converted into `folder`."""
  import ctranslate2

  ctranslate2.converters.TransformersConverter(str(exported)).convert(str(folder))
  return ctranslate2.Translator(str(folder), device='cpu', compute_type='float32')


def greedy(
  translator, exported: pathlib.Path, inputs: list[str], length: int, batch_size: int = 32
) -> np.ndarray:
  """CTranslate2's outputs for texts: tokens [n, length], with EOS at an end and 0 after it."""
  import transformers

  tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
  asked = map(tokenizer.convert_ids_to_tokens, tokenizer(inputs, truncation=True).input_ids)
  answers = translator.translate_batch(
    list(asked),
    beam_size=1,
    min_decoding_length=0,  # by default, no output is empty
    max_decoding_length=length,
    max_batch_size=batch_size,
    return_end_token=True,
  )
  rows = np.zeros((len(inputs), length), np.int32)
  for row, answer in zip(rows, answers, strict=True):
    ids = tokenizer.convert_tokens_to_ids(answer.hypotheses[0])[:length]
    row[: len(ids)] = ids
  ended = np.cumsum(rows == EOS_ID, axis=1) > (rows == EOS_ID)
  return np.where(ended, 0, rows)


def compare(loaded, task: str, options, translator, exported: pathlib.Path) -> dict:
  """How many outputs of a task are identical."""
  import generate_parity

  examples = evaluator.load_examples(task, options.split, options.limit)
  decoder = loaded.decoder(registration.row_of(task))
  ours = decoder(loaded.params, examples).tokens
  inputs = list(examples.texts['inputs_pretokenized'])
  length = decoder.decoding.max_length
  theirs = greedy(translator, exported, inputs, length, options.batch_size)
  same = (ours == theirs).all(axis=1)
  texts = [[evaluator.to_text(row, loaded.vocabulary) for row in side] for side in (ours, theirs)]
  return generate_parity.counted(inputs, same, *texts)


if __name__ == '__main__':
  sys.exit(main())
