"""Fast paths: the same numbers as transformers' forward, in fewer operations."""
