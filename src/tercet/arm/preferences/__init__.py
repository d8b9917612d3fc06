"""Preferences: pairs of segments, who compares them, and the ensemble that learns from them."""
