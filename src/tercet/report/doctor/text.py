"""What `tercet doctor` prints."""

import json

from tercet.report.doctor.examine import by_round
from tercet.report.doctor.finding import Finding
from tercet.report.records import Record

_MARKS = {"alarm": "ALARM ", "advice": "ADVICE", "good": "ok    "}


def lines(record: Record) -> list[str]:
    """Return the findings of a run, problems first and in full, the others in one line each."""
    shown: list[str] = []
    num = {"alarm": 0, "advice": 0, "good": 0}
    for number, findings in by_round(record):
        if number and findings:
            shown.append(f"round {number}:")
        for finding in findings:
            num[finding.level] += 1
            shown += _lines(finding)
    if not shown:
        return ["Nothing to examine yet: no step has written enough rows."]
    return [*shown, f"alarms: {num['alarm']}, advice: {num['advice']}, passed: {num['good']}"]


def as_json(record: Record) -> str:
    """Return the findings of a run as one line of JSON."""
    found = [{"round": number, **vars(finding)} for number, findings in by_round(record) for finding in findings]
    return json.dumps({"run": record.name, "findings": found}, ensure_ascii=False)


def _lines(finding: Finding) -> list[str]:
    head = f"{_MARKS[finding.level]} {finding.title}"
    if finding.is_good:
        return [f"{head}: {finding.text}"]
    more = [f"       {finding.text}."]
    more += [f"       Try: {finding.remedy}." if finding.remedy else "", f"       See docs/{finding.docs}"]
    return [head, *filter(None, more)]
