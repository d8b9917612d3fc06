"""Simulation: the arm, its tasks and experts, and other people's environments."""
