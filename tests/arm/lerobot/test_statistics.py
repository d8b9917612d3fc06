"""Statistics of the features of a recording."""

import numpy as np
import pytest

from tercet.arm.lerobot import statistics


def test_moments_of_merged_parts_equal_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 2))
    merged = statistics.merge([statistics.of_numbers(part) for part in np.split(rows, [3, 10])])
    whole = statistics.of_numbers(rows)
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(merged[name], whole[name])


def test_merged_quantiles_are_the_widest_of_the_parts() -> None:
    low, high = (statistics.of_numbers(np.arange(100.0)[:, None] + shift) for shift in (0, 50))
    assert low["q50"] == pytest.approx(49.5) and low["q90"] == pytest.approx(89.1)
    merged = statistics.merge([low, high])
    assert merged["q10"] == pytest.approx(9.9) and merged["q90"] == pytest.approx(139.1)


def test_statistics_of_images_are_per_channel_and_from_0_to_1() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 1], image[..., 2] = 51, 255
    stats = statistics.of_pictures([image, image])
    assert stats["mean"].shape == (3, 1, 1)
    assert stats["max"].flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert stats["count"].tolist() == [2]
