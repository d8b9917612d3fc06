"""Other people's environments behind the interface of our own."""
