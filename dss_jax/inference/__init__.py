"""A trained student at work: decoding, and the scoring of what it writes."""
