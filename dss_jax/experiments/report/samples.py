"""Per-example answers in the samples format of lm-evaluation-harness.

Owns the fields of a line. Source: EleutherAI/lm-evaluation-harness 0.4, `log_samples` of
lm_eval/evaluator.py and `save_results_samples` of lm_eval/loggers/evaluation_tracker.py.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from etils import epath

from dss_jax.experiments.report.folder import Run
from dss_jax.experiments.report.records import Answers
from dss_jax.settings import whole_files

METRIC = 'exact_match'


def write(folder: epath.Path, run: Run, answers: Answers) -> epath.Path:
  """Writes a run's answers: FOLDER/<run>/samples_<task>_<date>.jsonl.

  The date is that of the records' file, so that the same answers have the same name.

  Returns:
    The file.
  """
  date = datetime.datetime.fromtimestamp(answers.file.stat().mtime, datetime.UTC)
  stamp = date.replace(tzinfo=None).isoformat(timespec='microseconds').replace(':', '-')
  place = folder / re.sub(r'[^\w.=+-]', '_', run.label)
  place.mkdir(parents=True, exist_ok=True)
  file = place / f'samples_{re.sub(r"[^A-Za-z0-9.-]", "_", answers.task)}_{stamp}.jsonl'
  lines = [json.dumps(sample, ensure_ascii=False) + '\n' for sample in samples(answers)]
  whole_files.write_text(file, ''.join(lines))
  return file


def samples(answers: Answers) -> Iterator[dict[str, Any]]:
  """The samples of a run, one an example, as lm-evaluation-harness logs generated answers.

  `resps` is all that was written, `filtered_resps` the label in it. The metric is the data set's:
  for equations a value, else the text.
  """
  columns = (
    answers.ids, answers.inputs, answers.targets, answers.predictions, answers.rationales,
    answers.correct.tolist(),
  )  # fmt: skip
  for number, asked, target, label, written, right in zip(*columns, strict=True):
    doc = {'id': number, 'input': asked, 'label': target}
    yield {
      'doc_id': number,
      'doc': doc,
      'target': target,
      'arguments': {'gen_args_0': {'arg_0': asked, 'arg_1': {'do_sample': False}}},
      'resps': [[written or label]],
      'filtered_resps': [label],
      'filter': 'none',
      'metrics': [METRIC],
      'doc_hash': _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
      'prompt_hash': _hash(asked),
      'target_hash': _hash(target),
      METRIC: float(right),
    }


def _hash(text: str) -> str:
  return hashlib.sha256(text.encode('utf-8')).hexdigest()
