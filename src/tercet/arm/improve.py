"""Rounds on an arm: the policy tries, a person takes over and marks, and the policy learns from every step so far."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.arm.bc import load_demonstrations, success_rate
from tercet.arm.experience import Experience, experience_of, fit_values, weighted_plan, weights_of
from tercet.arm.play.environments import EnvFactory
from tercet.arm.policies.kinds import load_policy
from tercet.arm.policies.policy import Policy
from tercet.arm.robot import calibration, control
from tercet.arm.robot.pilot import Pilot
from tercet.arm.robot.tries import MarkedTry, rig
from tercet.arm.sim.arms import find_arm
from tercet.arm.sim.physics import STEP_SECONDS
from tercet.arm.sim.tasks.builtin import arm_task
from tercet.arm.stages import start_policy
from tercet.config.arm import ArmConfig
from tercet.config.robot import RobotConfig
from tercet.core.intervals import wilson
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.runs.intermediate import is_kept, keep_file, keep_folder
from tercet.runs.once import run_once
from tercet.runs.rounds import in_round, round_of
from tercet.train import chance
from tercet.train.device import device_of
from tercet.train.fit import LossTerms, fit
from tercet.train.parallel import own_share

IMPROVE = "improve"
_ROBOT = "robot.json"  # the robot and the person of a round, which must not change within it
_TRY_LENGTH = 2  # a try lasts at most this many horizons, so that a person who takes over late can finish


@dataclass(frozen=True)
class Session:
    """The robot, and what its person presses and reads."""

    robot: RobotConfig
    keys: Callable[[], str]
    clock: control.Clock
    say: Callable[[str], None]


def run(folder: RunFolder, config: ArmConfig, session: Session, write_report: Callable[[Path], object]) -> None:
    """Run all rounds that are not finished; the report is written after every round."""
    arm_task(config.env)
    if not folder.has_ended("bc"):
        raise InputError(f"{folder.path}: has no clone to start from; run `tercet arm bc` with the same --out first")
    if config.improve.num_ticks < _TRY_LENGTH * config.horizon:
        raise InputError(
            f"improve.num_ticks={config.improve.num_ticks}: fewer than one try of {_TRY_LENGTH * config.horizon} "
            "steps (twice the horizon); raise it"
        )
    session = _with_cameras(session, _clone(folder, config))
    names = [in_round(IMPROVE, number) for number in range(1, config.improve.num_rounds + 1)]
    steps = {name: partial(run_round, session=session, number=round_of(name)) for name in names}
    for name in names:
        run_once(folder, config, name, steps, ["bc", *names], write_report)


def run_round(folder: RunFolder, config: ArmConfig, *, session: Session, number: int) -> None:
    """Collect the tries of a round, train the policy from the clone on all steps so far, and evaluate it."""
    name, seed = in_round(IMPROVE, number), chance.integer(config.seed, IMPROVE, number)
    device = device_of(config.device)
    with folder.timed(name, "tries"):
        own = collect(folder, config, session, number=number)
    tries = [one for before in range(1, number) for one in stored_tries(folder.path, before)] + own
    policy = _clone(folder, config)
    with EnvFactory.of(config).open(config.bc.num_demonstrations) as env:
        demonstrations = load_demonstrations(config, env)
    experience = experience_of(demonstrations, tries, chunk=policy.chunk, gamma=config.ppo.gamma)
    values = fit_values(experience, policy, config.policy, config.improve, seed=seed)
    plan = weighted_plan(weights_of(experience, values, config.improve), config.improve, seed=seed)
    policy = policy.to(device)
    with folder.step(name, total=len(plan), shown=["improve/loss"]) as step:
        fit(
            step,
            modules={"policy": policy},
            plan=plan,
            micro_batches=lambda chosen: [
                part.to(device) for part in experience.micro_batches(own_share(chosen), config.improve.micro_batch_size)
            ],
            count=len,
            loss=lambda part: LossTerms(
                policy.imitation_loss(part.observations, part.actions, part.mask, *part.pictures), {}
            ),
            config=config.improve,
            seed=seed,
            metric_prefix=IMPROVE,
        )
        step.save_folder("model", policy.save)
        rounds = {str(number): _figures(tries, own, experience, values)}
        if session.robot.robot == "simulated":
            rounds[str(number)]["success"] = success_within(config, session.robot, policy)
            if number == 1:
                rounds["0"] = {"minutes": 0.0, "success": success_within(config, session.robot, _clone(folder, config))}
        step.finish({IMPROVE: rounds})


def collect(folder: RunFolder, config: ArmConfig, session: Session, *, number: int) -> list[MarkedTry]:
    """Return the tries of a round. Those that an earlier call has finished are read, and the others are run."""
    path, most = folder.path / in_round(IMPROVE, number), _TRY_LENGTH * config.horizon
    _refuse_other_robot(path, session.robot)
    tries = stored_tries(folder.path, number)
    left = config.improve.num_ticks - sum(one.num_ticks for one in tries)
    if left < most:
        return tries
    policy = last_policy(folder, config, number=number)
    with rig(session.robot, arm_task(config.env), session.keys, session.clock, session.say) as arm:
        while left >= most:
            seeds = [chance.integer(config.seed, IMPROVE, number, len(tries), what) for what in ("start", "person")]
            noise = chance.generator(config.seed, IMPROVE, number, len(tries), "noise")
            pilot = Pilot(policy, session.robot.speed, noise if config.improve.noise else None)
            one = arm.attempt(pilot, num_ticks=most, start_seed=seeds[0], person_seed=seeds[1])
            if one is None:
                session.say("dropped")
                continue
            if config.improve.compare and tries:
                one = arm.compared(tries[-1], one)
            keep_folder(path, _name(len(tries)), one.save)
            tries.append(MarkedTry.load(path / _name(len(tries))))  # its pictures are in the file now
            left -= one.num_ticks
            if session.robot.person == "keyboard":
                session.say(f"try {len(tries)}: {'good' if one.good else 'bad'}; {left} steps of this round are left")
    return tries


def stored_tries(run: Path, number: int) -> list[MarkedTry]:
    """Read the tries of a round."""
    path, tries = run / in_round(IMPROVE, number), list[MarkedTry]()
    while is_kept(path, _name(len(tries))):
        tries.append(MarkedTry.load(path / _name(len(tries))))
    return tries


def last_policy(folder: RunFolder, config: ArmConfig, *, number: int) -> Policy:
    """Return the policy that tries in a round: the clone, or that of the round before; with noise if it has any."""
    policy = _clone(folder, config)
    if number > 1:
        policy = load_policy(folder.path / in_round(IMPROVE, number - 1) / "model", policy.sizes)
    if config.improve.noise:
        policy.explore(float(torch.tensor(config.improve.noise).log()))
    return policy.requires_grad_(False)


def _clone(folder: RunFolder, config: ArmConfig) -> Policy:
    return start_policy(folder, EnvFactory.of(config), config.policy, bc=config.bc, seed=config.seed)


def _with_cameras(session: Session, policy: Policy) -> Session:
    """Give the simulated robot the cameras of the policy, unless the config of the robot names some."""
    if session.robot.robot != "simulated" or session.robot.cameras:
        return session
    cameras = {camera.name: camera.name for camera in policy.cameras}
    return replace(session, robot=session.robot.model_copy(update={"cameras": cameras}))


def success_within(config: ArmConfig, robot: RobotConfig, policy: Policy) -> dict[str, Any]:  # Any: JSON
    """Measure success on new simulated starts, within the limits of the robot."""
    num, seed = config.improve.num_eval, chance.integer(config.seed, "improve evaluation")
    envs = replace(EnvFactory.of(config), limits=calibration.limits(robot), arm=find_arm(robot.model))
    with envs.open(num) as env:
        rate = success_rate(env, policy, num=num, horizon=config.horizon, seed=seed)
    return wilson([1] * round(rate * num) + [0] * (num - round(rate * num))).as_json("states")


def _figures(
    tries: Sequence[MarkedTry], own: Sequence[MarkedTry], experience: Experience, values: Float[Tensor, " n"]
) -> dict[str, Any]:  # Any: JSON
    """Count what happened in the own tries of a round, and the robot minutes of all rounds so far."""
    names = sorted({name for one in own for name in one.limits})
    return {
        "minutes": round(sum(one.num_ticks for one in tries) * STEP_SECONDS / 60, 2),
        "num_tries": len(own),
        "num_ticks": sum(one.num_ticks for one in own),
        "num_good": sum(one.good for one in own),
        "num_takeovers": sum(one.num_takeovers for one in own),
        "num_compared": sum(one.better is not None for one in own),
        "num_without_help": sum(one.good and not one.by_person.any() for one in own),
        "person_ticks": int(sum(one.by_person.sum() for one in own)),
        "num_rows": len(experience),
        "explained_variance": float(1 - (experience.returns - values).var() / experience.returns.var()),
        "limits": {name: sum(one.limits.get(name, 0) for one in own) for name in names},
        "tries": [{"num_steps": len(one.by_person), "good": one.good, "takeovers": one.takeovers()} for one in own],
    }


def _refuse_other_robot(path: Path, robot: RobotConfig) -> None:
    text = json.dumps(robot.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    if not is_kept(path, _ROBOT):
        keep_file(path, _ROBOT, text)
    elif (before := (path / _ROBOT).read_text()) != text:
        old, new = json.loads(before), json.loads(text)
        names = ", ".join(name for name in new if new[name] != old.get(name))
        raise InputError(f"{path}: this round was begun with another {names}; give what {path / _ROBOT} says")


def _name(index: int) -> str:
    return f"try-{index:04d}"
