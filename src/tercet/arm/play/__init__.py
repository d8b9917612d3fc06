"""Play: policies act in environments, and episodes are recorded and filmed."""
