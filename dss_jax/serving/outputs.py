"""One output as it is decoded: its text so far, and which of its fields are complete.

Owns what may be shown of an unfinished text. Does not own decoding (engine.py) or how a finished
output reads, which is `Row.parse`: what is shown here never disagrees with it.
"""

from collections.abc import Sequence

import seqio

from dss_jax.inference import decoding
from dss_jax.inference.predictor import REPLACEMENT
from dss_jax.methods import Row
from dss_jax.methods.base import pieces


class Output:
  """What was decoded of one row.

  Attributes:
    row: what is written.
    ids: tokens so far, without the EOS.
    log_prob: of all of them, the EOS included, in nats.
    ended: whether no more will come.
    is_cut: whether the limit ended it, and not its EOS.
  """

  def __init__(self, row: Row, limit: int, vocabulary: seqio.Vocabulary):
    """Args: the row, the most tokens of it, and the vocabulary that they are read with."""
    self.row, self.ids, self.log_prob = row, list[int](), 0.0
    self.ended = self.is_cut = False
    self._limit, self._vocabulary = limit, vocabulary
    self._names = [name for _, name in pieces(row.target) if name]
    between = [text.strip() for text, _ in pieces(row.target)[1:]]
    self._separators = [*between, ''][: len(self._names)]

  def add(self, tokens: Sequence[int], log_probs: Sequence[float]) -> None:
    """Takes the next tokens, as many as the row may have and up to its EOS."""
    for token, log_prob in zip(tokens, log_probs, strict=True):
      if self.ended:
        return
      self.log_prob += log_prob
      if token == decoding.EOS_ID:
        self.ended = True
        return
      self.ids.append(int(token))
      self.ended = self.is_cut = len(self.ids) >= self._limit

  @property
  def text(self) -> str:
    """The text so far, without a character that is incomplete."""
    text = self._vocabulary.decode(self.ids)
    return text if self.ended else text.rstrip(REPLACEMENT)

  def fields(self) -> tuple[dict[str, str], dict[str, str]]:
    """The complete fields, and the text so far of the one that is being written."""
    text = self.text
    if self.ended:
      return self.row.parse(text), {}
    found = self.row.parse(text)
    text = text.strip().removeprefix(pieces(self.row.target)[0][0].strip())
    for number, (name, separator) in enumerate(zip(self._names, self._separators, strict=True)):
      head, mark, text = text.partition(separator) if separator else (text, '', '')
      if not mark:
        complete = {one: found[one] for one in self._names[:number]}
        return complete, {name: _without_start_of(separator, head).strip()}
    return found, {}


def _without_start_of(separator: str, text: str) -> str:
  """A text without an end that may become the separator."""
  for length in range(len(separator), 0, -1):
    if text.rstrip().endswith(separator[:length]):
      return text.rstrip()[:-length]
  return text
