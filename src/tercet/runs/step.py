"""One step of a run (sft, reward, ppo, eval): rows, checkpoints, models and end, safe against a kill at any time."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tercet.errors import InputError
from tercet.runs import checkpoints, done
from tercet.runs.atomic import clean_leftovers, remove_folder, replace_folder
from tercet.runs.clock import Moment
from tercet.runs.progress import Bar, progress, say
from tercet.runs.ranks import first_only, num_ranks, rank, share
from tercet.runs.results import add_results, drop_results, put_results, read_results
from tercet.runs.rows import Row, RowWriter, cut_rows
from tercet.runs.trackers import Trackers

Info = dict[str, Any]  # Any: JSON, returned to the caller
OnRow = Callable[[Row], object]
SAMPLES_PRINTED = 3
ROLLOUTS = "rollouts"  # folder of a step


class Watch(Protocol):
    """Looks at a run while it trains."""

    def __call__(self, row: Row, timing: Row) -> None:
        """Take a row of metrics.jsonl and that of timings.jsonl, after they were written."""

    def end_of_step(self) -> None:
        """Take the results of a step that has finished."""


def finished_since(run: Path, name: str, others: Sequence[str]) -> list[str]:
    """Return the other steps that have finished since this finished step began.

    It is empty if an earlier version ran this step, because that version did not record it.
    """
    known = done.read(run, name).get("after")
    if known is None:
        return []
    ended = [other for other in others if done.has_ended(run, other)]
    return [other for other in ended if known.get(other) != done.read(run, other).get("finished")]


def learned_from(run: Path, name: str) -> dict[str, str]:
    """Return the digest of each data set that the step has read; empty if none was recorded."""
    known = done.read(run, name) if done.has_ended(run, name) else checkpoints.peek(run / name)
    return known.get("data", {})


def refuse_changed_data(run: Path, now: Mapping[str, Mapping[str, str]]) -> None:
    """Raise InputError if a step has read other data; `now` has the current digests of each step's data sets."""
    lines: list[str] = []
    for name, digests in now.items():
        before = learned_from(run, name)
        changed = [one for one in {**before, **digests} if before and before.get(one) != digests.get(one)]
        if changed:
            lines.append(f"  {run / name}: {', '.join(changed)}")
    if lines:
        raise InputError(
            f"{run}: data has changed since these steps read it (step: sets):\n" + "\n".join(lines) + "\n"
            "  Restore the data; or remove these folders to repeat the steps; or choose another --out"
        )


def last_checkpoint(run: Path, name: str) -> Info | None:
    """Return the state of the last undamaged checkpoint whose rows are unchanged; None if there is none."""
    return checkpoints.find(run / name, lambda state: done.rows_problems(run, name, state["rows"], whole=False))


class Step:
    """A running step; a context manager, created by `RunFolder.step`.

    On entry, everything later than the last checkpoint is dropped; the step then repeats it to the bit. A finished step
    is restarted.
    """

    def __init__(
        self,
        run: Path,
        name: str,
        *,
        total: int,
        shown: Sequence[str],
        config: Mapping[str, Any],
        data: Mapping[str, str],
        num_before: int,
        on_row: OnRow | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.name, self.path, self._data = name, run / name, dict(data)
        self._run, self._total, self._shown, self._config = run, total, shown, config
        self._num_before, self._on_row, self._watch = num_before, on_row, watch
        self._state: Info | None = None
        self._seconds_before = 0.0
        self._numbers: dict[str, float] = {}
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        if (data := share(lambda: self._data)) != self._data:
            others = [name for name in {**data, **self._data} if data.get(name) != self._data.get(name)]
            raise InputError(
                f"{self.name}: process {rank()} reads other data than process 0 in {', '.join(others)}; "
                "give all machines the same files"
            )
        self._state = share(self._begin)
        self._seconds_before = self._state["seconds"] if self._state else 0.0
        self._num_logged = self._state["num_logged"] if self._state else 0
        self._open_files()
        self._bar: Bar = self._exit.enter_context(progress(self.name, self._total, done=self._num_done()))
        self._started, self._last_log = time.monotonic(), Moment.now()
        return self

    def _begin(self) -> Info | None:
        """Return the state of the last checkpoint, and drop everything later."""
        self.path.mkdir(exist_ok=True)
        clean_leftovers(self.path)
        if done.has_ended(self._run, self.name):
            checkpoints.remove(self.path)  # before done.json is removed, so that an old checkpoint cannot be resumed
            (self.path / done.FILE).unlink()
        state = last_checkpoint(self._run, self.name)
        refuse_changed_data(self._run, {self.name: self._data})
        if state is None:
            drop_results(self._run, self.name)
        else:
            put_results(self._run, self.name, state["results"])
        return state

    @first_only
    def _open_files(self) -> None:
        """Open the files that rows are added to, and the trackers."""
        now = {other: done.read(self._run, other).get("finished") for other in done.ended(self._run)}
        self._after = self._state["after"] if self._state else now
        self._drop_rollouts()
        self._rows: dict[str, RowWriter] = {}
        for kind in done.ROWS:
            file = self._run / f"{kind}.jsonl"
            tally = cut_rows(file, self.name, self._state["rows"][kind]["num"] if self._state else 0)
            self._rows[kind] = RowWriter(file, self.name, tally)
            self._exit.callback(self._rows[kind].close)
        names = self._config.get("trackers", [])
        self._trackers = Trackers(names, self._run, self.name, self._config, start=self._num_logged)
        self._exit.callback(self._trackers.close)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    @first_only
    def log(self, index: int, metrics: Mapping[str, float], *, seconds: Mapping[str, float] = {}) -> None:
        """Log one row of metrics, and show the selected ones; `index` counts from 0.

        The rows must be the same after a kill, so times are not metrics: `seconds` of parts of the work are logged to
        timings.jsonl. Numbers that are not finite are left out.
        """
        row = {name: float(value) for name, value in metrics.items()}
        self._rows["metrics"].append(index, row)
        now, before = Moment.now(), self._last_log
        times = {"seconds": now.wall - before.wall, "cpu_seconds": now.own - before.own, **seconds}
        times["other_cpus"] = max(0.0, now.others_since(before) - (num_ranks() - 1))
        timing = {name: round(value, 4) for name, value in times.items()}
        self._rows["timings"].append(index, timing)
        self._last_log = now
        self._trackers.log(index, row)
        self._numbers |= {name: row[name] for name in self._shown if name in row}
        before, self._num_logged = self._num_done(), max(index + 1, self._num_logged)
        self._bar.advance(self._num_done() - before, self._numbers)
        place = {"step": self.name, "index": index}
        finite = place | {name: value for name, value in row.items() if math.isfinite(value)}  # as in the file
        if self._watch is not None:
            self._watch(finite, place | timing)
        if self._on_row is not None:
            self._on_row(finite)

    def _num_done(self) -> int:
        return max(0, self._num_logged - self._num_before)

    @first_only
    def show(self, index: int, samples: Sequence[Mapping[str, Any]]) -> None:  # Any: JSON, prompt, response, score
        """Save sampled responses, and print the first few."""
        for sample in samples:
            self._rows["samples"].append(index, sample)
        for sample in samples[:SAMPLES_PRINTED]:
            say(f"  {self.name} {index}: {_one_line(sample)}")

    @first_only
    def save(self, info: Info, write: Callable[[Path], None]) -> None:
        """Write a checkpoint of `info` (JSON) and what `write(folder)` writes; the one before it is kept."""
        for rows in self._rows.values():
            rows.sync()  # a checkpoint must not count rows that a power cut can lose
        state = {
            "info": info,
            "rows": self._counted(),
            "num_logged": self._num_logged,
            "seconds": self._seconds(),
            "after": self._after,
            "data": self._data,
            "results": read_results(self.path),
        }
        checkpoints.save(self.path, state, write)

    def restore(self) -> tuple[Info, Path] | None:
        """Return the `info` and folder of the last checkpoint; None if the step starts from the beginning."""
        return (self._state["info"], self.path / checkpoints.LAST) if self._state else None

    def save_folder(self, name: str, write: Callable[[Path], None]) -> Path:
        """Save a folder of the step, such as the model; it is written completely or not at all."""
        share(lambda: replace_folder(self.path / name, write))
        return self.path / name

    def keep(self, index: int, write: Callable[[Path], None]) -> None:
        """Save a rollout for people to look at, in DIR/<step>/rollouts/<index>; call it before row `index` is logged.

        It is written completely or not at all, and dropped if the step resumes from a checkpoint before it.
        """
        share(lambda: replace_folder(self.path / ROLLOUTS / str(index), write))

    def _drop_rollouts(self) -> None:
        folder = self.path / ROLLOUTS
        clean_leftovers(folder)
        for kept in list(folder.iterdir()) if folder.is_dir() else []:
            if not kept.name.isdecimal() or int(kept.name) >= self._num_logged:
                remove_folder(kept)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def finish(self, results: Mapping[str, Any], *, beside: Sequence[str] = ()) -> None:  # Any: JSON, see results.json
        """Finish the step: add its results and time to results.json, and remove its checkpoints.

        `beside` names folders of the run that the step made outside its own folder.
        """
        share(lambda: self._finish(results, beside))

    def _finish(self, results: Mapping[str, Any], beside: Sequence[str]) -> None:  # Any: see `finish`
        for rows in self._rows.values():
            rows.sync()
        seconds = round(self._seconds(), 1)
        data = {"data": {self.name: self._data}} if self._data else {}
        add_results(self._run, self.name, {**results, **data, "seconds": {self.name: seconds}})
        info = {
            "seconds": seconds,
            "rows": self._counted(),
            "finished": datetime.now(UTC).isoformat(),
            "after": self._after,
            "data": self._data,
        }
        # after a kill before this line the step resumes from its checkpoint; after it, the next opening removes that
        done.mark(self._run, self.name, info, beside=beside)
        checkpoints.remove(self.path)

    def _counted(self) -> Info:
        return {kind: rows.tally.as_json() for kind, rows in self._rows.items()}

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


def _one_line(sample: Mapping[str, Any]) -> str:
    texts = [f"{value:.3g}" if isinstance(value, float) else " ".join(str(value).split()) for value in sample.values()]
    return " | ".join(text if len(text) <= 160 else text[:159] + "…" for text in texts)
