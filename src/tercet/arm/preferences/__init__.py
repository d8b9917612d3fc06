"""Preferences: pairs of segments, the judges that compare them, and the reward ensemble trained on them."""
