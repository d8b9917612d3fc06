"""What a run asks people, and what they said: sheets of questions and the rows of the answers, in DIR/feedback."""
