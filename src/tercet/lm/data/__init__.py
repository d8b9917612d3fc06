"""Data: files, hub sets and the built-in set become examples, splits and the batches of a step."""
