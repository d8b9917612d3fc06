"""The web pages of a run, independent of how the answers are used."""
