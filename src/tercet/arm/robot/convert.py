"""Convert recordings that LeRobot made of an SO-100 or SO-101 into demonstrations of a built-in task.

Such a recording has joints and images, and no cube. What the arm measures on itself follows from the joints; the rest
of an observation is left out, so that only a policy with `policy.sees=itself` learns from it. The actions are those of
a policy whose target follows the recorded commands as fast as its actions allow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercet.arm.demonstrations.recordings import TERCET_ACTION, TERCET_OBSERVATION
from tercet.arm.lerobot.hub import local_folder
from tercet.arm.lerobot.layout import ACTION, IMAGES, STATE, Feature, Info
from tercet.arm.lerobot.read import Episode, Recording, open_recording
from tercet.arm.lerobot.write import NewEpisode, append
from tercet.arm.robot.calibration import KEYS, to_joints, to_values
from tercet.arm.robot.pilot import grip_to
from tercet.arm.sim import kinematics
from tercet.arm.sim.env import ACTION as MOVES
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.physics import STEP_SECONDS
from tercet.arm.sim.readings import Readings
from tercet.arm.sim.tasks.builtin import check_on_an_arm
from tercet.arm.sim.tasks.task import Task
from tercet.arm.sim.units import SCALED
from tercet.arm.sim.workspace import STEPS, within_limits
from tercet.config.robot import RobotConfig
from tercet.errors import InputError
from tercet.runs.atomic import replace_folder

_COUNT = len(JOINTS)
_FPS = round(1 / STEP_SECONDS, 6)
_NEAR = 0.01  # m; a target farther from the recorded command does not show what the person did
_TILTED = np.radians(20.0)
_MOST_AWAY = 0.5  # a recording with more such steps was made in other units, or somewhere else


@dataclass(frozen=True)
class Converted:
    """One episode in steps of 50 ms: what is written, the source's frame at each step, and what an action cannot do."""

    columns: Mapping[str, NDArray]
    frames: Sequence[int]
    away: NDArray[np.bool_]  # the target is not where the person led the hand
    tilted: NDArray[np.bool_]  # the hand did not point down as a policy's would


def run(
    source: str, folder: Path, task: Task, config: RobotConfig, *, only: str = "", say: Callable[[str], None]
) -> int:
    """Convert a folder or hub id to a new recording in `folder`. Return the number of its episodes.

    `only` selects one of several tasks of the source. `config.cameras` maps new names of cameras to those of the
    source; if it is empty, all keep their names. Raise InputError if the source cannot be converted.
    """
    check_on_an_arm(task)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: exists; give a new folder")
    recording = open_recording(local_folder(source, kind="dataset")).of_task(only, option="--only ")
    cameras = _cameras(recording, config)
    info = _info(recording, task, cameras)
    episodes = recording.episodes([STATE, ACTION])
    converted = [of_episode(recording, episode, task, config) for episode in episodes]
    missing = sum(episode.num_missing(recording.info.fps) for episode in episodes)
    for line in _findings(recording, converted, missing):
        say(line)

    def write(partial: Path) -> None:
        for index, one in enumerate(converted):
            if one.frames:
                pictures = {key: list(recording.pictures(index, old, one.frames)) for key, old in cameras.items()}
                append(partial, info, [NewEpisode(task.name, one.columns, pictures)])

    replace_folder(folder, write)
    return sum(bool(one.frames) for one in converted)


def of_episode(recording: Recording, episode: Episode, task: Task, config: RobotConfig) -> Converted:
    """Convert the numbers of an episode. Between two frames, joints are interpolated."""
    times = np.arange(0.0, episode.timestamps[-1] - episode.timestamps[0] + 1e-6, STEP_SECONDS)
    at = times + episode.timestamps[0]
    measured, commands = (
        _joints(recording, key, _interpolated(episode, episode.columns[key], at), config) for key in (STATE, ACTION)
    )
    led = _hands(commands)
    before, actions = _followed(led)
    frames = np.abs(episode.timestamps[:, None] - at).argmin(0).tolist()
    target = before + STEPS * actions
    away = np.linalg.norm(target[:, :3] - led[:, :3], axis=1) > _NEAR
    upright = kinematics.inverse(within_limits(led)[:, :3], led[:, 3])
    columns = {
        STATE: _values(measured, config),
        ACTION: _values(commands, config),
        TERCET_OBSERVATION: _own(task, measured, before),
        TERCET_ACTION: actions,
    }
    # the first step has no command before it
    return Converted(
        {key: values[1:] for key, values in columns.items()},
        frames[1:],
        away[1:],
        np.abs(_tilt(commands) - _tilt(upright))[1:] > _TILTED,
    )


def _interpolated(episode: Episode, values: NDArray, at: Array) -> Array:
    return np.stack([np.interp(at, episode.timestamps, column) for column in values.T.astype(np.float64)], 1)


def _joints(recording: Recording, key: str, values: Array, config: RobotConfig) -> Array:
    """Convert rows of a feature to joints (t, 6)."""
    names = [_plain(name) for name in recording.info.features[key].names or ()]
    if sorted(names) != sorted(KEYS):
        raise InputError(
            f"{recording.path}: {key} holds {', '.join(names) or 'numbers without names'}, not the six joints of an "
            f"SO-100 or SO-101 ({', '.join(KEYS)})"
        )
    return np.stack([to_joints(dict(zip(names, row.tolist(), strict=True)), config.calibration) for row in values])


def _plain(name: str) -> str:
    """Return the present name of a joint; LeRobot once wrote main_shoulder_pan for shoulder_pan.pos."""
    return f"{name.removeprefix('main_').removesuffix('.pos')}.pos"


def _hands(joints: Array) -> Array:
    """Return x, y, z, turn and opening (t, 5) of joints (t, 6)."""
    hand = kinematics.forward(joints[:, :_COUNT])
    return np.column_stack([hand.tip, hand.turn, joints[:, _COUNT]])


def _tilt(joints: Array) -> Array:
    """Return the angle (t,) of the hand from the vertical."""
    return joints[:, 1:4].sum(1) - np.pi / 2


def _followed(led: Array) -> tuple[Array, Array]:
    """Return the target before each step and the action, (t, 5) each, that follow the hands `led` (t, 5)."""
    target, before, actions = within_limits(led[:1])[0], np.empty_like(led), np.empty_like(led)
    for step, hand in enumerate(within_limits(led)):
        before[step], actions[step] = target, np.clip((hand - target) / STEPS, -1.0, 1.0)
        target = target + STEPS * actions[step]
    actions[:, -1] = grip_to(led[:, -1], actions[:, -1])
    return before, actions


def _own(task: Task, measured: Array, before: Array) -> NDArray[np.float32]:
    """Return the entries of an observation that the arm measures on itself."""
    hands, nothing = _hands(measured), np.zeros((len(measured), 3))
    now = Readings(
        tip=hands[:, :3],
        aside=nothing,
        turn=hands[:, 3],
        opening=hands[:, 4],
        target=before[:, :3],
        target_turn=before[:, 3],
        target_opening=before[:, 4],
        cube=nothing,
        cube_turn=nothing[:, 0],
        cube_velocity=nothing,
        goal=nothing,
    )
    return task.observation.build(now)[:, list(task.observation.robot)]


def _values(joints: Array, config: RobotConfig) -> Array:
    return np.array([list(to_values(row, config.calibration).values()) for row in joints])


def _cameras(recording: Recording, config: RobotConfig) -> dict[str, str]:
    """Return the features of the source's cameras by their new features."""
    wanted = config.cameras or {key.removeprefix(f"{IMAGES}."): key for key in recording.picture_keys}
    cameras = {f"{IMAGES}.{new}": f"{IMAGES}.{old.removeprefix(f'{IMAGES}.')}" for new, old in wanted.items()}
    for old in cameras.values():
        if old not in recording.picture_keys:
            existing = ", ".join(recording.picture_keys) or "no images"
            raise InputError(f"{recording.path}: cameras names {old}, but the recording has {existing}")
    return cameras


def _info(recording: Recording, task: Task, cameras: Mapping[str, str]) -> Info:
    for key in (STATE, ACTION):
        if key not in recording.info.features:
            raise InputError(f"{recording.path}: has no {key}; it is not a recording of an arm")
    own = [name for name, robot in zip(task.observation.names, task.observation.robot, strict=True) if robot]
    numbers = {
        STATE: Feature("float32", (len(KEYS),), KEYS),
        ACTION: Feature("float32", (len(KEYS),), KEYS),
        TERCET_OBSERVATION: Feature("float32", (len(own),), tuple(own)),
        TERCET_ACTION: Feature("float32", (len(MOVES),), MOVES, units=SCALED),
    }
    features = recording.info.features
    pictures = {
        new: Feature("video", features[old].shape, ("height", "width", "channels")) for new, old in cameras.items()
    }
    return Info(_FPS, {**numbers, **pictures}, recording.info.robot_type)


def _findings(recording: Recording, converted: Sequence[Converted], missing: int) -> list[str]:
    """Say what of the recording a policy cannot do. InputError if that is most of it."""
    if not any(one.frames for one in converted):
        raise InputError(f"{recording.path}: no episode is as long as two steps of {1000 * STEP_SECONDS:.0f} ms")
    away, tilted = (np.concatenate([getattr(one, name) for one in converted]).mean() for name in ("away", "tilted"))
    if away > _MOST_AWAY:
        raise InputError(
            f"{recording.path}: in {away:.0%} of the steps the hand is outside of the workspace; check the units of "
            "the joints (give the robot's calibration with --robot), or record within the workspace of docs/arm.md"
        )
    lines = []
    if away > 0:
        lines.append(f"in {away:.0%} of the steps the hand was faster than a policy can be, or outside its workspace")
    if tilted > 0:
        lines.append(
            f"in {tilted:.0%} of the steps the hand was tilted by more than 20 degrees, which a policy cannot repeat"
        )
    if short := sum(not one.frames for one in converted):
        lines.append(f"{short} episodes are shorter than two steps of 50 ms and are left out")
    if missing:
        lines.append(f"{missing} frames are missing inside of demonstrations; joints are interpolated over each gap")
    return lines
