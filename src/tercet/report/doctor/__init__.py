"""What is wrong with a run, how one knows, and which key to turn."""
