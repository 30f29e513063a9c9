"""Experiments: several runs as one question, and their table."""
