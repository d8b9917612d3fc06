import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.report.plots import Series, calibration, curves, path, smoothed

VALUES = st.lists(st.floats(-1e6, 1e6), max_size=120)


def test_few_values_are_not_smoothed() -> None:
    assert smoothed([5.0, 1.0, 3.0]) == [5.0, 1.0, 3.0]


def test_a_spike_is_spread_over_its_window_and_the_ends_are_means_too() -> None:
    spike = [0.0] * 40
    spike[20] = spike[39] = 5.0
    shown = smoothed(spike)  # two neighbours on each side
    assert shown[17:24] == [0, 1, 1, 1, 1, 1, 0]
    assert shown[39] == pytest.approx(5 / 3)


@given(VALUES)
def test_smoothing_never_leaves_the_range_of_the_curve(values: list[float]) -> None:
    shown = smoothed(values)
    assert len(shown) == len(values)
    assert all(min(values) - 1e-6 <= value <= max(values) + 1e-6 for value in shown)


@pytest.mark.parametrize("ys", [[1.0], [2.0, 2.0], [0.0, 1e-9], [-1e9, 1e9], [float(i) for i in range(300)]])
def test_curves_of_any_length_and_size_are_well_formed(ys: Sequence[float]) -> None:
    xs = [float(i) for i in range(len(ys))]
    series = [Series("a", "ppo", xs, ys), Series("b", "ink", xs[:1], ys[:1], dots=True)]
    root = ElementTree.fromstring(curves(series, name="any", level=0.5, bottom=0.0, mark=0.0))
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib  # the page decides


def test_a_series_on_the_right_has_an_axis_of_its_own() -> None:
    left = Series("score", "ppo", [0.0, 1.0, 2.0], [0.0, 5.0, 9.0])
    far = Series("judge", "other", [0.0, 2.0], [1000.0, 3000.0], dots=True, right=True)
    both = ElementTree.fromstring(curves([left, far], name="both", bottom=0.0))
    texts = ["".join(element.itertext()).strip() for element in both.iter() if element.tag.endswith("text")]
    assert "8" in texts and "2,000" in texts  # neither flattens the other


def test_ids_are_unique_across_plots() -> None:
    series = [Series("a", "ppo", [0.0, 1.0], [0.0, 1.0])]
    one, other = (_ids(curves(series, name=name)) for name in ("one", "other"))
    assert one
    assert not one & other


def test_the_other_pictures_are_well_formed() -> None:
    ElementTree.fromstring(path([0.0, 1.0, 2.0], [0.0, 2.0, 1.0], name="trade", mark=1))
    ElementTree.fromstring(calibration([Series("set", "other", [0.3, 0.9], [0.2, 0.8])], name="calibration"))


def _ids(svg: str) -> set[str]:
    return {element.attrib["id"] for element in ElementTree.fromstring(svg).iter() if "id" in element.attrib}
