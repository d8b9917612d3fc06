"""Measure the policies of runs without limits, and within the limits of robots (`presets/robot`); print a table.

    PYTHONPATH=src python benchmarks/arm_limits.py runs/lift-1 runs/lift-1-within
    PYTHONPATH=src python benchmarks/arm_limits.py runs/lift-1 --model so101       # on another arm than in training

Every policy plays its most likely actions from the same fresh starts.
"""

import argparse
from pathlib import Path

import torch

from tercet.arm.bc import success_rate
from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.policies.kinds import load_policy
from tercet.config.arm import ArmConfig, TrainingSafetyConfig
from tercet.config.load import load_arm_config, load_robot_config
from tercet.config.robot import MotionConfig

ROBOTS = ("simulated", "so101")
STARTS_SEED = 777


def within(config: ArmConfig, robot: str) -> ArmConfig:
    """Return the config with the limits of this robot, or without limits if it is empty."""
    safety = TrainingSafetyConfig()
    if robot:
        limits = load_robot_config(robot, []).safety
        own = {name: getattr(limits, name) for name in MotionConfig.model_fields}
        safety = TrainingSafetyConfig(in_training=True, **own)
    return config.model_copy(update={"safety": safety})


def main() -> None:
    """Print one row for each run, limits and length of an episode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--steps", nargs="+", type=int, default=[60, 80])
    parser.add_argument("--num", type=int, default=256, help="number of starts")
    parser.add_argument("--model", default="", help="the arm, as robot.model; without it, that of the run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for run in arguments.runs:
        another = [f"robot.model={arguments.model}"] if arguments.model else []
        config = load_arm_config(str(run / "config.yaml"), another)
        for robot in ("", *ROBOTS):
            for steps in arguments.steps:
                envs = EnvFactory.of(within(config, robot).model_copy(update={"horizon": steps}))
                with envs.open(arguments.num) as env:
                    rates = {
                        stage: success_rate(
                            env,
                            load_policy(run / stage / "model", sizes_of(env)),
                            num=arguments.num,
                            horizon=steps,
                            seed=STARTS_SEED,
                        )
                        for stage in ("bc", "ppo")
                        if (run / stage / "model").is_dir()
                    }
                found = ", ".join(f"{stage} {rate:.3f}" for stage, rate in rates.items())
                print(
                    f"{run.name} on {config.robot.model}, limits of {robot or 'none'}, {steps} steps: {found}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
