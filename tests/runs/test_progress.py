"""What a loop shows of itself."""

import io
import time

import pytest

from tercet.runs import progress as module
from tercet.runs.progress import Bar, progress, say, say_once
from tercet.runs.screen import screen


def _terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Let the bars believe in a terminal of 100 columns, and return what they write on it."""
    file = io.StringIO()
    console = screen(file=file, force_terminal=True, width=100)
    monkeypatch.setattr(module, "_console", console)
    monkeypatch.setattr(module._live.live, "console", console)
    return file


def test_rate_and_remaining_time_follow_from_the_last_advances(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bar = Bar("ppo", 100, "updates", 10)
    assert bar.state() == "10/100"
    for _ in range(5):
        now += 4.0
        bar.advance(1, {"ppo/score": 0.81234567, "ppo/kl": 3.0})
    # 5 updates in 20 s, though ten were done before; 85 are left, at 4 s each 340 s
    assert bar.state() == "15/100  4 s/update  5:40 left  score 0.8123  kl 3"


def test_without_a_terminal_lines_come_now_and_then_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress("sft", 30, "steps") as bar:
        for _ in range(30):
            now += 1.0
            bar.advance()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["10/30", "20/30", "30/30"]
    assert lines[0] == "sft  10/30  1 steps/s  0:20 left"


def test_a_short_loop_inside_a_loop_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("ppo", 1), progress("answers", 8) as inner:
        inner.advance(8)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["ppo"]


def test_on_a_terminal_bars_nest_and_lines_go_above(monkeypatch: pytest.MonkeyPatch) -> None:
    file = _terminal(monkeypatch)
    with progress("ppo", 2) as outer:
        with progress("[answers]", 8) as inner:
            inner.advance(8, {"score": 1.0})
            say("a line [as it is]")
        outer.advance(2, {"ppo/\x1b[2Jkl": 2.5})
    text = file.getvalue()
    assert "a line [as it is]" in text
    assert "␛[2Jkl 2.5" in text
    assert "\x1b[2Jkl" not in text
    assert module._live.tasks == []


def test_a_loop_that_fails_takes_its_bar_away(monkeypatch: pytest.MonkeyPatch) -> None:
    _terminal(monkeypatch)
    with pytest.raises(KeyError), progress("ppo", 2):
        raise KeyError
    assert module._open == []
    assert module._live.tasks == []
    assert not module._live.live.is_started


def test_a_line_that_several_steps_find_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("pairs: nothing reads topic", "pairs: nothing reads id", "pairs: nothing reads topic"):
        say_once(line)
    assert capsys.readouterr().out == "pairs: nothing reads topic\npairs: nothing reads id\n"
