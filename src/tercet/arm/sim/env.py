"""The built-in arm as a vector environment of Gymnasium: `physics` and one of the `tasks`, at 20 steps per second."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from tercet.arm.sim import kinematics, randomise, scene
from tercet.arm.sim.arms import PRIMITIVE, ArmModel
from tercet.arm.sim.cameras import Camera, Picture
from tercet.arm.sim.caption import captioned
from tercet.arm.sim.foreign.environment import ForeignEnv
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.motion import Limits, Motion, at_rest, toward
from tercet.arm.sim.observations import INSTRUCTION
from tercet.arm.sim.physics import CUBE_POSITIONS, CUBE_VELOCITIES, STEP_SECONDS, Physics
from tercet.arm.sim.randomise import Randomisation
from tercet.arm.sim.readings import CubeReadings, Readings, chosen, quarter
from tercet.arm.sim.render import Studio
from tercet.arm.sim.scene import NUM_JOINTS, OPENING
from tercet.arm.sim.tasks.builtin import TASKS, find_task, task_of
from tercet.arm.sim.tasks.task import NUM_DRAWS, Start
from tercet.arm.sim.workspace import STEPS
from tercet.errors import InputError

ACTION = ("x", "y", "z", "turn", "gripper")
SEEN = "seen"  # the witness's entry in `infos`
_OUT_OF_SIGHT = np.array([0.0, 0.0, -1.0])  # below the table: a goal would show which cube is asked for
OTHER = "other"  # the entry for the cube that is not asked for

Mask = NDArray[np.bool_]
Infos = dict[str, Any]  # Any: Gymnasium's own type; here every entry is an array over environments


class ArmEnv(VectorEnv):
    """`num_envs` arms with the same task.

    An action (5,) in [-1, 1] moves the target of the hand by at most 2 cm in x, y, z, turns it by at most 0.3 rad and
    opens or closes the fingers by at most 12 mm each; the joints follow by `kinematics.inverse`. With `limits`, they
    follow as fast as these allow, and the target is what was sent, as on a real arm. Episodes are
    `truncated` after `horizon` steps and `terminated` only if the simulation broke. The caller resets:
    `reset(options={"reset_mask": done})`.

    `infos` hold arrays over environments: `success`, `progress` (`tasks`), `blown_up`, `force` (N, the largest on a
    finger), `jerk` (rad/s^3, root mean square over joints), `outside` (m, distance from the workspace
    to the hand position that the action asked for), and in tasks with instructions `other` (success with the cube that
    was not asked for).

    The start of the k-th environment depends on the seed and k only.

    Images are rendered on demand (`pictures`), since a policy with action chunks needs only one per chunk. With a
    `witness`, `infos` of a step hold `seen`, what it returns about its pictures after the step.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"], "render_fps": 20}
    render_mode = "rgb_array"

    def __init__(
        self,
        task: str,
        num_envs: int,
        *,
        arm: ArmModel = PRIMITIVE,
        seed: int = 0,
        horizon: int = 60,
        randomisation: Randomisation | None = None,
        limits: Limits | None = None,
        num_threads: int = 2,
    ) -> None:
        self.task, self.arm = find_task(task), arm
        for name, number in (("num_envs", num_envs), ("horizon", horizon), ("num_threads", num_threads)):
            if number < 1:
                raise InputError(f"{name}={number}: must be at least 1")
        self.num_envs, self.horizon = num_envs, horizon
        self.layout = self.task.observation
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (len(self.layout),), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (len(ACTION),), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.randomisation, self.limits = randomisation or Randomisation(), limits
        self._original = arm.build(num_cubes=self.task.num_cubes)
        copies = num_envs if self.randomisation.changes_models else 1
        models = [arm.build(num_cubes=self.task.num_cubes) for _ in range(copies)]
        self._physics = Physics(models, num_envs, num_threads, arm)
        self._studio: Studio | None = None
        self._drawn: dict[tuple[Camera, int], Picture] = {}  # plain pictures of the present state
        self.witness: Callable[[], NDArray[np.float32]] | None = None
        self._allocate()
        self.reset(seed=seed)

    def _allocate(self) -> None:
        count = self.num_envs
        self._sent = np.zeros((count, len(ACTION)))  # the last hand targets: x, y, z, turn, opening
        self._goal = np.zeros((count, 3))
        self._no_cube = np.zeros((count, 3))  # position and velocity of the cube in tasks without one
        self._instruction = np.zeros(count, np.int64)
        # the cube that each instruction asks for
        self._cube_of = np.array([one.cube or 0 for one in self.task.instructions], np.int64)
        self._command = np.zeros((count, NUM_JOINTS + 1))  # with limits: the joints and opening that were sent,
        self._command_velocity = np.zeros((count, NUM_JOINTS + 1))  # their velocity,
        self._leeway = np.zeros(count)  # and how far outside the workspace they may be
        self._steps = np.zeros(count, np.int64)
        self._velocity = np.zeros((count, NUM_JOINTS))  # of the joints, one step ago
        self._acceleration = np.zeros((count, NUM_JOINTS))
        self._delayed = np.zeros((count, self.randomisation.latency[1] + 1, len(ACTION)))  # actions, the newest first

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,  # Any: Gymnasium's
    ) -> tuple[NDArray[np.float32], Infos]:
        """Start new episodes, everywhere or where `options["reset_mask"]` is True. `seed` restarts the generators."""
        if isinstance(seed, list):
            raise InputError("reset: the seed must be one number for all environments, not a list")
        if seed is not None:
            self._chance = np.random.default_rng([seed, 0])
            self._domain_chance = np.random.default_rng(
                [seed, 1]
            )  # a second generator, so that randomisation does not change the starts
            self._domain = randomise.draw(self.randomisation, self._domain_chance, self.num_envs)
        self._begin(_checked_mask(options, self.num_envs))
        now = self.readings()
        zero = np.zeros(self.num_envs)
        return self._observe(now), self._infos(now, self.task.success(now), zero < 0, zero, zero, zero)

    def step(self, actions: NDArray[np.floating]) -> tuple[NDArray[np.float32], Array, Mask, Mask, Infos]:
        """Return observations, rewards, terminated, truncated, infos: finite even if a simulation diverges."""
        outside = self._move_targets(self._with_delay(self._checked(actions)))
        self._drawn.clear()
        outcome = self._physics.step(self._sent_joints(), self._sent[:, 4])
        self._steps += 1
        jerk = self._jerk()
        broke = outcome.broke
        force = outcome.force
        any_broke = broke.any()
        if any_broke:
            self._begin(broke)
            force, jerk = np.where(broke, 0.0, force), np.where(broke, 0.0, jerk)
        now = self.readings()
        done = self.task.success(now)
        if any_broke:
            done &= ~broke
        rewards = self.task.reward(now, done)
        if any_broke:
            rewards[broke] = 0.0
        truncated = self._steps >= self.horizon
        infos = self._infos(now, done, broke, force, jerk, outside)
        if self.witness is not None:
            infos[SEEN] = self.witness()
        return self._observe(now), rewards, broke, truncated, infos

    def render(  # pyright: ignore[reportIncompatibleMethodOverride]  # one image, where Gymnasium renders all
        self,
        index: int = 0,
        width: int = 480,
        height: int = 360,
        camera: str = scene.VIEW,
    ) -> NDArray[np.uint8]:
        """Draw one environment, (height, width, 3), with the camera `near`, `front`, `top` or `wrist`.

        In `lift` a green frame shows the height above which the cube must be. An instruction is written below.
        """
        picture = self._picture(index, Camera(camera, height, width), plain=False)
        if not self.task.instructions:
            return picture
        return captioned(picture, self.task.instructions[self._instruction[index]].sentence)

    def pictures(self, cameras: Sequence[Camera], rows: Mask) -> tuple[NDArray[np.uint8], ...]:
        """Draw plain pictures (m, height, width, 3) of each camera, in the environments where `rows` is True."""
        for camera in cameras:
            if camera.name not in scene.CAMERAS:
                raise InputError(
                    f"policy.cameras: unknown camera {camera.name!r}; the arm has {', '.join(scene.CAMERAS)}"
                )
        which = np.flatnonzero(rows).tolist()
        return tuple(np.stack([self._plain(k, camera) for k in which]) for camera in cameras)

    def _plain(self, index: int, camera: Camera) -> Picture:
        """Draw a plain picture, with a witness only once: what it saw after a step is what a policy decides from."""
        if self.witness is None:  # then a state is seen once, and pictures need not be kept
            return self._picture(index, camera, plain=True)
        if (camera, index) not in self._drawn:
            self._drawn[camera, index] = self._picture(index, camera, plain=True)
        return self._drawn[camera, index]

    def _picture(self, index: int, camera: Camera, *, plain: bool) -> Picture:
        if self._studio is None:
            self._studio = Studio(self.arm.build(num_cubes=self.task.num_cubes, drawn=True))
        if self.randomisation.changes_appearance:
            self._studio.appearance.change(self._domain.light[index], self._domain.texture[index])
        return self._studio.picture(
            self._physics.state[index],
            _OUT_OF_SIGHT if plain and self.task.instructions else self._goal[index],
            width=camera.width,
            height=camera.height,
            camera=camera.name,
            aside=self._domain.camera[index],
            plain=plain,
            level=None if plain else self.task.shown_height,
        )

    def close_extras(self, **kwargs: Any) -> None:  # Any: Gymnasium's
        """End threads and free the renderers."""
        self._physics.close()
        if self._studio is not None:
            self._studio.close()

    def readings(self) -> Readings:
        """Return the current measurements."""
        positions = self._physics.positions
        hand = kinematics.forward(self.arm.joints(positions))
        opening = self._opening()
        cubes = tuple(self._cube(number) for number in range(self.task.num_cubes))
        asked = instruction = None
        cube = cubes[0] if cubes else CubeReadings(self._no_cube, self._no_cube[:, 0], self._no_cube)
        if self.task.instructions:
            instruction, asked = self._instruction, self._cube_of[self._instruction]
            cube = chosen(cubes, asked)
        return Readings(
            tip=hand.tip,
            aside=self.arm.aside(hand.turn, opening),
            turn=hand.turn,
            opening=opening,
            target=self._sent[:, :3],
            target_turn=self._sent[:, 3],
            target_opening=self._sent[:, 4],
            cube=cube.place,
            cube_turn=cube.turn,
            cube_velocity=cube.velocity,
            goal=self._goal,
            cubes=cubes,
            asked=asked,
            instruction=instruction,
        )

    def _cube(self, number: int) -> CubeReadings:
        """Return one of the cubes. Its place and velocity are views."""
        first = NUM_JOINTS + self.arm.num_fingers  # the first cube's first entry in positions and velocities
        positions = self._physics.positions[:, first + CUBE_POSITIONS * number :]
        velocities = self._physics.velocities[:, first + CUBE_VELOCITIES * number :]
        w, x, y, z = positions[:, 3:7].T
        turn = quarter(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
        return CubeReadings(positions[:, :3], turn, velocities[:, :3])

    def expert_actions(self, *, noise: float = 0.0, chance: np.random.Generator | None = None) -> NDArray[np.float32]:
        """Return the actions of the scripted expert, (num_envs, 5)."""
        return self.task.expert_actions(self.arm.foreseen(self.readings()), noise=noise, chance=chance)

    def servo(self, joints: Array) -> None:
        """Step towards joints and openings (num_envs, 6) instead of taking an action. The targets follow."""
        hand = kinematics.forward(joints[:, :NUM_JOINTS])
        self._sent = np.column_stack([hand.tip, hand.turn, np.clip(joints[:, NUM_JOINTS], 0.0, OPENING)])
        self._drawn.clear()
        outcome = self._physics.step(joints[:, :NUM_JOINTS], self._sent[:, 4])
        self._steps += 1
        if outcome.broke.any():
            self._begin(outcome.broke)

    def joints(self) -> Array:
        """Return (num_envs, 6): the five joints in radians and the opening of a finger in metres."""
        positions = self._physics.positions
        return np.concatenate([self.arm.joints(positions), self._opening()[:, None]], 1)

    def joint_velocities(self) -> Array:
        """Return (num_envs, 5) in rad/s."""
        return self.arm.joint_velocities(self._physics.velocities)

    def commanded_joints(self) -> Array:
        """Return (num_envs, 6): the last command to joints and fingers."""
        return np.concatenate([self._sent_joints(), self._sent[:, 4:]], 1)

    def snapshot(self) -> dict[str, Any]:  # Any: arrays, and the states of generators
        """Return the full state, from which `restore` continues to the same bits."""
        arrays = {name: getattr(self, name).copy() for name in _STATE}
        chances = {name: getattr(self, name).bit_generator.state for name in ("_chance", "_domain_chance")}
        return {**arrays, **chances, "_domain": self._domain, "physics": self._physics.state.copy()}

    def restore(self, snapshot: Mapping[str, Any]) -> None:  # Any: see snapshot
        """Return to the state of `snapshot`."""
        self._drawn.clear()
        for name in _STATE:
            getattr(self, name)[:] = snapshot[name]
        for name in ("_chance", "_domain_chance"):
            getattr(self, name).bit_generator.state = snapshot[name]
        self._physics.state[:] = snapshot["physics"]
        self._domain = snapshot["_domain"]
        self._apply_domain(np.ones(self.num_envs, bool))

    def _opening(self) -> Array:
        """Return the mean opening of each hand's fingers."""
        return np.add.reduce(self.arm.openings(self._physics.positions), axis=1) / self.arm.num_fingers

    def _begin(self, mask: Mask) -> None:
        self._drawn.clear()
        begin = self.task.start(self._chance.random((self.num_envs, NUM_DRAWS)))
        self._goal[mask] = begin.goal[mask]
        self._sent[mask, :3], self._sent[mask, 3], self._sent[mask, 4] = begin.tip[mask], 0.0, begin.opening[mask]
        self._steps[mask] = 0
        self._velocity[mask] = self._acceleration[mask] = 0.0
        self._delayed[mask] = 0.0
        self._physics.place(
            mask, begin.joints[mask], begin.opening[mask], self._cubes_at(begin, mask), begin.cube_turn[mask]
        )
        if self.limits is not None:
            start = np.concatenate([begin.joints[mask], begin.opening[mask, None]], 1)
            self._set_motion(at_rest(start, self.limits), mask)
        if self.randomisation != Randomisation():
            self._domain = self._domain.put(
                mask, randomise.draw(self.randomisation, self._domain_chance, self.num_envs)
            )
            self._apply_domain(mask)

    def _cubes_at(self, begin: Start, mask: Mask) -> list[Array]:
        """Return where each cube starts, and remember the instructions."""
        if begin.instruction is None or begin.other is None:
            return [begin.cube[mask]] * self.task.num_cubes
        self._instruction[mask] = begin.instruction[mask]
        asked = self._cube_of[begin.instruction][:, None]
        cubes = [np.where(asked == number, begin.cube, begin.other) for number in range(self.task.num_cubes)]
        return [cube[mask] for cube in cubes]

    def _apply_domain(self, mask: Mask) -> None:
        if self.randomisation.changes_models:
            for index in np.flatnonzero(mask):
                mass, friction = float(self._domain.mass[index]), float(self._domain.friction[index])
                randomise.apply(self._physics.models[index], self._original, mass=mass, friction=friction)

    def _checked(self, actions: NDArray[np.floating]) -> Array:
        actions = np.asarray(actions, np.float64)
        if actions.shape != (self.num_envs, len(ACTION)):
            raise InputError(f"actions of shape {actions.shape}: must have shape {(self.num_envs, len(ACTION))}")
        if not np.isfinite(actions).all():
            row = int(np.flatnonzero(~np.isfinite(actions).all(1))[0])
            raise InputError(
                f"actions must be finite; the first others are in environment {row}: {actions[row].tolist()}"
            )
        return np.minimum(np.maximum(actions, -1.0), 1.0)

    def _with_delay(self, actions: Array) -> Array:
        if self._delayed.shape[1] == 1:
            return actions
        self._delayed[:, 1:] = self._delayed[:, :-1].copy()
        self._delayed[:, 0] = actions
        return self._delayed[np.arange(self.num_envs), self._domain.latency]

    def _move_targets(self, actions: Array) -> Array:
        wanted = self._sent + STEPS * actions
        self._sent = self.arm.within(wanted)
        wanted -= self._sent
        if self.limits is not None:
            self._send_within(self.limits)
        return np.maximum.reduce(np.abs(wanted[:, :3]), axis=1)

    def _send_within(self, limits: Limits) -> None:
        """Send the joints of the targets as far as the limits allow in one step; the targets are then what was sent."""
        joints = kinematics.inverse(self._sent[:, :3], self._sent[:, 3])
        motion = Motion(self._command, self._command_velocity, self._leeway)
        motion = toward(motion, np.concatenate([joints, self._sent[:, 4:]], 1), limits)
        self._set_motion(motion, np.ones(self.num_envs, bool))
        hand = kinematics.forward(self._command[:, :NUM_JOINTS])
        self._sent = np.column_stack([hand.tip, hand.turn, self._command[:, NUM_JOINTS]])

    def _set_motion(self, motion: Motion, mask: Mask) -> None:
        self._command[mask], self._command_velocity[mask] = motion.position, motion.velocity
        self._leeway[mask] = motion.leeway

    def _sent_joints(self) -> Array:
        if self.limits is not None:
            return self._command[:, :NUM_JOINTS]
        return kinematics.inverse(self._sent[:, :3], self._sent[:, 3])

    def _jerk(self) -> Array:
        velocity = self.joint_velocities().copy()
        acceleration = (velocity - self._velocity) / STEP_SECONDS
        jerk = (acceleration - self._acceleration) / STEP_SECONDS
        self._velocity, self._acceleration = velocity, acceleration
        jerk *= jerk
        return np.sqrt(np.add.reduce(jerk, axis=1) / NUM_JOINTS)

    def _observe(self, now: Readings) -> NDArray[np.float32]:
        observations = self.layout.build(now)
        if self.randomisation.sensor_noise > 0:
            noise = self._domain_chance.standard_normal(observations.shape, np.float32)
            noise[:, [name == INSTRUCTION.name for name in self.layout.names]] = 0.0  # it is no measurement
            observations += np.float32(self.randomisation.sensor_noise) * noise
        return observations

    def _infos(self, now: Readings, done: Mask, broke: Mask, force: Array, jerk: Array, outside: Array) -> Infos:
        infos = {
            "success": done,
            "progress": self.task.progress(now),
            "blown_up": broke,
            "force": force,
            "jerk": jerk,
            "outside": outside,
        }
        if self.task.instructions:
            infos[OTHER] = self.task.success(now.of_the_other_cube()) & ~broke
        return infos


_STATE = (
    "_instruction",
    *("_sent", "_goal", "_steps", "_velocity", "_acceleration", "_delayed"),
    *("_command", "_command_velocity", "_leeway"),
)


def make_env(
    name: str,
    num_envs: int,
    *,
    arm: ArmModel = PRIMITIVE,
    seed: int = 0,
    horizon: int = 60,
    randomisation: Randomisation | None = None,
    limits: Limits | None = None,
    num_threads: int = 2,
    needs_success: bool = True,
) -> ArmEnv | ForeignEnv:
    """Create an environment by name: a task of the built-in arm, or another environment (`foreign/`)."""
    if task_of(name) is not None:
        return ArmEnv(
            name,
            num_envs,
            arm=arm,
            seed=seed,
            horizon=horizon,
            randomisation=randomisation,
            limits=limits,
            num_threads=num_threads,
        )
    if arm is not PRIMITIVE:
        raise InputError(
            f"env={name}: robot.model={arm.name} is only for tasks of the built-in arm ({', '.join(TASKS)})"
        )
    if limits is not None:
        raise InputError(f"env={name}: safety.in_training is only for tasks of the built-in arm ({', '.join(TASKS)})")
    if randomisation not in (None, Randomisation()):
        raise InputError(f"env={name}: randomisation is only for tasks of the built-in arm ({', '.join(TASKS)})")
    return ForeignEnv(name, num_envs, seed=seed, horizon=horizon, num_threads=num_threads, needs_success=needs_success)


def _checked_mask(options: Mapping[str, Any] | None, num_envs: int) -> Mask:
    if not options or "reset_mask" not in options:
        return np.ones(num_envs, bool)
    mask = np.asarray(options["reset_mask"])
    if mask.shape != (num_envs,) or mask.dtype != np.bool_:
        raise InputError(
            f"reset_mask of shape {mask.shape} and type {mask.dtype}: must have shape ({num_envs},) and type bool"
        )
    return mask
