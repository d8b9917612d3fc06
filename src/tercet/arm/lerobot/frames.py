"""Read and write the mp4 files of a recording, frame by frame."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError, first_line

_KEYFRAME_EVERY = 2  # so that any frame is near one

Picture = NDArray[np.uint8]  # (height, width, 3)


def as_it_is(picture: Picture) -> Picture:
    """Return the picture unchanged."""
    return picture


def read(
    file: Path, moments: Sequence[float], *, tolerance: float, fit: Callable[[Picture], Picture] = as_it_is
) -> NDArray[np.uint8]:
    """(len(moments), height, width, 3): the frames shown at ascending `moments` (seconds), by their own time stamps.

    Each is given to `fit` as it is decoded, so that of large frames only what `fit` makes of them is kept.

    InputError where the file is missing or cut off, or has no frame within `tolerance` seconds of a moment.
    """
    av = pyav()
    found: list[Picture] = []
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            container.seek(int(moments[0] / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                while len(found) < len(moments) and abs(frame.time - moments[len(found)]) <= tolerance:
                    found.append(fit(frame.to_ndarray(format="rgb24")))
                if len(found) == len(moments) or frame.time > moments[-1] + tolerance:
                    break
    except FileNotFoundError as error:
        raise InputError(f"{file}: missing; copy the recording again, its videos with it") from error
    except (av.FFmpegError, IndexError) as error:
        raise InputError(f"{file}: cut off, or no video ({first_line(error)}); copy it again") from error
    if len(found) < len(moments):
        raise InputError(
            f"{file}: no frame at {moments[len(found)]:.3f} s ({len(found)} of {len(moments)} are there); "
            "it was cut off, or belongs to another recording"
        )
    return np.stack(found)


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
                raise InputError(f"a picture of {picture.shape[:2]} among those of {size}; keep the camera's size")
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


def pyav() -> Any:  # Any: PyAV, which only those need who have pictures
    """Import PyAV. Raises InputError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise InputError("pictures of a recording need PyAV: pip install 'tercet[recordings]'") from error
    return av
