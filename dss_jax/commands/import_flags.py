"""The options of `dss import`, apart from its work (import_weights.py), so that --help is quick."""

import argparse

from dss_jax.settings import arguments

_DESCRIPTION = """\
Reads the weights of Hugging Face or T5X and writes a folder that INITIAL_CHECKPOINT_PATH takes:
checkpoints/, config.json (the network, and where it came from) and, where it comes with the
weights, the vocabulary. Every tensor is accounted for and compared after writing. The last line
of the output is JSON. INITIAL_CHECKPOINT_PATH takes such sources directly too; import them once
to read them quickly many times, or where training has no network.
"""
_EXAMPLES = """\
dss import --from=hf --path=google/t5-v1_1-base --output=weights/t5_1_1_base
dss import --from=t5x --path=gs://t5-data/pretrained_models/t5x/t5_1_1_base/checkpoint_1000000 \\
  --vocabulary=gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model \\
  --output=weights/t5_1_1_base
"""


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  made = arguments.verb_parser('import', _DESCRIPTION, _EXAMPLES)
  made.add_argument('--from', required=True, choices=('hf', 't5x'), help='which program wrote it')
  made.add_argument(
    '--path',
    required=True,
    help='a folder, local or gs://, or a Hugging Face id (hf)',
  )
  made.add_argument('--output', required=True, metavar='DIR', help='a new folder')
  made.add_argument(
    '--vocabulary',
    help="'bytes', a SentencePiece .model or a folder with one (default: the weights' own)",
  )
  return made
