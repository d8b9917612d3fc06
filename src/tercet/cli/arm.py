"""`tercet arm`: the three steps on a robot arm."""

from pathlib import Path
from typing import Annotated

import typer

from tercet.cli.commands import DebugOption
from tercet.cli.options import (
    ALL,
    ComparisonOption,
    Overrides,
    SeedsOption,
    add_steps,
    comparison_folder,
    preset_option,
    presets,
    split_arguments,
)
from tercet.errors import FailedError, InputError
from tercet.runs.progress import say
from tercet.runs.screen import counted

PresetOption = Annotated[str, preset_option("arm")]
RobotOption = Annotated[str, typer.Option("--robot", "-r", metavar="NAME|FILE", help=presets("robot"))]
SecondsOption = Annotated[float, typer.Option("--seconds", min=0.1, max=600, help="Time limit of each try in seconds.")]

app = typer.Typer(help="The three steps on a robot arm.", no_args_is_help=True)


_ABOUT_ALL = """Run all steps, the evaluation, videos and the report. Finished steps are skipped.

You can interrupt a run; the same command continues from the last checkpoint.
"""
add_steps(
    app,
    "arm",
    default="lift",
    steps={
        ALL: (_ABOUT_ALL, {"report": "report.html", "figures": "results.json"}),
        "bc": ("Step 1: behaviour cloning from demonstrations.", {"model": "bc/model"}),
        "reward": (
            "Step 2: train a reward model on pairs of segments.",
            {"model": "reward/model", "figures": "results.json"},
        ),
        "ppo": ("Step 3: PPO with actor, critic, reference and reward.", {"model": "ppo/model"}),
        "eval": (
            "Evaluate: success of every stage on fresh starts, and videos side by side.",
            {"figures": "results.json"},
        ),
    },
)


@app.command()
def compare(
    overrides: Overrides = None,
    preset: PresetOption = "lift",
    out: ComparisonOption = None,
    algorithms: Annotated[
        str, typer.Option("--algorithms", metavar="NAME,...", help="Of ppo, rloo, grpo, dr_grpo, reinforce++.")
    ] = "ppo,rloo,grpo,reinforce++",
    seeds: SeedsOption = 3,
    steps: Annotated[
        int,
        typer.Option("--steps", min=0, help="Environment steps of each run; 0 is what ppo.num_updates play."),
    ] = 0,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="A run whose clone and reward model all start from.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Compare algorithms from one clone and one reward model, with an equal budget of environment steps.

    It writes one page: success with intervals, how fast it was learned, cost, and the same starts filmed side by side.
    More algorithms and seeds can be added to a finished comparison; what is finished is skipped.
    """
    from tercet.api import compare, compare_arm

    folder = out or comparison_folder(preset)
    page = compare.compare(
        compare_arm, preset, overrides or [], folder, algorithms=algorithms, seeds=seeds, budget=steps, start=start
    )
    say(f"report: {page}\nfigures: {folder / 'results.json'}")


@app.command()
def data(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="DIR|FILE|KEY=VALUE", help="Recording to inspect; by default that of the preset."),
    ] = None,
    preset: PresetOption = "lift",
    debug: DebugOption = False,
) -> None:
    """Inspect demonstrations and what behaviour cloning would use of them, without training."""
    from tercet.config.load import load_arm_config

    recordings, overrides = split_arguments(arguments)
    if len(recordings) > 1:
        raise InputError(f"{', '.join(recordings)}: give one recording at a time")
    config = load_arm_config(preset, [*(f"bc.demonstrations={one}" for one in recordings), *overrides])
    import torch

    from tercet.arm import inspect

    torch.set_num_threads(1)
    inspect.run(config)


@app.command()
def check(
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Random seed of the starts.")] = 0,
    model: Annotated[str, typer.Option("--model", metavar="primitive|so101", help="The simulated arm.")] = "primitive",
    task: Annotated[str, typer.Option("--task", help="Check only this task, such as module:class of yours.")] = "",
    debug: DebugOption = False,
) -> None:
    """Check the simulated arm: no collisions, full reach, successful experts. Takes about 15 seconds."""
    from tercet.arm.sim import check
    from tercet.arm.sim.arms import find_arm

    arm = find_arm(model)
    checks = check.run_task(task, arm=arm, seed=seed) if task else check.run(arm=arm, seed=seed)
    say(check.table(checks))
    failed = sum(not one.ok for one in checks)
    if failed:
        raise FailedError(f"{failed} of {len(checks)} checks of the arm failed; they are marked FAIL")


@app.command()
def deploy(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the run.")],
    overrides: Overrides = None,
    robot: RobotOption = "simulated",
    stage: Annotated[
        str, typer.Option("--stage", "-s", help="Policy to run: bc, ppo, or a round such as improve-3.")
    ] = "ppo",
    times: Annotated[int, typer.Option("--times", min=1, max=10_000, help="Number of tries.")] = 1,
    seconds: SecondsOption = 10.0,
    send: Annotated[
        bool, typer.Option("--send", help="Send commands to the arm; without it, nothing is sent.")
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Recording to which demonstrations during takeovers are added."),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Run a policy on an arm within safety limits. Without --send this is a dry run that prints and plots."""
    from tercet.config.load import load_robot_config

    config = load_robot_config(robot, overrides or [])
    from tercet.arm.robot import console, deploy

    task, pilot = deploy.policy_of(run, stage, speed=config.speed)
    for line in deploy.about_training(run, config):
        say(line)
    tries = console.steer(config, deploy.Session(task, pilot, times, seconds, send, keep))
    if not tries:
        say("ended before the first try")
        return
    picture = run / "deploy" / ("sent.png" if send else "would_be_sent.png")
    say("\n".join(deploy.show(picture, tries, deploy.limits_of(config))))
    say(f"picture: {picture}" if send else f"picture: {picture}\nnothing was sent; --send moves the arm")


@app.command()
def improve(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the run, with a clone.")],
    overrides: Overrides = None,
    robot: RobotOption = "simulated",
    rounds: Annotated[int, typer.Option("--rounds", "-n", min=1, max=1000, help="Number of rounds in all.")] = 10,
    debug: DebugOption = False,
) -> None:
    """Improve the clone of a run on an arm: it tries, a person takes over and marks, and it learns from every step.

    It sets `improve.num_rounds`. Finished rounds are skipped, and finished tries of an unfinished round are kept. Other
    keys of `improve` are those with which the run was made; overrides are keys of the robot.
    """
    from tercet.api.improve import improve

    improve(run, overrides or [], robot=robot, rounds=rounds)
    say(f"report: {run / 'report.html'}\nfigures: {run / 'results.json'}\nmodel: {run / f'improve-{rounds}' / 'model'}")


@app.command()
def record(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the recording; created if it does not exist.")
    ],
    overrides: Overrides = None,
    robot: RobotOption = "simulated",
    task: Annotated[
        str,
        typer.Option("--task", help="Task (docs/arm-environment.md lists them), or module:class of yours."),
    ] = "lift",
    times: Annotated[int, typer.Option("--times", min=1, max=10_000, help="Number of demonstrations.")] = 10,
    seconds: SecondsOption = 30.0,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**63 - 1, help="Random seed of the simulated arm's starts.")
    ] = 0,
    debug: DebugOption = False,
) -> None:
    """Record demonstrations given with a leader arm, in LeRobot's format."""
    from tercet.config.load import load_robot_config

    config = load_robot_config(robot, overrides or [])
    from tercet.arm.robot import console, deploy
    from tercet.arm.sim.tasks.builtin import find_task

    session = deploy.Session(find_task(task), None, times, seconds, True, folder, seed)
    tries = console.steer(config, session)
    say(f"recording: {folder} ({sum(one.success for one in tries)} of {len(tries)} succeeded)")


@app.command()
def calibrate(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="File of the robot, which is written. An old one is the start."),
    ],
    overrides: Overrides = None,
    robot: Annotated[
        str | None,
        typer.Option("--robot", "-r", metavar="NAME|FILE", help=f"{presets('robot')} Without it: FILE, or else so101."),
    ] = None,
    paper: Annotated[
        str, typer.Option("--paper", metavar="a4|letter", help="Sheet whose corners the finger tips touch.")
    ] = "a4",
    debug: DebugOption = False,
) -> None:
    """Find the zeros and signs of an SO-101: pose it by hand, joint by joint, as pictures show. Nothing is sent.

    Every reading is kept, so the same command goes on after a stop. The new file is for --robot of the other commands.
    """
    from tercet.config.load import load_robot_config

    if file.suffix not in (".yaml", ".yml"):
        raise InputError(f"{file}: give the robot's file a name that ends in .yaml")
    start = file if file.exists() else robot or "so101"
    config = load_robot_config(start, overrides or [])
    if file.exists() and robot and (other := load_robot_config(robot, []).robot) != config.robot:
        raise InputError(
            f"{file}: is there already, with robot={config.robot}, and --robot {robot} has robot={other}; leave "
            "--robot out, or give the name of a new file"
        )
    from tercet.arm.robot import console
    from tercet.arm.robot.poses import sheet_of

    say(f"calibrating robot={config.robot}{config.port and f' at {config.port}'} (from {start})")
    console.calibrate(config, file, sheet_of(paper))
    say(f"robot: {file}\ncheck it in a dry run: tercet arm deploy DIR --robot {file}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the run.")],
    folder: Annotated[Path, typer.Argument(metavar="NEW", help="Folder to write, which must not exist.")],
    overrides: Overrides = None,
    robot: RobotOption = "so101",
    stage: Annotated[
        str, typer.Option("--stage", "-s", help="Policy to export: bc, ppo, or a round such as improve-3.")
    ] = "ppo",
    debug: DebugOption = False,
) -> None:
    """Export a policy for LeRobot's tools, which run it with the plugin lerobot_policy_tercet."""
    from tercet.config.load import load_robot_config

    config = load_robot_config(robot, overrides or [])
    from tercet.arm.robot import deploy, exported

    for line in [*exported.export(run, stage, folder, config), *deploy.about_training(run, config)]:
        say(line)
    say(f"policy: {folder} (--policy.path={folder} of lerobot-rollout and lerobot-eval)")


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="DIR|HUB_ID", help="Recording of an SO-100 or SO-101 that LeRobot made.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new recording, which must not exist.")],
    overrides: Overrides = None,
    robot: RobotOption = "so101",
    task: Annotated[
        str,
        typer.Option("--task", help="Task that it shows (docs/arm-environment.md lists them), or module:class."),
    ] = "lift",
    only: Annotated[
        str, typer.Option("--only", help="Task to convert, as named in the recording, if it has several.")
    ] = "",
    debug: DebugOption = False,
) -> None:
    """Convert a recording of LeRobot, with joints and images, to demonstrations for a policy that sees itself."""
    from tercet.config.load import load_robot_config

    config = load_robot_config(robot, overrides or [])
    from tercet.arm.robot import convert
    from tercet.arm.sim.tasks.builtin import find_task

    num = convert.run(source, folder, find_task(task), config, only=only, say=say)
    amount = counted(num, "demonstration")
    say(f"recording: {folder} ({amount}; set bc.num_demonstrations={num} to learn from all of them)")
