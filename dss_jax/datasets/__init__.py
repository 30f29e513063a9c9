"""Data sets: how a raw row and a teacher completion read. Needs neither SeqIO nor TensorFlow."""
