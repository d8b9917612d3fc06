"""Demonstrations: of the scripted expert or from a recording."""
