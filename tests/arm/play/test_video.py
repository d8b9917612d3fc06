"""Videos: format, layout and the repeated last frame."""

from pathlib import Path

import numpy as np
import torch

from tercet.arm.play import video


def take(title: str, num: int, success: bool) -> video.Clip:
    pictures = [np.full((video.HEIGHT, video.WIDTH, 3), 10 * i, np.uint8) for i in range(num)]
    curve = torch.linspace(-1, 1, num)
    return video.Clip(title, pictures, video.Curves(curve, curve, curve), success)


def test_a_video_is_h264_with_both_sides_and_the_last_frame_held(tmp_path: Path) -> None:
    import imageio_ffmpeg

    file = tmp_path / "v.mp4"
    video.write(file, take("BC", 5, False), take("PPO", 5, True))
    reader = imageio_ffmpeg.read_frames(str(file))
    facts = next(reader)
    assert isinstance(facts, dict)
    assert (facts["codec"], facts["pix_fmt"].split("(")[0]) == ("h264", "yuv420p")
    assert facts["size"] == (2 * video.WIDTH, video.TITLE + 3 * video.STRIP + video.HEIGHT + video.FOOT)
    assert len(list(reader)) == 5 + video.HOLD


def test_the_bottom_of_a_frame_is_empty_and_curves_are_above_the_image() -> None:
    last = list(video.frames(take("BC", 5, False), take("PPO", 5, True)))[-1]
    foot, curves = last[-video.FOOT :], last[video.TITLE : video.TITLE + 3 * video.STRIP]
    assert (foot == foot[0, 0]).all() and not (curves == curves[0, 0]).all()
    picture = last[video.TITLE + 3 * video.STRIP : -video.FOOT]
    assert (picture == 40).all()


def test_without_a_critic_a_frame_has_the_curve_of_the_reward_alone() -> None:
    pictures = [np.full((video.HEIGHT, video.WIDTH, 3), 40, np.uint8)] * 3
    clip = video.Clip("PPO", pictures, video.Curves(torch.linspace(-1, 1, 3)), True)
    last = list(video.frames(clip, clip))[-1]
    assert last.shape == (video.TITLE + video.STRIP + video.HEIGHT + video.FOOT, 2 * video.WIDTH, 3)
    assert (last[video.TITLE + video.STRIP : -video.FOOT] == 40).all()


def test_clips_without_curves_are_images_alone_as_many_as_given() -> None:
    pictures = [np.full((video.HEIGHT, video.WIDTH, 3), 40, np.uint8)] * 2
    clip = video.Clip("PPO", pictures, video.Curves(), True)
    for num in (1, 3):
        last = list(video.frames(*[clip] * num))[-1]
        assert last.shape == (video.TITLE + video.HEIGHT + video.FOOT, num * video.WIDTH, 3)
        assert (last[video.TITLE : -video.FOOT] == 40).all()
