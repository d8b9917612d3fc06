"""Policies: the kinds of actor, the critic and the reward ensemble."""
