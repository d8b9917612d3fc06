"""Robots: a policy on a real or simulated arm, within limits."""
