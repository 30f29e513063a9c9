"""Hugging Face's formats: weights, configurations, tokenizers and the hub, in and out."""
