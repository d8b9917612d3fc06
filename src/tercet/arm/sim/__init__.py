"""Simulation: the built-in arm with its tasks and experts, and foreign environments."""
