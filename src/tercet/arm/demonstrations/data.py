"""Demonstrations: of the scripted expert, or from a recording."""

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
from tercet.arm.play.agent import camera_view
from tercet.arm.play.episodes import ActionFunction, play_rows
from tercet.arm.policies.roles import Sizes
from tercet.arm.sim import units
from tercet.arm.sim.cameras import Camera, cameras_of
from tercet.arm.sim.env import ArmEnv
from tercet.arm.sim.foreign.environment import ForeignEnv
from tercet.config.arm import ArmConfig, BcConfig
from tercet.config.functions import load_function, named_error
from tercet.errors import FailedError, InputError, reading
from tercet.runs.machine import spare_memory
from tercet.train import chance

EXPERT, NONE = "expert", "none"
_ARRAYS = ("observations", "actions", "lengths")


@dataclass(frozen=True)
class Demonstrations:
    """What was seen and what is to be done there; one row a demonstration, `mask` False behind its end.

    `actions` are clean where what was done had noise, and in [-1, 1]; `recorded_in` says in which units they were.
    `pictures` are those of each camera.
    """

    observations: Float[Tensor, "n t o"]
    actions: Float[Tensor, "n t a"]
    mask: Bool[Tensor, "n t"]
    success: Bool[Tensor, " n"] | None = None
    pictures: tuple[UInt8[Tensor, "n t _ _ 3"], ...] = ()
    recorded_in: units.Units = units.SCALED
    num_missing: int = 0  # frames that were lost within demonstrations, as far as a recording's times tell

    def __len__(self) -> int:
        return len(self.observations)


def is_scripted(source: str) -> bool:
    """Whether bc.demonstrations names a scripted expert: the environment's, or a function of the user's."""
    return source == EXPERT or (re.fullmatch(r"[\w.]+:\w+", source) is not None and not Path(source).exists())


def demonstrate(env: VectorEnv, config: ArmConfig) -> Demonstrations:
    """The scripted expert with noise on what it does; what is learned is what it meant to do (Laskey et al. 2017)."""
    expert, num = _expert(env, config), config.bc.num_demonstrations
    noise = torch.randn(
        config.horizon,
        num,
        cast(tuple[int, ...], env.single_action_space.shape)[0],
        generator=chance.generator(config.seed, "demonstrations"),
    )
    meant = torch.zeros(noise.shape)
    view, looks = camera_view(env, cameras_of(config.policy)), list[tuple[Tensor, ...]]()

    def agent_of(rows: slice) -> ActionFunction:
        everywhere = torch.ones(rows.stop - rows.start, dtype=torch.bool)

        def act(step: int, observations: Tensor, fresh: Tensor) -> Tensor:
            meant[step, rows] = torch.from_numpy(expert(observations.numpy()))
            looks.append(view(everywhere))
            return (meant[step, rows] + config.bc.noise * noise[step, rows]).clamp(-1.0, 1.0)

        return act

    seed = chance.integer(config.seed, "demonstrations")
    episodes = play_rows(env, agent_of, num, horizon=config.horizon, seed=seed)
    mask = torch.arange(config.horizon) <= episodes.first_ends()[:, None]
    pictures = tuple(torch.stack(seen, 1) for seen in zip(*looks, strict=True))
    return Demonstrations(episodes.observations, meant.transpose(0, 1), mask, episodes.succeeded(), pictures)


def _expert(env: VectorEnv, config: ArmConfig) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """From what is seen now, (n, o), to what the expert does, (n, a) in [-1, 1]."""
    source = config.bc.demonstrations
    if source == EXPERT:
        if not isinstance(env, ArmEnv | ForeignEnv):
            raise InputError(f"bc.demonstrations: {config.env} has no scripted expert; give a recording, or `none`")
        return lambda seen: env.expert_actions()[: len(seen)]
    function, size = load_function(source), env.action_space.shape[1:] if env.action_space.shape else ()

    def act(seen: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            actions = np.stack([np.asarray(function(row), np.float64) for row in seen.astype(np.float64)])
        except (Exception, SystemExit) as error:  # whatever the user's own function raises; it may call sys.exit
            raise FailedError(f"bc.demonstrations: the expert {source} raised {named_error(error)}") from error
        if actions.shape[1:] != size or not np.isfinite(actions).all():
            wanted = f"needed is one of {size}, finite, in the environment's own units"
            raise FailedError(f"bc.demonstrations: the expert {source} gave an action {actions[0].tolist()}; {wanted}")
        ours = env.scaled(actions) if isinstance(env, ForeignEnv) else np.clip(actions, -1.0, 1.0)
        return ours.astype(np.float32)

    return act


def save_recording(file: Path, demonstrations: Demonstrations, *, env: str) -> None:
    """An .npz file: `observations` (n, t, o), `actions` (n, t, a) and their units, `lengths` (n,), the arm's `env`."""
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
) -> Demonstrations:
    """The first demonstrations of a recording; InputError where it is damaged or of another arm or task.

    Actions come in [-1, 1], whichever of the two units of `arm/sim/units.py` they were recorded in; `bounds` are the
    environment's own, [-1, 1] unless they are given. With `cameras`, their pictures as well.
    """
    num = config.num_demonstrations
    found = read_arrays(file, most=num, config=config)
    observations, actions, lengths = (found[name] for name in _ARRAYS)
    if "env" in found and str(found["env"]) != env:
        raise InputError(f"{file}: recorded in {str(found['env'])!r}, but this run's env is {env!r}")
    if (observations.shape[2], actions.shape[2]) != (sizes.observation, sizes.action):
        raise InputError(
            f"{file}: of another robot: {observations.shape[2]} observations and {actions.shape[2]} actions a step, "
            f"where {env} has {sizes.observation} and {sizes.action}"
        )
    if len(observations) < num:
        raise InputError(f"{file}: holds {len(observations)} demonstrations; lower bc.num_demonstrations={num}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        seen = [rows[:n].astype(np.float32) for rows, n in zip(observations[:num], lengths[:num], strict=True)]
    done = [rows[:length] for rows, length in zip(actions[:num], lengths[:num], strict=True)]
    if not all(np.isfinite(rows).all() for rows in (*seen, *done)):
        raise InputError(f"{file}: holds numbers that are not finite in float32; cut or record these episodes again")
    stated = str(found.get("action_units", "")) if config.action_units == "stated" else config.action_units
    whole, recorded_in = units.converted(
        np.concatenate(done), stated, bounds or Box(-1.0, 1.0, (sizes.action,)), place=str(file)
    )
    done = np.split(whole, np.cumsum(lengths[:num])[:-1])
    steps = idle.moving(seen) if config.cut_idle else [np.arange(len(rows)) for rows in seen]
    mask = torch.arange(max(map(len, steps))) < torch.tensor([len(some) for some in steps])[:, None]
    return Demonstrations(
        _padded([rows[some] for rows, some in zip(seen, steps, strict=True)], mask),
        _padded([rows[some] for rows, some in zip(done, steps, strict=True)], mask),
        mask,
        pictures=_pictures(file, config, cameras, steps),
        recorded_in=recorded_in,
        num_missing=int(found["missing"][:num].sum()) if "missing" in found else 0,
    )


def _padded(rows: Sequence[np.ndarray], mask: Bool[Tensor, "n t"]) -> Float[Tensor, "n t _"]:
    """Zeros behind the end of each."""
    whole = torch.zeros(*mask.shape, rows[0].shape[1])
    whole[mask] = torch.from_numpy(np.concatenate(rows).astype(np.float32))
    return whole


def _pictures(
    file: Path, config: BcConfig, cameras: Sequence[Camera], steps: Sequence[np.ndarray]
) -> tuple[Tensor, ...]:
    """(n, t, height, width, 3) of each camera at these steps, black behind the end of a demonstration."""
    if not cameras:
        return ()
    if not file.is_dir():
        raise InputError(f"{file}: an .npz recording holds no pictures; give a folder in LeRobot's format")
    recording, horizon = recordings.chosen(file, task=config.task, whole=config.whole_episodes), max(map(len, steps))
    found = [torch.zeros(len(steps), horizon, one.height, one.width, 3, dtype=torch.uint8) for one in cameras]
    for whole, camera in zip(found, cameras, strict=True):
        for index, seen in enumerate(recordings.pictures(recording, camera, [some.tolist() for some in steps])):
            whole[index, : len(seen)] = torch.from_numpy(seen)
    return tuple(found)


def read_arrays(file: Path, *, config: BcConfig, most: int | None = None) -> dict[str, np.ndarray]:
    """`observations` (n, t, o), `actions` (n, t, a), `lengths` (n,), `env` and `action_units` if they are known.

    Of a folder in LeRobot's format the first `most` demonstrations; InputError where it is damaged, or holds none.
    """
    with reading(file):
        if file.is_dir():
            found = recordings.arrays(file, most=most, task=config.task, whole=config.whole_episodes)
        else:
            found = _npz(file)
    observations, actions, lengths = (found[name] for name in _ARRAYS)
    if observations.ndim != 3 or actions.ndim != 3 or observations.shape[:2] != actions.shape[:2]:
        raise InputError(
            f"{file}: observations {observations.shape} and actions {actions.shape}; they must be "
            "(demonstrations, steps, size), short ones filled up with zeros to the longest"
        )
    if odd := next((name for name in _ARRAYS if found[name].dtype.kind not in "iuf"), None):
        raise InputError(f"{file}: {odd} holds {found[odd].dtype}, not numbers; write it as float32")
    if not len(observations):
        raise InputError(f"{file}: holds no demonstration; record one")
    most_steps = observations.shape[1]
    fit = lengths.shape == observations.shape[:1]
    if not fit or not ((lengths > 0) & (lengths <= most_steps) & (lengths == np.floor(lengths))).all():
        raise InputError(f"{file}: lengths must be one whole number a demonstration, from 1 to {most_steps}")
    return found | {"lengths": lengths.astype(np.int64)}


def _npz(file: Path) -> dict[str, np.ndarray]:
    if file.suffix.lower() not in ("", ".npz") and file.exists():
        raise InputError(
            f"{file}: recordings are .npz files and folders in LeRobot's format; write this one's observations, "
            "actions and lengths with numpy.savez (docs/arm.md shows how)"
        )
    if not file.is_file():
        raise InputError(
            f"bc.demonstrations: no file {file}; give `expert`, `none`, or an .npz recording "
            "(or a folder in LeRobot's format)"
        )
    try:
        with np.load(file, allow_pickle=False) as archive:
            _check_archive(file, archive)
            found = {name: archive[name] for name in archive.files}
    except InputError:
        raise
    except Exception as error:  # numpy, zipfile and zlib have a dozen kinds for damaged bytes
        if "allow_pickle" in str(error):
            raise InputError(
                f"{file}: holds arrays of objects, as demonstrations of unequal length become; fill the short ones up "
                "with zeros to (demonstrations, steps, size), and give `lengths` (docs/arm.md shows how)"
            ) from error
        raise InputError(f"{file}: cut off, or no .npz recording ({error}); record it again") from error
    missing = [name for name in _ARRAYS if name not in found]
    if missing:
        raise InputError(f"{file}: lacks {', '.join(missing)}; a recording holds {', '.join(_ARRAYS)}")
    return found


def _check_archive(file: Path, archive: object) -> None:
    """InputError where the arrays need more memory than there is, or where two have the same name."""
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise InputError(f"{file}: holds one array; write observations, actions and lengths with numpy.savez")
    if twice := [name for number, name in enumerate(archive.files) if name in archive.files[:number]]:
        raise InputError(f"{file}: two arrays have the name {twice[0]!r}; write the file again with one of them")
    members = archive.zip.infolist() if archive.zip else []  # it is open: None stands for closed
    if sum(member.file_size for member in members) > spare_memory() // 2:
        raise InputError(f"{file}: needs more than half of this machine's memory; give a part of the recording")
