"""Checkpoints: our own by orbax, and those of other programs below."""
