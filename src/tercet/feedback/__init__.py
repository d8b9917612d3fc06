"""Questions to people and their answers, in DIR/feedback."""
