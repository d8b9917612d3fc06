"""Demonstrations as LeRobotDataset folders: what a policy learns from in them, and how ours are kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tercet.arm.lerobot.layout import ACTION, ENVIRONMENT, IMAGES, STATE, Feature, Info, read_info
from tercet.arm.lerobot.read import Recording, open_recording, read_tasks, whole_part
from tercet.arm.lerobot.write import NewEpisode, append
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.units import SCALED
from tercet.errors import InputError

# what a policy of ours sees and does, where a recording has joints as well, for others to learn from
OURS_SEEN, OURS_DONE = "tercet.observation", "tercet.action"
OURS = "tercet"  # the robot_type of recordings of an environment


def arrays(folder: Path, *, most: int | None = None, task: str = "", whole: bool = False) -> dict[str, NDArray]:
    """`observations` (n, t, o), `actions` (n, t, a) and `lengths` (n,) of the first demonstrations; `env` if known.

    `missing` (n,) are the frames that were lost within each.

    Observations are what our policies saw, else observation.state with observation.environment_state behind it.
    `action_units` are there where the recording says them. With `task`, of that one; with `whole`, of the episodes
    that are whole. InputError where there are several tasks and none is named.
    """
    recording = chosen(folder, task=task, whole=whole)
    seen, done = _keys(recording.info, folder)
    try:
        episodes = recording.episodes([*seen, done], most=most)
    except InputError as error:
        raise _with_offer(error, folder) from error
    found = {
        "observations": _padded([np.concatenate([one.columns[key] for key in seen], 1) for one in episodes]),
        "actions": _padded([one.columns[done] for one in episodes]),
        "lengths": np.array([len(one) for one in episodes]),
        "missing": np.array([one.num_missing(recording.info.fps) for one in episodes]),
    }
    if done == OURS_DONE or recording.info.robot_type == OURS:
        found["env"] = np.array(episodes[0].task)
    units = recording.info.features[done].units or (SCALED if "env" in found else "")
    return found | ({"action_units": np.array(units)} if units else {})


def chosen(folder: Path, *, task: str = "", whole: bool = False) -> Recording:
    """The episodes to learn from, as `arrays` takes them; InputError says how many are whole where not all are."""
    if whole:
        info = read_info(folder)
        seen, done = _keys(info, folder)
        found = whole_part(folder, [*seen, done])
        if not len(found):
            raise InputError(f"{folder}: holds no whole episode; record it again")
        return found.of_task(task)
    try:
        found = open_recording(folder)
    except InputError as error:
        raise _with_offer(error, folder) from error
    return found.of_task(task)


def _with_offer(error: InputError, folder: Path) -> InputError:
    """The same, and how many episodes are whole for all that, if any is."""
    try:
        seen, done = _keys(read_info(folder), folder)
        num = len(whole_part(folder, [*seen, done]))
    except InputError:
        return error
    if not num:
        return error
    return InputError(f"{error}; or learn from the episodes that are whole ({num}): bc.whole_episodes=true")


@dataclass(frozen=True)
class About:
    """What a recording says of itself; `names` are those of its observation's and its action's numbers."""

    made_in: str
    fps: float
    cameras: tuple[str, ...]
    names: tuple[str, ...]


def about(folder: Path, *, task: str = "") -> About:
    """What robot and tasks a recording is of, or which `task` was chosen, and what its numbers are called."""
    info = read_info(folder)
    seen, done = _keys(info, folder)
    names: list[str] = []
    for key in (*seen, done):
        feature = info.features[key]
        numbers = range(int(np.prod(feature.shape)))
        own = feature.names if feature.names and len(feature.names) == len(numbers) else tuple(map(str, numbers))
        names += [f"{key.split('.')[-1]} {name}" for name in own]
    tasks = task or ", ".join(sorted(set(read_tasks(folder, info).values())))
    cameras = tuple(key.removeprefix(f"{IMAGES}.") for key, feature in info.features.items() if feature.is_picture)
    return About(f"{info.robot_type or '?'}: {tasks}", info.fps, cameras, tuple(names))


def pictures(recording: Recording, camera: Camera, steps: Sequence[Sequence[int]]) -> Iterator[NDArray[np.uint8]]:
    """(t, height, width, 3) at these steps of the first episodes, an episode at a time, fitted to the camera.

    InputError where the recording has no such camera.
    """
    folder, key = recording.path, f"{IMAGES}.{camera.name}"
    if key not in recording.picture_keys:
        there = ", ".join(recording.picture_keys) or "no pictures"
        raise InputError(f"{folder}: policy.cameras names {camera.name}, but it has {there}")
    for index, some in enumerate(steps):
        yield recording.pictures(index, key, some, fit=camera.fitted)


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
        ACTION: Feature("float32", (actions[0].shape[1],), units=SCALED),
    }
    cameras = {f"{IMAGES}.{name}": seen for name, seen in pictures.items()}
    for key, seen in cameras.items():
        features[key] = Feature("video", seen[0].shape[1:], ("height", "width", "channels"))
    episodes = [
        NewEpisode(env, {STATE: seen, ACTION: done}, {key: list(whole[index]) for key, whole in cameras.items()})
        for index, (seen, done) in enumerate(zip(observations, actions, strict=True))
    ]
    append(folder, Info(fps, features, OURS), episodes)


def _keys(info: Info, folder: Path) -> tuple[list[str], str]:
    """The features that a policy sees, and the one that says what it does."""
    if OURS_SEEN in info.features:
        return [OURS_SEEN], OURS_DONE
    seen = [key for key in (STATE, ENVIRONMENT) if key in info.features]
    if not seen:
        raise InputError(f"{folder}: has neither {STATE} nor {ENVIRONMENT}, so there is nothing to learn from")
    return seen, ACTION


def _padded(rows: Sequence[NDArray]) -> NDArray:
    """(n, t, size) with zeros behind the end of each."""
    whole = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), np.float32)
    with np.errstate(over="ignore"):  # what becomes infinite is refused by whoever learns from it
        for place, values in zip(whole, rows, strict=True):
            place[: len(values)] = values
    return whole
