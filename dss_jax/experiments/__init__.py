"""Experiments: several runs that answer one question, and their table."""
