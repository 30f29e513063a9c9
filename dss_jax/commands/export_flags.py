"""The options of `dss export`, apart from its work (export_weights.py), so that --help is quick."""

import argparse

from dss_jax.settings import arguments

_DESCRIPTION = """\
Writes a student for other programs: for Hugging Face a folder that `transformers` loads, with
tokenizer and model card; for T5X a folder with checkpoint_<step>, the optimizer's state
included, a gin file of the network (and of AdamW), and the vocabulary. Every tensor is read back
and compared before the folder appears. The last line of the output is JSON.
"""
_EXAMPLES = """\
dss export --to=hf --checkpoint=runs/cqa --output=cqa_student
dss export --to=t5x --checkpoint=runs/cqa --output=cqa_t5x --step=latest
"""


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  made = arguments.verb_parser('export', _DESCRIPTION, _EXAMPLES)
  made.add_argument('--to', required=True, choices=('hf', 't5x'), help='for which program')
  made.add_argument(
    '--checkpoint', required=True, metavar='DIR', help='what `dss train` or `dss import` wrote'
  )
  made.add_argument('--output', required=True, metavar='DIR', help='a new or empty folder')
  made.add_argument(
    '--step',
    default='best',
    help="of the checkpoint: 'best' on validation, 'latest', or a number (default: %(default)s)",
  )
  arguments.add_module_flag(made)
  return made
