"""Read and write demonstrations as LeRobotDataset folders."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tercet.arm.lerobot.layout import ACTION, ENVIRONMENT, IMAGES, STATE, Feature, Info, read_info
from tercet.arm.lerobot.read import Recording, open_complete_episodes, open_recording, read_tasks
from tercet.arm.lerobot.write import NewEpisode, append
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.units import SCALED
from tercet.errors import InputError

# observations and actions of our policies, in recordings that also hold joints for other programs
TERCET_OBSERVATION, TERCET_ACTION = "tercet.observation", "tercet.action"
ENVIRONMENT_ROBOT = "tercet"  # robot_type of recordings of an environment


def read_arrays(
    folder: Path, *, max_num: int | None = None, task: str = "", complete_only: bool = False
) -> dict[str, NDArray]:
    """Read `observations` (n, t, o), `actions` (n, t, a) and `lengths` (n,) of the first demonstrations.

    Also `missing` (n,), the number of frames lost within each, and `env` and `action_units` if the recording states
    them. Observations are those of our policies, else observation.state followed by observation.environment_state.
    `task` selects one task. `complete_only` skips damaged episodes. InputError if there are several tasks and `task` is
    empty.
    """
    recording = open_selected(folder, task=task, complete_only=complete_only)
    observation_keys, action_key = _keys(recording.info, folder)
    try:
        episodes = recording.episodes([*observation_keys, action_key], max_num=max_num)
    except InputError as error:
        raise _with_remedy(error, folder) from error
    arrays = {
        "observations": _padded(
            [np.concatenate([one.columns[key] for key in observation_keys], 1) for one in episodes]
        ),
        "actions": _padded([one.columns[action_key] for one in episodes]),
        "lengths": np.array([len(one) for one in episodes]),
        "missing": np.array([one.num_missing(recording.info.fps) for one in episodes]),
    }
    if action_key == TERCET_ACTION or recording.info.robot_type == ENVIRONMENT_ROBOT:
        arrays["env"] = np.array(episodes[0].task)
    units = recording.info.features[action_key].units or (SCALED if "env" in arrays else "")
    return arrays | ({"action_units": np.array(units)} if units else {})


def open_selected(folder: Path, *, task: str = "", complete_only: bool = False) -> Recording:
    """Open the selected episodes (see `read_arrays`). If some are damaged, InputError says how many are complete."""
    if complete_only:
        info = read_info(folder)
        observation_keys, action_key = _keys(info, folder)
        recording = open_complete_episodes(folder, [*observation_keys, action_key])
        if not len(recording):
            raise InputError(f"{folder}: has no complete episode; record it again")
        return recording.of_task(task)
    try:
        recording = open_recording(folder)
    except InputError as error:
        raise _with_remedy(error, folder) from error
    return recording.of_task(task)


def _with_remedy(error: InputError, folder: Path) -> InputError:
    """Add to the error how many episodes are complete, if any."""
    try:
        observation_keys, action_key = _keys(read_info(folder), folder)
        num = len(open_complete_episodes(folder, [*observation_keys, action_key]))
    except InputError:
        return error
    if not num:
        return error
    return InputError(f"{error}; or learn only from the complete episodes ({num}): bc.whole_episodes=true")


@dataclass(frozen=True)
class Description:
    """Metadata of a recording; `names` are those of the numbers of an observation and an action."""

    made_in: str
    fps: float
    cameras: tuple[str, ...]
    names: tuple[str, ...]


def describe(folder: Path, *, task: str = "") -> Description:
    """Return the robot, the tasks (or the selected `task`), the cameras and the names of the numbers."""
    info = read_info(folder)
    observation_keys, action_key = _keys(info, folder)
    names: list[str] = []
    for key in (*observation_keys, action_key):
        feature = info.features[key]
        numbers = range(int(np.prod(feature.shape)))
        labels = feature.names if feature.names and len(feature.names) == len(numbers) else tuple(map(str, numbers))
        names += [f"{key.split('.')[-1]} {label}" for label in labels]
    tasks = task or ", ".join(sorted(set(read_tasks(folder, info).values())))
    cameras = tuple(key.removeprefix(f"{IMAGES}.") for key, feature in info.features.items() if feature.is_picture)
    return Description(f"{info.robot_type or '?'}: {tasks}", info.fps, cameras, tuple(names))


def pictures(recording: Recording, camera: Camera, steps: Sequence[Sequence[int]]) -> Iterator[NDArray[np.uint8]]:
    """Yield (t, height, width, 3) of these steps for each of the first episodes, cropped and resized to the camera.

    InputError if the recording has no such camera.
    """
    folder, key = recording.path, f"{IMAGES}.{camera.name}"
    if key not in recording.picture_keys:
        existing = ", ".join(recording.picture_keys) or "no images"
        raise InputError(f"{folder}: policy.cameras names {camera.name}, but the recording has {existing}")
    for index, steps_of_episode in enumerate(steps):
        yield recording.pictures(index, key, steps_of_episode, fit=camera.fitted)


def save(
    folder: Path,
    observations: Sequence[NDArray],
    actions: Sequence[NDArray],
    *,
    env: str,
    fps: float = 20.0,
    pictures: Mapping[str, Sequence[NDArray[np.uint8]]] = MappingProxyType({}),
) -> None:
    """Append episodes of an environment, (t, o) and (t, a) each, to a recording; `pictures` (t, h, w, 3) by camera."""
    features = {
        STATE: Feature("float32", (observations[0].shape[1],)),
        ACTION: Feature("float32", (actions[0].shape[1],), units=SCALED),
    }
    images_by_key = {f"{IMAGES}.{name}": images for name, images in pictures.items()}
    for key, images in images_by_key.items():
        features[key] = Feature("video", images[0].shape[1:], ("height", "width", "channels"))
    episodes = [
        NewEpisode(env, {STATE: states, ACTION: done}, {key: list(of[index]) for key, of in images_by_key.items()})
        for index, (states, done) in enumerate(zip(observations, actions, strict=True))
    ]
    append(folder, Info(fps, features, ENVIRONMENT_ROBOT), episodes)


def _keys(info: Info, folder: Path) -> tuple[list[str], str]:
    """Return the keys of the observation features and of the action feature."""
    if TERCET_OBSERVATION in info.features:
        return [TERCET_OBSERVATION], TERCET_ACTION
    observation_keys = [key for key in (STATE, ENVIRONMENT) if key in info.features]
    if not observation_keys:
        raise InputError(f"{folder}: has neither {STATE} nor {ENVIRONMENT}, so there is nothing to learn from")
    return observation_keys, ACTION


def _padded(rows: Sequence[NDArray]) -> NDArray:
    """Stack to (n, t, size), padded with zeros."""
    padded = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), np.float32)
    with np.errstate(over="ignore"):  # the caller refuses infinite numbers
        for row, values in zip(padded, rows, strict=True):
            row[: len(values)] = values
    return padded
