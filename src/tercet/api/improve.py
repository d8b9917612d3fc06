"""Continue a run of the arm with rounds on a robot, as `tercet arm improve DIR` does."""

from collections.abc import Sequence
from pathlib import Path

from tercet.api.libraries import torch_threads
from tercet.api.record import Run
from tercet.config.load import load_arm_config, load_robot_config
from tercet.errors import InputError
from tercet.report import page
from tercet.report.doctor.watch import Watch
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say


def improve(out: Path, overrides: Sequence[str], *, robot: str, rounds: int) -> Run:
    """Run the rounds of `out` that are not finished, up to number `rounds`, on the robot of a preset and overrides."""
    import tercet.arm  # noqa: F401  # raises InputError for missing packages

    robot_config = load_robot_config(robot, overrides)
    RunFolder.read(out)
    config = load_arm_config(out / "config.yaml", [f"improve.num_rounds={rounds}"])
    with torch_threads(1):
        from tercet.arm import improve as step
        from tercet.arm.robot import console
        from tercet.arm.robot.control import SimulatedClock, WallClock
        from tercet.arm.robot.person import MARKS_HELP

        watch = Watch(out, config.model_dump(mode="json"))
        with (
            RunFolder.open(
                out, config, preset="", watch=watch, may_grow=["improve.num_rounds"], may_add=["improve"]
            ) as folder,
            console.Keyboard() as keyboard,
        ):
            if robot_config.person == "keyboard":
                if not keyboard.has_terminal:
                    raise InputError("person=keyboard: run this command in a terminal, not through a pipe")
                say(f"{console.deploy.KEYS_HELP}\n{console.deploy.TAKEOVER_HELP}\n{MARKS_HELP}")
            for line in console.deploy.about_training(out, robot_config):
                say(line)
            clock = SimulatedClock() if robot_config.person == "simulated" else WallClock()  # a person needs real time
            step.run(folder, config, step.Session(robot_config, keyboard.pressed, clock, say), page.write)
    return Run(out)
