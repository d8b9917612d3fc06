"""The doctor while a run trains: each finding once, as one line; with on_alarm=stop, an alarm ends the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercet.errors import FailedError
from tercet.report.doctor.examine import problems
from tercet.report.doctor.finding import Finding
from tercet.report.records import Record, contents
from tercet.runs import stop
from tercet.runs.progress import say
from tercet.runs.rounds import kind_of, round_of
from tercet.runs.rows import Row

_HINT = "what is done so far is kept: the same command continues from here, and other settings need another --out"
_OFTEN = 100  # rows of a step that are examined one by one; of n rows, every n/100th is


class Watch:
    """Examine the run after each of its rows.

    What earlier processes have found is not said again, and does not end the run again.
    """

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:  # Any: JSON
        self._run, self._config = run, dict(config)
        self._step, self._number = "", 0
        self._said: set[tuple[int, str, str]] = set()
        self._record: Record | None = None

    def __call__(self, row: Row, timing: Row) -> None:
        """Take a row of metrics.jsonl and that of timings.jsonl, after they were written."""
        step = str(row["step"])
        if step != self._step:
            is_first = not self._step
            self._step, self._number = step, round_of(step)
            self._record = _before(contents(self._run, self._config).of_round(self._number), row)
            if is_first:
                self._said |= {self._key(finding) for finding in problems(self._record)}
        assert self._record is not None
        self._record.metrics.append(row | {"step": kind_of(step)})
        self._record.timings.append(timing | {"step": kind_of(step)})
        if row["index"] % max(1, row["index"] // _OFTEN) == 0 and (reason := self._say(self._record)):
            stop.ask(reason)

    def end_of_step(self) -> None:
        """Examine the results of the step too; raise FailedError if an alarm among them shall stop the run."""
        if self._record is None:
            return
        self._record = contents(self._run, self._config).of_round(self._number)
        if reason := self._say(self._record):
            raise FailedError(reason)

    def _say(self, record: Record) -> str:
        """Print what is new; return why the run shall stop, or nothing."""
        new = [finding for finding in problems(record) if self._key(finding) not in self._said]
        for finding in new:
            self._said.add(self._key(finding))
            say(f"doctor: {finding.line}")
        alarm = next((finding for finding in new if finding.level == "alarm"), None)
        if alarm is None or self._config["on_alarm"] != "stop":
            return ""
        return f"{self._step}: stopped by on_alarm=stop. {alarm.line}\n  {_HINT}"

    def _key(self, finding: Finding) -> tuple[int, str, str]:
        return self._number, finding.name, finding.title


def _before(record: Record, row: Row) -> Record:
    """Drop the rows of the step from this one on: of an earlier attempt, or this row itself."""
    step, index = kind_of(str(row["step"])), row["index"]

    def earlier(rows: list[Row]) -> list[Row]:
        return [one for one in rows if one.get("step") != step or one.get("index", 0) < index]

    return record.with_rows(metrics=earlier(record.metrics), timings=earlier(record.timings))
