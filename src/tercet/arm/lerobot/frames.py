"""Read and write the mp4 files of a recording, frame by frame."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError, first_line

_KEYFRAME_EVERY = 2  # a reader decodes from the last keyframe, so frequent keyframes make access to any frame fast

Picture = NDArray[np.uint8]  # (height, width, 3)


def unchanged(picture: Picture) -> Picture:
    """Return the picture unchanged."""
    return picture


def read(
    file: Path, times: Sequence[float], *, tolerance: float, fit: Callable[[Picture], Picture] = unchanged
) -> NDArray[np.uint8]:
    """Return (len(times), height, width, 3): the frames at ascending `times` in seconds, by their timestamps.

    `fit` is applied to each frame as soon as it is decoded, so that large frames need not all fit into memory.
    Raises InputError if the file is missing or cut off, or has no frame within `tolerance` seconds of a time.
    """
    av = pyav()
    images: list[Picture] = []
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            container.seek(int(times[0] / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                while len(images) < len(times) and abs(frame.time - times[len(images)]) <= tolerance:
                    images.append(fit(frame.to_ndarray(format="rgb24")))
                if len(images) == len(times) or frame.time > times[-1] + tolerance:
                    break
    except FileNotFoundError as error:
        raise InputError(f"{file}: missing; copy the recording again, including its videos") from error
    except (av.FFmpegError, IndexError) as error:
        raise InputError(f"{file}: cut off, or not a video ({first_line(error)}); copy it again") from error
    if len(images) < len(times):
        raise InputError(
            f"{file}: no frame at {times[len(images)]:.3f} s (found {len(images)} of {len(times)}); "
            "the file was cut off, or belongs to another recording: copy it again"
        )
    return np.stack(images)


def write(file: Path, pictures: Iterable[Picture], *, fps: float) -> dict[str, Any]:
    """Write an mp4 (H.264) with one picture per 1/fps seconds. Return its entry for meta/info.json."""
    av = pyav()
    size = (0, 0)
    with av.open(str(file), "w", format="mp4") as container:
        stream = None
        for picture in pictures:
            if stream is None:
                size = picture.shape[:2]
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
                stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
                stream.options = {"crf": "18", "preset": "veryfast", "g": str(_KEYFRAME_EVERY), "bf": "0"}
            if picture.shape[:2] != size:
                raise InputError(f"an image of size {picture.shape[:2]} in a video of {size}; keep the camera's size")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        if stream is not None:
            container.mux(stream.encode(None))
    return {
        "video.height": size[0],
        "video.width": size[1],
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p",
        "is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }


def pyav() -> Any:  # Any: the module, which is imported only for recordings with images
    """Import PyAV. Raises InputError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise InputError("images of a recording need PyAV: pip install 'tercet[recordings]'") from error
    return av
