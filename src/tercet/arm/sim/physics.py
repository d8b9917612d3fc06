"""Step many simulations with one call of MuJoCo's threaded `rollout`."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled modules come without types)

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from mujoco.rollout import Rollout
from numpy.typing import NDArray

from tercet.arm.sim.arms import PRIMITIVE, ArmModel
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.scene import NUM_JOINTS, SUBSTEPS, TIMESTEP

STEP_SECONDS = SUBSTEPS * TIMESTEP
_FASTEST = 200.0  # rad/s or m/s; the highest speed measured in whole episodes is below 40
CUBE_POSITIONS, CUBE_VELOCITIES = 7, 6  # numbers of a cube in the state: x, y, z and a quaternion; of its motion
_CHUNKS = 2  # per thread and call; MuJoCo's default of ten loses more time waking threads than it gains in balance
_CONTROLS = int(mujoco.mjtState.mjSTATE_CTRL)


@dataclass(frozen=True)
class Outcome:
    """Result of a step: the largest contact `force` (n,) on a finger in newton, and where the simulation `broke`."""

    force: Array
    broke: NDArray[np.bool_]


class Physics:
    """The full state of n simulations, (n, size): time, positions, velocities.

    `models` has one model for all or one for each. The result does not depend on the number of threads.
    """

    def __init__(
        self, models: Sequence[mujoco.MjModel], num_envs: int, num_threads: int, arm: ArmModel = PRIMITIVE
    ) -> None:
        # the Outcome reports broken simulations; MuJoCo would also write a log file into the working directory
        mujoco.set_mju_user_warning(lambda message: None)
        self._arm, first = arm, models[0]
        self.models = list(models) * num_envs if len(models) == 1 else list(models)
        assert len(self.models) == num_envs
        num_threads = min(num_threads, num_envs)
        self._pool = Rollout(nthread=num_threads if num_threads > 1 else 0)
        self._workers = [mujoco.MjData(first) for _ in range(num_threads)]
        self.chunk_size = max(1, num_envs // (_CHUNKS * num_threads))
        self._num_positions = first.nq
        self.state = np.zeros((num_envs, 1 + first.nq + first.nv))
        assert self.state.shape[1] == mujoco.mj_stateSize(first, int(mujoco.mjtState.mjSTATE_FULLPHYSICS))
        self._controls = np.zeros((num_envs, SUBSTEPS, first.nu))
        self._states = np.zeros((num_envs, SUBSTEPS, self.state.shape[1]))
        self._touch = np.zeros((num_envs, SUBSTEPS, first.nsensordata))
        self._fastest = np.full(self.state.shape[1], _FASTEST)
        self._fastest[0] = TIMESTEP / 2  # tolerance of the simulated time

    @property
    def positions(self) -> Array:
        """(n, nq): joints, fingers, and the position and quaternion of each cube; a view."""
        return self.state[:, 1 : 1 + self._num_positions]

    @property
    def velocities(self) -> Array:
        """(n, nv): joints, fingers, and the linear and angular velocity of each cube; a view."""
        return self.state[:, 1 + self._num_positions :]

    def place(
        self, mask: NDArray[np.bool_], joints: Array, opening: Array, cubes: Sequence[Array], cube_turn: Array
    ) -> None:
        """Set simulations at rest. The arguments hold one row for each True in `mask`; all cubes have one turn."""
        positions = np.zeros((len(joints), self._num_positions))
        fingers = NUM_JOINTS + self._arm.num_fingers
        positions[:, :fingers] = self._arm.positions(joints, opening)
        for number, cube in enumerate(cubes):
            first = fingers + CUBE_POSITIONS * number
            positions[:, first : first + 3] = cube
            positions[:, first + 3] = np.cos(cube_turn / 2)
            positions[:, first + 6] = np.sin(cube_turn / 2)
        self.state[mask] = 0.0
        self.positions[mask] = positions

    def step(self, joints: Array, opening: Array) -> Outcome:
        """Step all towards the commanded joints (n, 5) and openings (n,)."""
        self._controls[:] = self._arm.positions(joints, opening)[:, None]
        due = self.state[:, 0] + STEP_SECONDS
        self._pool.rollout(
            self.models,
            self._workers,
            self.state,
            self._controls,
            control_spec=_CONTROLS,
            skip_checks=True,
            nstep=SUBSTEPS,
            state=self._states,
            sensordata=self._touch,
            chunk_size=self.chunk_size,
        )
        np.copyto(self.state, self._states[:, -1])
        ahead = self.state.copy()
        ahead[:, 0] -= due  # MuJoCo does not advance the time of a simulation that diverged
        sane = (np.abs(ahead) < self._fastest).all(1)  # False for NaN
        return Outcome(np.maximum.reduce(self._touch, axis=(1, 2)), np.logical_not(sane))

    def close(self) -> None:
        """End the threads."""
        self._pool.close()
