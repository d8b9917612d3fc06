"""Demonstrations of a scripted expert or from a recording."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from tercet.arm.demonstrations import idle, recordings
from tercet.arm.lerobot.hub import local_folder
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.agent import camera_view
from tercet.arm.play.episodes import Episodes, play_turn, turns
from tercet.arm.sim import units
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.env import ArmEnv
from tercet.arm.sim.foreign.environment import ForeignEnv
from tercet.config.arm import BcConfig
from tercet.config.functions import load_function, named_error
from tercet.errors import FailedError, InputError, reading
from tercet.runs.machine import spare_memory
from tercet.train import chance
from tercet.train.parallel import dealt

EXPERT, NONE = "expert", "none"
_ARRAYS = ("observations", "actions", "lengths")


@dataclass(frozen=True)
class Demonstrations:
    """Observations and the actions to learn; one row per demonstration, `mask` False after its end.

    `actions` are in [-1, 1] and without the noise that was executed; `recorded_in` are the units of the recording.
    `pictures` are per camera.
    """

    observations: Float[Tensor, "n t o"]
    actions: Float[Tensor, "n t a"]
    mask: Bool[Tensor, "n t"]
    success: Bool[Tensor, " n"] | None = None
    pictures: tuple[UInt8[Tensor, "n t _ _ 3"], ...] = ()
    recorded_in: units.Units = units.SCALED
    num_missing: int = 0  # frames lost within demonstrations, by the recorded times
    absent: Bool[Tensor, " o"] | None = None  # entries of an observation that the recording lacks, which are 0

    def __len__(self) -> int:
        return len(self.observations)


def is_scripted(source: str) -> bool:
    """Return True if bc.demonstrations names a scripted expert: the environment's or a user's function."""
    return source == EXPERT or (re.fullmatch(r"[\w.]+:\w+", source) is not None and not Path(source).exists())


def recording_of(config: BcConfig) -> Path:
    """Return the file or folder of the recording that bc.demonstrations names; that of a hub id is downloaded."""
    return local_folder(config.demonstrations, kind="dataset")


def play_expert(
    env: VectorEnv, config: BcConfig, *, horizon: int, seed: int, cameras: Sequence[Camera] = ()
) -> Demonstrations:
    """Play the scripted expert with noise on its actions; the actions before noise are learned (Laskey et al. 2017)."""
    expert, num = _expert(env, config.demonstrations), config.num_demonstrations
    size = cast(tuple[int, ...], env.single_action_space.shape)[0]
    noise = torch.randn(horizon, num, size, generator=chance.generator(seed, "demonstrations"))
    view, starts_seed = camera_view(env, cameras), chance.integer(seed, "demonstrations")

    def turn(rows: slice) -> tuple[Episodes, Tensor, tuple[Tensor, ...]]:
        """Return the episodes, the expert's actions and its images."""
        every_row = torch.ones(rows.stop - rows.start, dtype=torch.bool)
        expert_actions: list[Tensor] = []
        images_by_step: list[tuple[Tensor, ...]] = []

        def act(step: int, observations: Tensor, fresh: Tensor) -> Tensor:
            expert_actions.append(torch.from_numpy(expert(observations.numpy())).float())
            images_by_step.append(view(every_row))
            return (expert_actions[-1] + config.noise * noise[step, rows]).clamp(-1.0, 1.0)

        episodes = play_turn(env, act, rows, horizon=horizon, seed=starts_seed)
        pictures = tuple(torch.stack(images, 1) for images in zip(*images_by_step, strict=True))
        return episodes, torch.stack(expert_actions, 1), pictures

    parts = dealt(turns(num, env.num_envs), turn)
    episodes = Episodes.joined([part for part, _, _ in parts])
    mask = torch.arange(horizon) <= episodes.first_ends()[:, None]
    pictures = parts[0][2]  # only the built-in arm has cameras, and it plays all demonstrations in one turn
    actions = torch.cat([of_expert for _, of_expert, _ in parts])
    return Demonstrations(episodes.observations, actions, mask, episodes.succeeded(), pictures)


def _expert(env: VectorEnv, source: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return a function from observations (n, o) to the expert's actions (n, a) in [-1, 1]."""
    if source == EXPERT:
        if not isinstance(env, ArmEnv | ForeignEnv):
            raise InputError("bc.demonstrations: this environment has no scripted expert; give a recording, or `none`")
        return lambda observations: env.expert_actions()[: len(observations)]
    function, size = load_function(source), env.action_space.shape[1:] if env.action_space.shape else ()

    def act(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            actions = np.stack([np.asarray(function(row), np.float64) for row in observations.astype(np.float64)])
        except (Exception, SystemExit) as error:  # a user's function can raise anything, and may call sys.exit
            raise FailedError(f"bc.demonstrations: the expert {source} raised {named_error(error)}") from error
        if actions.shape[1:] != size or not np.isfinite(actions).all():
            wanted = f"it must return one of shape {size}, finite, in the environment's own units"
            raise FailedError(f"bc.demonstrations: the expert {source} gave an action {actions[0].tolist()}; {wanted}")
        scaled = env.scaled(actions) if isinstance(env, ForeignEnv) else np.clip(actions, -1.0, 1.0)
        return scaled.astype(np.float32)

    return act


def save_recording(file: Path, demonstrations: Demonstrations, *, env: str) -> None:
    """Write an .npz file: `observations` (n, t, o), `actions` (n, t, a) and their units, `lengths` (n,), and `env`."""
    np.savez_compressed(
        file,
        observations=demonstrations.observations.numpy(),
        actions=demonstrations.actions.numpy(),
        lengths=demonstrations.mask.sum(1).numpy(),
        env=np.array(env),
        action_units=np.array(units.SCALED),
    )


def load_recording(
    file: Path,
    sizes: Sizes,
    config: BcConfig,
    *,
    env: str,
    bounds: Box | None = None,
    cameras: Sequence[Camera] = (),
    sees_itself: bool = False,
) -> Demonstrations:
    """Load the first demonstrations of a recording; InputError if it is damaged or of another arm or task.

    Actions are returned in [-1, 1], from either of the two units of `arm/sim/units.py`. `bounds` are those of the
    environment's own actions, by default [-1, 1]. With `cameras`, their images are loaded too. A recording that holds
    only what the arm measures on itself is for a policy that `sees_itself`.
    """
    num = config.num_demonstrations
    arrays = read_arrays(file, max_num=num, config=config)
    observations, actions, lengths = (arrays[name] for name in _ARRAYS)
    if "env" in arrays and str(arrays["env"]) != env:
        raise InputError(f"{file}: recorded in {str(arrays['env'])!r}, but this run's env is {env!r}")
    absent = None
    if "env" in arrays and 0 < observations.shape[2] == sum(sizes.robot) < sizes.observation:
        if not sees_itself:
            raise InputError(
                f"{file}: holds what the arm measures on itself, without cube and goal; learn from it with "
                "policy.kind=act policy.sees=itself and its cameras, policy.cameras=[...]"
            )
        absent = ~torch.tensor(sizes.robot)
        observations = _spread(observations, sizes)
    if (observations.shape[2], actions.shape[2]) != (sizes.observation, sizes.action):
        raise InputError(
            f"{file}: of another robot: {observations.shape[2]} observations and {actions.shape[2]} actions per step, "
            f"but {env} has {sizes.observation} and {sizes.action}{_how_to_convert(file, observations, actions)}"
        )
    if len(observations) < num:
        raise InputError(f"{file}: holds {len(observations)} demonstrations; lower bc.num_demonstrations={num}")
    with np.errstate(over="ignore"):  # infinite numbers are refused below
        states = [rows[:n].astype(np.float32) for rows, n in zip(observations[:num], lengths[:num], strict=True)]
    commands = [rows[:length] for rows, length in zip(actions[:num], lengths[:num], strict=True)]
    if not all(np.isfinite(rows).all() for rows in (*states, *commands)):
        raise InputError(f"{file}: holds numbers that are not finite in float32; cut or record these episodes again")
    stated = str(arrays.get("action_units", "")) if config.action_units == "stated" else config.action_units
    scaled, recorded_in = units.converted(
        np.concatenate(commands), stated, bounds or Box(-1.0, 1.0, (sizes.action,)), source=str(file)
    )
    commands = np.split(scaled, np.cumsum(lengths[:num])[:-1])
    steps = idle.moving_steps(states) if config.cut_idle else [np.arange(len(rows)) for rows in states]
    mask = torch.arange(max(map(len, steps))) < torch.tensor([len(one) for one in steps])[:, None]
    return Demonstrations(
        _padded([rows[one] for rows, one in zip(states, steps, strict=True)], mask),
        _padded([rows[one] for rows, one in zip(commands, steps, strict=True)], mask),
        mask,
        pictures=_pictures(file, config, cameras, steps),
        recorded_in=recorded_in,
        num_missing=int(arrays["missing"][:num].sum()) if "missing" in arrays else 0,
        absent=absent,
    )


def _spread(own: NDArray, sizes: Sizes) -> NDArray:
    """Return whole observations, 0 where the arm does not measure them on itself."""
    whole = np.zeros((*own.shape[:2], sizes.observation), np.float32)
    whole[..., list(sizes.robot)] = own
    return whole


def _how_to_convert(file: Path, observations: NDArray, actions: NDArray) -> str:
    """Name the command for a recording that may be LeRobot's of an SO-101: six joints, and six commands."""
    joints = file.is_dir() and observations.shape[2] == actions.shape[2] == 6
    return f"; convert a recording of an SO-101 first: tercet arm convert {file} DIR" if joints else ""


def _padded(rows: Sequence[np.ndarray], mask: Bool[Tensor, "n t"]) -> Float[Tensor, "n t _"]:
    """Stack the rows, padded with zeros."""
    padded = torch.zeros(*mask.shape, rows[0].shape[1])
    padded[mask] = torch.from_numpy(np.concatenate(rows).astype(np.float32))
    return padded


def _pictures(
    file: Path, config: BcConfig, cameras: Sequence[Camera], steps: Sequence[np.ndarray]
) -> tuple[Tensor, ...]:
    """Load (n, t, height, width, 3) per camera at these steps, black after the end of a demonstration."""
    if not cameras:
        return ()
    if not file.is_dir():
        raise InputError(f"{file}: an .npz recording holds no images; give a folder in LeRobot's format")
    recording = recordings.open_selected(file, task=config.task, complete_only=config.whole_episodes)
    horizon = max(map(len, steps))
    loaded = [torch.zeros(len(steps), horizon, one.height, one.width, 3, dtype=torch.uint8) for one in cameras]
    for padded, camera in zip(loaded, cameras, strict=True):
        for index, images in enumerate(recordings.pictures(recording, camera, [one.tolist() for one in steps])):
            padded[index, : len(images)] = torch.from_numpy(images)
    return tuple(loaded)


def read_arrays(file: Path, *, config: BcConfig, max_num: int | None = None) -> dict[str, np.ndarray]:
    """Read `observations` (n, t, o), `actions` (n, t, a), `lengths` (n,), and `env` and `action_units` if known.

    From a folder in LeRobot's format, only the first `max_num` demonstrations. InputError if it is damaged or empty.
    """
    with reading(file):
        if file.is_dir():
            arrays = recordings.read_arrays(
                file, max_num=max_num, task=config.task, complete_only=config.whole_episodes
            )
        else:
            arrays = _npz(file)
    observations, actions, lengths = (arrays[name] for name in _ARRAYS)
    if observations.ndim != 3 or actions.ndim != 3 or observations.shape[:2] != actions.shape[:2]:
        raise InputError(
            f"{file}: observations {observations.shape} and actions {actions.shape}; they must be "
            "(demonstrations, steps, size), short ones padded with zeros to the longest"
        )
    if wrong := next((name for name in _ARRAYS if arrays[name].dtype.kind not in "iuf"), None):
        raise InputError(f"{file}: {wrong} holds {arrays[wrong].dtype}, not numbers; write it as float32")
    if not len(observations):
        raise InputError(f"{file}: contains no demonstrations; record one")
    horizon = observations.shape[1]
    fit = lengths.shape == observations.shape[:1]
    if not fit or not ((lengths > 0) & (lengths <= horizon) & (lengths == np.floor(lengths))).all():
        raise InputError(f"{file}: lengths must be one whole number per demonstration, from 1 to {horizon}")
    return arrays | {"lengths": lengths.astype(np.int64)}


def _npz(file: Path) -> dict[str, np.ndarray]:
    if file.suffix.lower() not in ("", ".npz") and file.exists():
        raise InputError(
            f"{file}: recordings are .npz files and folders in LeRobot's format; write this one's observations, "
            "actions and lengths with numpy.savez (docs/arm.md shows how)"
        )
    if not file.is_file():
        raise InputError(
            f"bc.demonstrations: no file {file}; give `expert`, `none`, or an .npz recording "
            "(or a folder in LeRobot's format, or its hub id)"
        )
    try:
        with np.load(file, allow_pickle=False) as archive:
            _check_archive(file, archive)
            arrays = {name: archive[name] for name in archive.files}
    except InputError:
        raise
    except Exception as error:  # damaged bytes raise many types of numpy, zipfile and zlib
        if "allow_pickle" in str(error):
            raise InputError(
                f"{file}: holds object arrays, which numpy makes from demonstrations of unequal length; pad the "
                "short ones with zeros to (demonstrations, steps, size), and give `lengths` (docs/arm.md shows how)"
            ) from error
        raise InputError(f"{file}: cut off, or not an .npz recording ({error}); record it again") from error
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise InputError(f"{file}: lacks {', '.join(missing)}; a recording holds {', '.join(_ARRAYS)}")
    return arrays


def _check_archive(file: Path, archive: object) -> None:
    """Raise InputError if the arrays need too much memory, or two have the same name."""
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise InputError(f"{file}: holds one array; write observations, actions and lengths with numpy.savez")
    if repeated := [name for number, name in enumerate(archive.files) if name in archive.files[:number]]:
        raise InputError(f"{file}: two arrays have the name {repeated[0]!r}; write the file again with one of them")
    members = archive.zip.infolist() if archive.zip else []  # `zip` is None only for a closed archive
    if sum(member.file_size for member in members) > spare_memory() // 2:
        raise InputError(f"{file}: needs more than half of this machine's memory; give a part of the recording")
