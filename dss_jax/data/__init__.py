"""Batches: from the examples of SeqIO tasks to the arrays that a step takes."""
