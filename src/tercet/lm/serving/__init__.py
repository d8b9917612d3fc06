"""Stages of a run that answer several clients at once."""
