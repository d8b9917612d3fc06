"""Models: where weights come from, and the networks of the four roles."""
