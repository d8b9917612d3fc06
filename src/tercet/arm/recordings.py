"""Demonstrations as LeRobotDataset v3 folders: what a policy learns from in them, and how ours are kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tercet.arm.cameras import Camera
from tercet.arm.lerobot.layout import ACTION, ENVIRONMENT, IMAGES, STATE, Feature, Info
from tercet.arm.lerobot.read import Recording, open_recording
from tercet.arm.lerobot.write import NewEpisode, append
from tercet.errors import InputError

# what a policy of ours sees and does, where a recording has joints as well, for others to learn from
OURS_SEEN, OURS_DONE = "tercet.observation", "tercet.action"
OURS = "tercet"  # the robot_type of recordings of an environment


def arrays(folder: Path, *, most: int | None = None) -> dict[str, NDArray]:
    """`observations` (n, t, o), `actions` (n, t, a) and `lengths` (n,) of the first demonstrations; `env` if known.

    Observations are what our policies saw, else observation.state with observation.environment_state behind it.
    """
    recording = open_recording(folder)
    seen, done = _keys(recording)
    episodes = recording.episodes([*seen, done], most=most)
    found = {
        "observations": _padded([np.concatenate([one.columns[key] for key in seen], 1) for one in episodes]),
        "actions": _padded([one.columns[done] for one in episodes]),
        "lengths": np.array([len(one) for one in episodes]),
    }
    if done == OURS_DONE or recording.info.robot_type == OURS:
        tasks = sorted({one.task for one in episodes})
        if len(tasks) > 1:
            raise InputError(f"{folder}: demonstrations of {' and '.join(tasks)}; a recording must be of one task")
        found["env"] = np.array(tasks[0])
    return found


@dataclass(frozen=True)
class About:
    """What a recording says of itself; `names` are those of its observation's and its action's numbers."""

    made_in: str
    fps: float
    cameras: tuple[str, ...]
    names: tuple[str, ...]


def about(folder: Path) -> About:
    """What robot and tasks a recording is of, and what its numbers are called."""
    recording = open_recording(folder)
    info, (seen, done) = recording.info, _keys(recording)
    names: list[str] = []
    for key in (*seen, done):
        feature = info.features[key]
        numbers = range(int(np.prod(feature.shape)))
        own = feature.names if feature.names and len(feature.names) == len(numbers) else tuple(map(str, numbers))
        names += [f"{key.split('.')[-1]} {name}" for name in own]
    tasks = ", ".join(sorted(set(recording.tasks.values())))
    cameras = tuple(key.removeprefix(f"{IMAGES}.") for key in recording.picture_keys)
    return About(f"{info.robot_type or '?'}: {tasks}", info.fps, cameras, tuple(names))


def pictures(folder: Path, camera: Camera, lengths: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """(t, height, width, 3) of the first episodes, one at a time, each picture fitted to the camera as it is decoded.

    InputError where the recording has no such camera.
    """
    recording, key = open_recording(folder), f"{IMAGES}.{camera.name}"
    if key not in recording.picture_keys:
        there = ", ".join(recording.picture_keys) or "no pictures"
        raise InputError(f"{folder}: policy.cameras names {camera.name}, but it has {there}")
    for index, length in enumerate(lengths):
        yield recording.pictures(index, key, range(length), fit=camera.fitted)


def save(
    folder: Path,
    observations: Sequence[NDArray],
    actions: Sequence[NDArray],
    *,
    env: str,
    fps: float = 20.0,
    pictures: Mapping[str, Sequence[NDArray[np.uint8]]] = MappingProxyType({}),
) -> None:
    """Add episodes of an environment, (t, o) and (t, a) each, to a recording; `pictures` (t, h, w, 3) by camera."""
    features = {
        STATE: Feature("float32", (observations[0].shape[1],)),
        ACTION: Feature("float32", (actions[0].shape[1],)),
    }
    cameras = {f"{IMAGES}.{name}": seen for name, seen in pictures.items()}
    for key, seen in cameras.items():
        features[key] = Feature("video", seen[0].shape[1:], ("height", "width", "channels"))
    episodes = [
        NewEpisode(env, {STATE: seen, ACTION: done}, {key: list(whole[index]) for key, whole in cameras.items()})
        for index, (seen, done) in enumerate(zip(observations, actions, strict=True))
    ]
    append(folder, Info(fps, features, OURS), episodes)


def _keys(recording: Recording) -> tuple[list[str], str]:
    """The features that a policy sees, and the one that says what it does."""
    if OURS_SEEN in recording.info.features:
        return [OURS_SEEN], OURS_DONE
    seen = [key for key in (STATE, ENVIRONMENT) if key in recording.info.features]
    if not seen:
        raise InputError(f"{recording.path}: has neither {STATE} nor {ENVIRONMENT}, so there is nothing to learn from")
    return seen, ACTION


def _padded(rows: Sequence[NDArray]) -> NDArray:
    """(n, t, size) with zeros behind the end of each."""
    whole = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), np.float32)
    for place, values in zip(whole, rows, strict=True):
        place[: len(values)] = values
    return whole
