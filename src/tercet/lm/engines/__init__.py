"""Engines: other programs that sample responses, and how they get the policy's weights."""
