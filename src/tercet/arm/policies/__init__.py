"""Policies: the kinds of actor, and the files of those that are saved otherwise than by `networks/files.py`."""
