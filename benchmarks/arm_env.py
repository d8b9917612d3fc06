"""Compare the speed of the arm's environment with bare `mujoco.rollout`: same model, controls, batch and threads.

    python benchmarks/arm_env.py --task lift --num-envs 32 --threads 2

The expert plays an episode with noise. Then environment and simulation repeat it alternately, and the medians are
compared. Bare rollout is called once per environment step, as every environment must call it, with MuJoCo's default
chunks and with ours; and once per episode. Prints one line of JSON.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled modules have no types)

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass

import mujoco
import numpy as np
from mujoco.rollout import Rollout

from tercet.arm.sim.arms import ArmModel, find_arm
from tercet.arm.sim.env import ArmEnv
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.physics import Physics
from tercet.arm.sim.scene import NUM_JOINTS, SUBSTEPS
from tercet.arm.sim.tasks.builtin import TASKS


@dataclass(frozen=True)
class Episode:
    """An episode to repeat: actions (steps, n, 5) for the environment, controls (n, steps x substeps, u) for MuJoCo."""

    start: Array
    actions: Array
    controls: Array


def record(env: ArmEnv, seed: int) -> Episode:
    """Record one episode of the expert with noise."""
    chance = np.random.default_rng(seed)
    env.reset(seed=seed)
    start = env.snapshot()["physics"]
    actions, controls = [], []
    for _ in range(env.horizon):
        actions.append(env.expert_actions(noise=0.3, chance=chance))
        env.step(actions[-1])
        commanded = env.commanded_joints()
        controls.append(env.arm.positions(commanded[:, :NUM_JOINTS], commanded[:, NUM_JOINTS]))
    return Episode(start, np.stack(actions), np.repeat(np.stack(controls, 1), SUBSTEPS, axis=1))


@dataclass(frozen=True)
class Timed:
    """Wall-clock seconds, CPU seconds of the process, and the final states."""

    wall: float
    cpu: float
    state: Array

    @classmethod
    def since(cls, wall: float, cpu: float, state: Array) -> "Timed":
        """Return the time since readings of both clocks."""
        return cls(time.perf_counter() - wall, time.process_time() - cpu, state)


class Bare:
    """MuJoCo alone."""

    def __init__(self, task: str, arm: ArmModel, num_envs: int, num_threads: int) -> None:
        self.model = model = arm.build(num_cubes=TASKS[task].num_cubes)
        self._models = [model] * num_envs
        self._workers = [mujoco.MjData(model) for _ in range(num_threads)]
        self._pool = Rollout(nthread=num_threads if num_threads > 1 else 0)
        self._size, self._sensors = 1 + model.nq + model.nv, model.nsensordata

    def run(self, episode: Episode, length: int, chunk_size: int | None = None) -> Timed:
        """Time the episode in calls of `length` substeps."""
        count, total, _ = episode.controls.shape
        parts = [np.ascontiguousarray(episode.controls[:, at : at + length]) for at in range(0, total, length)]
        states, sensors = np.empty((count, length, self._size)), np.empty((count, length, self._sensors))
        state = episode.start.copy()
        wall, cpu = time.perf_counter(), time.process_time()
        for part in parts:
            self._pool.rollout(
                self._models,
                self._workers,
                state,
                part,
                control_spec=int(mujoco.mjtState.mjSTATE_CTRL),
                skip_checks=True,
                nstep=length,
                state=states,
                sensordata=sensors,
                chunk_size=chunk_size,
            )
            np.copyto(state, states[:, -1])
        return Timed.since(wall, cpu, state)


def ours(env: ArmEnv, episode: Episode, seed: int) -> Timed:
    """Time the episode in the environment, without the reset."""
    env.reset(seed=seed)
    wall, cpu = time.perf_counter(), time.process_time()
    for actions in episode.actions:
        env.step(actions)
    return Timed.since(wall, cpu, env.snapshot()["physics"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(TASKS), default="lift")
    parser.add_argument("--model", default="primitive", help="the arm, as robot.model of a run")
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--horizon", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=9)
    settings = parser.parse_args()
    arm = find_arm(settings.model)
    env = ArmEnv(settings.task, settings.num_envs, arm=arm, horizon=settings.horizon, num_threads=settings.threads)
    bare = Bare(settings.task, arm, settings.num_envs, settings.threads)
    episode = record(env, seed=1)
    ours_size = Physics([bare.model], settings.num_envs, settings.threads).chunk_size
    rows: dict[str, list[Timed]] = {"env": [], "step_calls": [], "our_chunks": [], "episode_call": []}
    for _ in range(settings.repeats):
        rows["env"].append(ours(env, episode, seed=1))
        rows["step_calls"].append(bare.run(episode, SUBSTEPS))
        rows["our_chunks"].append(bare.run(episode, SUBSTEPS, ours_size))
        rows["episode_call"].append(bare.run(episode, SUBSTEPS * settings.horizon))
        same = np.array_equal(rows["env"][-1].state, rows["step_calls"][-1].state)
        assert same, "the environment and bare rollout went different ways"
    median = {name: statistics.median(row.wall for row in values) for name, values in rows.items()}
    cpu = {name: statistics.median(row.cpu for row in values) for name, values in rows.items()}
    steps = settings.num_envs * settings.horizon
    print(
        json.dumps(
            {
                "benchmark": "arm_env",
                **vars(settings),
                "steps_per_second": round(steps / median["env"]),
                "bare_steps_per_second": round(steps / median["step_calls"]),
                "bare_steps_per_second_one_call": round(steps / median["episode_call"]),
                "share_of_bare": round(median["step_calls"] / median["env"], 3),
                "share_of_bare_our_chunks": round(median["our_chunks"] / median["env"], 3),
                "share_of_bare_one_call": round(median["episode_call"] / median["env"], 3),
                "share_of_bare_cpu": round(cpu["step_calls"] / cpu["env"], 3),
                "share_of_bare_one_call_cpu": round(cpu["episode_call"] / cpu["env"], 3),
                "cpu_us_per_step": round(cpu["env"] / steps * 1e6, 1),
                "mujoco": mujoco.__version__,
                "cpus": os.cpu_count(),
                "machine": platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
