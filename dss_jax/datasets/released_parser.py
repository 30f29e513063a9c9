"""Teacher outputs as the paper's released code reads them, for parity with the paper's students.

    dss prepare --parser=released

It differs from teacher_outputs.py where the teacher's form differs from the prompt's: an equation
without brackets around all of it is cut to its brackets (`(12 - 2) - 7` becomes `(12 - 2)`), a
choice keeps the teacher's spelling, and `so the answer is` ends no rationale. A blank text, which
there is a space, is empty.

Source: `_parse_llm_output` of data_utils.py in google-research/distilling-step-by-step.
"""

import re

from dss_jax.datasets.teacher_outputs import TeacherOutput


def nli_answer_is(completion: str) -> TeacherOutput:
  """ANLI: the last character, a full stop, is cut off the label."""
  rationale, answer = _halves(completion.split('Premise:')[0], 'So the answer is')
  return TeacherOutput(rationale, answer.lstrip()[:-1].strip())


def nli_answer_line(completion: str) -> TeacherOutput:
  """e-SNLI: the rationale is all text up to `Answer:`, or all of it."""
  rationale = completion.split('Answer:')[0].rstrip()
  answers = completion.split('Answer: ')
  label = answers[1].split('Premise')[0].strip() if len(answers) > 1 else ''
  return TeacherOutput(rationale, label)


def choice(completion: str) -> TeacherOutput:
  """CQA: the text after the first letter in brackets, as the teacher spells it."""
  rationale, answer = _halves(completion.split('Q:')[0], 'So the answer is')
  texts = re.split(r'\(.\)', answer)
  return TeacherOutput(rationale, texts[1].strip().removesuffix('.') if len(texts) > 1 else '')


def equation(completion: str) -> TeacherOutput:
  """SVAMP, ASDiv: from the first bracket that opens to the last that closes, on one line."""
  rationale, answer = _halves(completion.split('Q:')[0], 'The answer is')
  for line in answer.split('\n'):
    start, end = line.find('('), line.rfind(')')
    if 0 <= start < end:
      return TeacherOutput(rationale, line[start : end + 1])
  return TeacherOutput(rationale, '')


def _halves(own: str, marker: str) -> tuple[str, str]:
  """The texts before and after a marker; both empty unless it stands there once."""
  halves = own.rstrip().split(marker)
  return (halves[0].rstrip(), halves[1]) if len(halves) == 2 else ('', '')
