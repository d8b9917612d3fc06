"""Policies act in environments; episodes are recorded and filmed."""
