"""One page that says what a run did: `page.write` turns a run folder into report.html and report.md."""
