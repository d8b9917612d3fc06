"""The clock of the benchmarks."""

from tercet.runs.clock import Moment


def test_the_load_of_others_is_total_minus_own():
    start, end = Moment(10.0, 2.0, 100.0), Moment(14.0, 5.0, 109.0)
    assert end.others_since(start) == (9.0 - 3.0) / 4.0


def test_rounding_of_the_kernels_ticks_never_makes_others_negative():
    assert Moment(2.0, 2.0, 1.5).others_since(Moment(1.0, 1.0, 1.0)) == 0.0


def test_time_goes_on():
    first, second = Moment.now(), Moment.now()
    assert second.wall > first.wall and second.own >= first.own and second.every >= first.every
