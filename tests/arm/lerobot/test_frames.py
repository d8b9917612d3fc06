"""Frames of a video file, found by their timestamps."""

from pathlib import Path

import numpy as np
import pytest

from tercet.arm.lerobot import frames
from tercet.errors import InputError

IMAGES = [np.full((32, 64, 3), 20 * number, np.uint8) for number in range(10)]


def test_frames_are_read_at_their_times_and_passed_to_fit(tmp_path: Path) -> None:
    encoding = frames.write(tmp_path / "a.mp4", IMAGES, fps=20.0)
    assert (encoding["video.height"], encoding["video.width"], encoding["video.fps"]) == (32, 64, 20.0)
    times = [0.15, 0.2, 0.4]
    read = frames.read(tmp_path / "a.mp4", times, tolerance=0.025, fit=lambda image: image[:1, :1])
    assert read.shape == (3, 1, 1, 3)
    assert np.abs(read[:, 0, 0, 0] - np.array([60.0, 80.0, 160.0])).max() <= 4  # H.264 is not lossless


def test_a_time_without_a_frame_is_refused(tmp_path: Path) -> None:
    frames.write(tmp_path / "a.mp4", IMAGES, fps=20.0)
    with pytest.raises(InputError, match=r"no frame at 0\.700 s \(found 1 of 2\)"):
        frames.read(tmp_path / "a.mp4", [0.1, 0.7], tolerance=0.025)


def test_missing_and_damaged_videos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.mp4: missing"):
        frames.read(tmp_path / "a.mp4", [0.0], tolerance=0.025)
    (tmp_path / "a.mp4").write_bytes(b"junk")
    with pytest.raises(InputError, match="cut off, or not a video"):
        frames.read(tmp_path / "a.mp4", [0.0], tolerance=0.025)


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    sizes = [np.zeros((32, 64, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)]
    with pytest.raises(InputError, match="keep the camera's size"):
        frames.write(tmp_path / "a.mp4", sizes, fps=20.0)
