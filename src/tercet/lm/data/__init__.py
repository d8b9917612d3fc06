"""Data: files, hub sets and built-in sets become examples, splits and the batches of a step."""
