"""Preferences: pairs of responses, and who says what a response is worth."""
