"""The tasks of the built-in arm, one file each."""
