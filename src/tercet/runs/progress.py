"""Progress of long loops: a live bar on a terminal, else a plain line from time to time."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich import progress as rich_progress
from rich.table import Column

from tercet.runs.screen import screen, visible

SECONDS_BETWEEN_LINES = 10.0

_console = screen()
_live = rich_progress.Progress(  # one per process, because a terminal can have one live area and loops nest
    rich_progress.TextColumn("{task.description}", markup=False),
    rich_progress.BarColumn(bar_width=24),
    rich_progress.TextColumn(
        "{task.fields[state]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
    ),
    console=_console,
    refresh_per_second=4,
)
_open: list["Bar"] = []
_said_once: set[str] = set()


def say(text: str) -> None:
    """Print a line above the progress bar."""
    _console.print(text, soft_wrap=True)


def say_once(text: str) -> None:
    """Print a line unless this process has printed it before."""
    if text not in _said_once and not _console.quiet:
        _said_once.add(text)
        say(text)


@contextmanager
def silent(when: bool = True) -> Iterator[None]:
    """Suppress lines and bars until the end of the `with` if `when` is True."""
    before = _console.quiet
    _console.quiet = before or when
    try:
        yield
    finally:
        _console.quiet = before


@contextmanager
def progress(title: str, total: int, unit: str = "steps", *, done: int = 0) -> Iterator["Bar"]:
    """Show the progress of `total` units, of which `done` were done by an earlier process."""
    bar = Bar(title, total, unit, done)
    if _console.is_interactive and not _console.quiet:
        bar.task = _live.add_task(title, total=total, completed=done, state=bar.state())
        if not _open:
            _live.start()
    _open.append(bar)
    try:
        yield bar
    finally:
        _open.remove(bar)
        bar.close()


class Bar:
    """The progress of one loop; created by `progress`."""

    def __init__(self, title: str, total: int, unit: str, done: int) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self.task: rich_progress.TaskID | None = None
        self._numbers: Mapping[str, float] = {}
        self._started = self._last_line = time.monotonic()
        self._last_text = ""
        # use the rate of the last few advances, because units may take different times
        self._marks = deque([(self._started, done)], maxlen=20)

    def advance(self, n: int = 1, numbers: Mapping[str, float] = {}) -> None:
        """Advance by `n` units, and show `numbers` beside the bar."""
        now = time.monotonic()
        self.done += n
        self._numbers = numbers or self._numbers
        self._marks.append((now, self.done))
        if self.task is not None:
            _live.update(self.task, completed=self.done, state=self.state())
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line(now)

    def state(self) -> str:
        """Return one line with units, rate, remaining time and numbers."""
        (first, before), (last, done) = self._marks[0], self._marks[-1]
        parts = [f"{self.done}/{self.total}"]
        if done > before and last > first:
            per_second = (done - before) / (last - first)
            parts += [_rate(per_second, self.unit), f"{_clock((self.total - self.done) / per_second)} left"]
        parts += [f"{name.rpartition('/')[2]} {value:.4g}" for name, value in self._numbers.items()]
        return visible("  ".join(parts))

    def close(self) -> None:
        """Leave the last state on the screen or in the log, but not of nested loops."""
        if self.task is not None:
            if not _open:
                _live.stop()
            _live.remove_task(self.task)
            self.task = None
        elif not _open or time.monotonic() - self._started >= SECONDS_BETWEEN_LINES:
            self._print_line(time.monotonic())

    def _print_line(self, now: float) -> None:
        text = f"{self.title}  {self.state()}"
        if text != self._last_text:
            say(text)
        self._last_line, self._last_text = now, text


def _rate(per_second: float, unit: str) -> str:
    return f"{per_second:.3g} {unit}/s" if per_second >= 1 else f"{1 / per_second:.3g} s/{unit.removesuffix('s')}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
