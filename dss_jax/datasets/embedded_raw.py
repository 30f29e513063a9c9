"""The embedded data sets as raw files, for a teacher of one's own to annotate.

    python -m dss_jax.datasets.embedded_raw DIR

writes their inputs and gold labels, without the rationales that the generator knows, in the layout
of the paper's release. The data sets `embedded_llm` and `embedded_arithmetic_llm` read them, so the
whole chain from a language model to a student runs without any download.
"""

import json
import pathlib
import sys
from types import ModuleType

from dss_jax.datasets import embedded, embedded_arithmetic, release, rows, teacher_outputs
from dss_jax.settings import whole_files

SPLITS = {'train': 'train', 'validation': 'validation', 'test': 'test'}


def _fields(row: release.Row) -> tuple[str, str]:
  return rows.text(row, 'input'), rows.text(row, 'label')


DATASETS = (
  release.Dataset(
    name='embedded_llm',
    metric=embedded.METRIC,
    fields=_fields,
    parse=lambda completion, row: teacher_outputs.nli_answer_is(completion),
    splits=SPLITS,
    choices=embedded.CHOICES,
  ),
  release.Dataset(
    name='embedded_arithmetic_llm',
    metric=embedded_arithmetic.METRIC,
    fields=_fields,
    parse=lambda completion, row: teacher_outputs.equation(completion),
    splits=SPLITS,
  ),
)
_MODULES: dict[str, ModuleType] = {
  'embedded_llm': embedded,
  'embedded_arithmetic_llm': embedded_arithmetic,
}


def write(folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the raw files of both data sets into a folder, which is made; returns their paths."""
  written = []
  for name, module in _MODULES.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
      lines = [
        json.dumps({'input': row['input'], 'label': row['label']}) for row in module.problems(split)
      ]
      written.append(folder / name / f'{name}_{split}.json')
      whole_files.write_text(written[-1], ''.join(f'{line}\n' for line in lines))
  return written


if __name__ == '__main__':
  if len(sys.argv) != 2:
    raise SystemExit('usage: python -m dss_jax.datasets.embedded_raw DIR')
  for path in write(pathlib.Path(sys.argv[1])):
    print(path)
