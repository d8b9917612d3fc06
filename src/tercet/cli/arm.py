"""`tercet arm`: the three steps on a robot arm."""

from pathlib import Path
from typing import Annotated

import typer

from tercet.cli.commands import DebugOption
from tercet.cli.options import ALL, Overrides, add_steps, preset_option, presets, sorted_out
from tercet.errors import FailedError, InputError
from tercet.runs.progress import say

PresetOption = Annotated[str, preset_option("arm")]
RobotOption = Annotated[str, typer.Option("--robot", "-r", metavar="NAME|FILE", help=presets("robot"))]
SecondsOption = Annotated[float, typer.Option("--seconds", min=0.1, max=600, help="How long each takes at most.")]

app = typer.Typer(help="The three steps on a robot arm.", no_args_is_help=True)


_ABOUT_ALL = """All steps, the evaluation, videos and the report; what is done already is skipped.

Stop it whenever you like: the same command goes on from the last checkpoint.
"""
add_steps(
    app,
    "arm",
    default="lift",
    steps={
        ALL: (_ABOUT_ALL, {"report": "report.html", "figures": "results.json"}),
        "bc": ("Step 1, imitate: behaviour cloning from demonstrations.", {"model": "bc/model"}),
        "reward": (
            "Step 2, judge: a reward model from the better of two segments.",
            {"model": "reward/model", "figures": "results.json"},
        ),
        "ppo": ("Step 3, improve: PPO with actor, critic, reference and reward.", {"model": "ppo/model"}),
        "eval": (
            "Success of every stage on fresh starts, start by start, and videos side by side.",
            {"figures": "results.json"},
        ),
    },
)


@app.command()
def data(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="DIR|FILE|KEY=VALUE", help="A recording to look at; without one, the preset's."),
    ] = None,
    preset: PresetOption = "lift",
    debug: DebugOption = False,
) -> None:
    """What demonstrations hold and what behaviour cloning would get of them; trains nothing."""
    from tercet.config.load import load_arm_config

    given, overrides = sorted_out(arguments)
    if len(given) > 1:
        raise InputError(f"{', '.join(given)}: one recording at a time")
    config = load_arm_config(preset, [*(f"bc.demonstrations={one}" for one in given), *overrides])
    import torch

    from tercet.arm import inspect

    torch.set_num_threads(1)
    inspect.run(config)


@app.command()
def check(
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the starts.")] = 0, debug: DebugOption = False
) -> None:
    """Is the arm itself sound: nothing jams, everything is reached, the experts succeed? About 15 seconds."""
    from tercet.arm import check

    checks = check.run(seed=seed)
    say(check.table(checks))
    failed = sum(not one.ok for one in checks)
    if failed:
        raise FailedError(f"{failed} of {len(checks)} checks of the arm failed; those marked FAIL")


@app.command()
def deploy(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder.")],
    overrides: Overrides = None,
    robot: RobotOption = "simulated",
    stage: Annotated[str, typer.Option("--stage", "-s", help="Whose policy: bc or ppo.")] = "ppo",
    times: Annotated[int, typer.Option("--times", min=1, help="How often it is tried.")] = 1,
    seconds: SecondsOption = 10.0,
    send: Annotated[bool, typer.Option("--send", help="Move the arm; without it, nothing is sent.")] = False,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Where to keep what a person shows who takes over.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Put a run's policy on an arm, within limits; a dry run that prints and plots, unless --send."""
    from tercet.config.load import load_robot_config

    config = load_robot_config(robot, overrides or [])
    from tercet.arm import console, deploy

    task, pilot = deploy.policy_of(run, stage, speed=config.speed)
    tries = console.steer(config, deploy.Session(task, pilot, times, seconds, send, keep))
    if not tries:
        say("ended before the first try")
        return
    picture = run / "deploy" / ("sent.png" if send else "would_be_sent.png")
    say("\n".join(deploy.show(picture, tries, deploy.limits_of(config))))
    say(f"picture: {picture}" if send else f"picture: {picture}\nnothing was sent; --send moves the arm")


@app.command()
def record(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the recording is, or begins.")],
    overrides: Overrides = None,
    robot: RobotOption = "simulated",
    task: Annotated[str, typer.Option("--task", help="reach, lift, place or push.")] = "lift",
    times: Annotated[int, typer.Option("--times", min=1, help="How many demonstrations.")] = 10,
    seconds: SecondsOption = 30.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the simulated arm's starts.")] = 0,
    debug: DebugOption = False,
) -> None:
    """Record demonstrations that a person gives with a teacher's arm, in LeRobot's format."""
    from tercet.config.load import load_robot_config

    config = load_robot_config(robot, overrides or [])
    from tercet.arm import console, deploy
    from tercet.arm.env import checked_task

    session = deploy.Session(checked_task(task), None, times, seconds, True, folder, seed)
    tries = console.steer(config, session)
    say(f"recording: {folder} ({sum(one.success for one in tries)} of {len(tries)} succeeded)")
