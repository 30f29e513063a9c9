"""PINTO: choices are scored with the teacher's rationale as input, which is spoilt at times.

    score_c = mean over the tokens of choice c of log p(token | input, rationale)
    L = CE(softmax over choices of score, right choice) + β CE_ε(the same with a spoilt rationale)

The second term teaches the student not to answer confidently by what it reads without a rationale.
For every choice, the rationale is hidden from attention as a whole (probability 0.5), else 30 % of
its tokens are replaced by random ones. β is 1 and ε, the probability spread over all choices, 0.1.

PINTO has a rationale for each choice; here, as in the baseline of step by step, all choices share
the teacher's one. A data set without choices (SVAMP) is trained by token losses on both copies of
the input. Like `rationale_input` it needs the teacher for every question.

Source: Wang et al. 2022, arXiv 2211.01562, and its released code. Targets here end with
the end of sequence, which counts as a token of the choice.
"""

from dss_jax.methods.base import Method, Row, Term
from dss_jax.methods.registry import register

ROW = Row('label', '{input} [rationale] {rationale}', '{label}', each_choice=True)
PINTO = register(
  Method(
    name='pinto',
    summary="PINTO: choices scored with the teacher's rationale, which may be spoilt in training",
    source='Wang et al. 2022, arXiv 2211.01562',
    rows=(ROW,),
    loss=(Term('label', kind='choices'), Term('perturbed', kind='perturbed', smoothing=0.1)),
    answer=ROW,
  )
)
