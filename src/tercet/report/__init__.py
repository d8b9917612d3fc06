"""The report of a run: `page.write` turns a run folder into report.html and report.md."""
