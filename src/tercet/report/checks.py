"""The findings of the doctor as a block of the report."""

from tercet.report.blocks import Check, Checks
from tercet.report.doctor.examine import examine
from tercet.report.records import Record


def checks(record: Record) -> Checks | None:
    """Return all checks whose data exist, problems first."""
    found = [Check(finding.is_good, finding.title, finding.sentence) for finding in examine(record)]
    return Checks(found) if found else None
