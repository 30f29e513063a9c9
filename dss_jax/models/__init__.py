"""The T5 network."""
