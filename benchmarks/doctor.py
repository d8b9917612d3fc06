"""Measure the doctor as a classifier: does it name the sickness of sick runs, and say nothing of sound ones?

    python benchmarks/doctor.py --out runs/doctor --seed 11

Trains the runs of `sick_runs.py` one after another in this process, and examines each after every row, as the doctor
does while a run trains. A sick run counts as recognised if the expected finding is among those of the run. `--add`
examines runs that were made before: sound ones, and sick ones as DIR=FINDING.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sick_runs import HEALTHY, SHARED, SICK, Case, planted, prepared

import tercet
from tercet.config import plain_yaml
from tercet.errors import FailedError
from tercet.report.doctor.examine import examine, problems
from tercet.report.doctor.finding import Finding
from tercet.report.records import Record, contents


def train(case: Case, folder: Path, run: Path, seed: int) -> Record:
    """Run the steps of a case that are not finished, and return what it left; a run may end with an error."""
    run.mkdir(parents=True, exist_ok=True)
    load = tercet.load_lm_config if case.base in SHARED else tercet.load_arm_config
    config = load(case.base, prepared(case, folder, seed))
    with planted(case.plant):
        for step in case.steps:
            try:
                tercet.run(config, run, step=step, quiet=True)
            except FailedError as error:
                print(f"{case.name}: {error}", file=sys.stderr)
                break
    return contents(run, config.model_dump(mode="json"))


def findings(record: Record) -> dict[str, Finding]:
    """Return the problems that the doctor sees after any row of the run, and at its end."""
    found = {one.name: one for so_far in _so_far(record) for one in problems(so_far)}
    return found | {one.name: one for one in examine(record) if not one.is_good}


def _so_far(record: Record) -> Iterator[Record]:
    """Yield what the run holds after each row; the results of a step are known from the next step on."""
    last = record.metrics[-1]["step"] if record.metrics else ""
    metrics: list[dict[str, object]] = []
    times = {(row["step"], row["index"]): row for row in record.timings}
    timings: list[dict[str, object]] = []
    early = {key: value for key, value in record.results.items() if key != "best_checkpoint" or last == "eval"}
    for row in record.metrics:
        metrics.append(row)
        timings.append(times.get((row["step"], row["index"]), {}))
        results = early if row["step"] == last else {}
        yield replace(record, metrics=metrics, timings=timings, results=results, held_out=[])


def main() -> None:
    """Train, examine, print a row for each run, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--only", default="", help="words of which one must be in `base/name`, with commas")
    parser.add_argument("--add", nargs="*", default=[], metavar="DIR[=FINDING]", help="folders of finished runs")
    options = parser.parse_args()
    sys.path.append(str(Path(__file__).parent))
    rows: list[dict[str, object]] = []
    for case in (*SICK, *HEALTHY):
        kind = "sick" if case.finding else "sound"
        title = f"{kind}/{case.base}/{case.name}"
        if options.only and not any(word in title for word in options.only.split(",")):
            continue
        if case.base in SHARED:
            train(SHARED[case.base], options.out, options.out / case.base, options.seed)
        record = train(case, options.out, options.out / title.replace(" ", "-").replace(",", ""), options.seed)
        rows.append(_row(case, record))
        print(json.dumps(rows[-1]), flush=True)
    for text in options.add:
        name, _, finding = text.partition("=")
        record = contents(path := Path(name), plain_yaml.parse((path / "config.yaml").read_text()).value)
        rows.append(_row(Case(path.name, "smollm2", finding), record))
        print(json.dumps(rows[-1]), flush=True)
    print("\n".join(summary(rows)))


def _row(case: Case, record: Record) -> dict[str, object]:
    found = findings(record)
    return {
        "base": case.base,
        "run": case.name,
        "expected": case.finding,
        "found": sorted(found),
        "alarms": sorted(name for name, one in found.items() if one.level == "alarm"),
        "said": [one.line for one in found.values()],
    }


def summary(rows: Sequence[dict[str, object]]) -> list[str]:
    """Return a Markdown table of the runs, and the counts."""
    lines = ["| base | run | expected | found |", "|---|---|---|---|"]
    for row in rows:
        found = ", ".join(f"`{name}`" for name in row["found"]) or "nothing"  # type: ignore[attr-defined]  # a list
        lines.append(f"| {row['base']} | {row['run']} | {row['expected'] or 'nothing'} | {found} |")
    sick, sound = [row for row in rows if row["expected"]], [row for row in rows if not row["expected"]]
    recognised = sum(row["expected"] in row["found"] for row in sick)  # type: ignore[operator]  # a list
    alarmed, advised = sum(bool(row["alarms"]) for row in sound), sum(bool(row["found"]) for row in sound)
    lines += ["", f"sick: {recognised} of {len(sick)} recognised"]
    lines += [f"sound: an alarm in {alarmed} of {len(sound)}, anything at all in {advised}"]
    return lines


if __name__ == "__main__":
    main()
