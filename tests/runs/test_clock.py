"""The clock of the benchmarks, and the stopwatch."""

import contextlib
import time

from tercet.runs.clock import Moment, Stopwatch


def test_the_load_of_others_is_total_minus_own():
    start, end = Moment(10.0, 2.0, 100.0), Moment(14.0, 5.0, 109.0)
    assert end.others_since(start) == (9.0 - 3.0) / 4.0


def test_rounding_of_the_kernels_ticks_never_makes_others_negative():
    assert Moment(2.0, 2.0, 1.5).others_since(Moment(1.0, 1.0, 1.0)) == 0.0


def test_time_goes_on():
    first, second = Moment.now(), Moment.now()
    assert second.wall > first.wall and second.own >= first.own and second.every >= first.every


def test_a_stopwatch_sums_the_time_of_calls_with_an_error_too():
    stopwatch = Stopwatch()

    def wait(seconds: float, *, fails: bool = False) -> str:
        time.sleep(seconds)
        return str(1 / (not fails))

    timed = stopwatch.timed(wait)
    assert timed(0.01) == "1.0"
    with contextlib.suppress(ZeroDivisionError):
        timed(0.01, fails=True)
    time.sleep(0.02)
    assert stopwatch.seconds >= 0.02
