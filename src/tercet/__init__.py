"""Tercet teaches by feedback, in three steps: imitate, judge, improve."""

__all__ = ["__version__"]

__version__ = "0.1.0"
