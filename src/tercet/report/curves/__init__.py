"""Curves of the report: which there are, what each means, and how it is drawn."""
