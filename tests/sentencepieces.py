"""SentencePiece models that tests train."""

import io

import sentencepiece


def train(path, texts, **settings) -> str:
  """Trains a SentencePiece model with T5's special ids and normalisation."""
  writer = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=writer,
    normalization_rule_name='nmt_nfkc',
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    hard_vocab_limit=False,
    minloglevel=2,
    **settings,
  )
  path.write_bytes(writer.getvalue())
  return str(path)
