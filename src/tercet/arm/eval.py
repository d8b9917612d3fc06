"""What the steps made of the arm: success on fresh starts, how fast and how smoothly, start by start, and a video."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.arm.play import video
from tercet.arm.play.agent import Agent, camera_view
from tercet.arm.play.environments import opened, sizes_of
from tercet.arm.play.episodes import ActionFunction, Episodes, play_rows, repeats, turns
from tercet.arm.policies.kinds import load_policy
from tercet.arm.policies.roles import Policy, Sizes, load_critic
from tercet.arm.preferences.rounds import latest_model
from tercet.arm.scoring import OWN, scorer
from tercet.arm.stages import start_names, start_policy
from tercet.config.arm import ArmConfig
from tercet.core.advantages import gae
from tercet.core.intervals import bootstrap, wilson
from tercet.errors import FailedError
from tercet.runs.atomic import replace_folder, write_text
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.train import chance

VIDEOS = "videos"
Tree = dict[str, Any]  # Any: JSON


def run(folder: RunFolder, config: ArmConfig) -> None:
    """Try every stage on the same fresh starts; writes DIR/eval/starts.json, DIR/videos, and figures."""
    stages, tried = stages_of(folder, config), dict[str, Tried]()
    with folder.step("eval", total=len(stages), shown=[]) as step, opened(config, config.eval.num_states) as env:
        for index, stage in enumerate(stages):
            tried[stage.name] = attempt(env, stage, config)
            step.log(index, {f"eval/success/{stage.name}": float(tried[stage.name].success.float().mean())})
        write_text(step.path / "starts.json", json.dumps(_starts(tried), indent=1) + "\n")
        videos = _videos(env, stages, tried, folder, config)
        beside = [VIDEOS] if videos["videos"] else []
        step.finish(
            {
                "success": {name: wilson(one.success.int().tolist()).as_json("states") for name, one in tried.items()},
                "return": {
                    name: bootstrap(one.returns.tolist(), config.seed).as_json("states") for name, one in tried.items()
                },
                "steps_to_success": {name: one.mean_time() for name, one in tried.items() if one.success.any()},
                "action_change": {name: one.action_change for name, one in tried.items()},
                "jerk": {name: one.jerk for name, one in tried.items() if one.jerk is not None},
                "paired": paired(tried[stages[0].name], tried["ppo"]) if "ppo" in tried else {},
                "same_starts": repeats(env, seed=starts_seed(config)),
                **videos,
            },
            beside=beside,
        )


@dataclass(frozen=True)
class Stage:
    """A policy that is tried, and how much its action is shaken."""

    name: str
    policy: Policy
    noise: float


@dataclass(frozen=True)
class Tried:
    """What came of a stage on each start."""

    success: Bool[Tensor, " n"]  # at the end of the episode
    returns: Float[Tensor, " n"]  # the dense reward, summed
    times: Tensor  # steps until it was in success for good; the horizon where it never was
    action_change: float  # root mean square, from one step to the next, of each entry of an action
    jerk: float | None

    def mean_time(self) -> float:
        """Steps to success, in the mean over the starts that ended in success."""
        return float(self.times[self.success].float().mean())


def stages_of(folder: RunFolder, config: ArmConfig) -> list[Stage]:
    """PPO's start (the clone, or a fresh policy), the same with a little noise, and PPO's policy."""
    start, shaken = start_names(config)
    policy = start_policy(folder, config).requires_grad_(False)
    stages = [Stage(start, policy, 0.0), Stage(shaken, policy, config.eval.noise)]
    if folder.has_ended("ppo"):
        stages.append(Stage("ppo", load_policy(folder.path / "ppo" / "model", policy.sizes), 0.0))
    return stages


def attempt(env: VectorEnv, stage: Stage, config: ArmConfig) -> Tried:
    """The stage's most likely action, with its noise, on the starts of the evaluation."""
    agent_of, num = acting(stage, config, env), config.eval.num_states
    return measured(play_rows(env, agent_of, num, horizon=config.horizon, seed=starts_seed(config)))


def measured(episodes: Episodes) -> Tried:
    """Of each row's first episode."""
    ends = episodes.first_ends()
    steps = torch.arange(episodes.dense.shape[1])
    inside = steps <= ends[:, None]
    in_success = (episodes.infos["success"] > 0.5) & inside
    # the first step from which on it stayed in success to the end
    failing = ~in_success & inside
    last_failure = torch.where(failing.any(1), (failing * (steps + 1)).amax(1), torch.tensor(0))
    change = (episodes.actions[:, 1:] - episodes.actions[:, :-1]).square().mean(-1)
    jerk = episodes.infos.get("jerk")
    return Tried(
        success=episodes.succeeded(),
        returns=(episodes.dense * inside).sum(1),
        times=last_failure + 1,
        action_change=float(change[inside[:, 1:]].mean().sqrt()),
        jerk=None if jerk is None else float(jerk[inside].mean()),
    )


def acting(stage: Stage, config: ArmConfig, env: VectorEnv) -> Callable[[slice], ActionFunction]:
    """How a stage acts on some of the starts of the evaluation; every call draws the same noise."""
    shape = (config.horizon, config.eval.num_states, stage.policy.sizes.action)
    noise = stage.noise * torch.randn(shape, generator=chance.generator(config.seed, "evaluation noise"))
    view = camera_view(env, stage.policy.cameras)

    def agent_of(rows: slice) -> ActionFunction:
        most_likely = Agent(stage.policy, view=view)
        return lambda step, seen, fresh: (most_likely(step, seen, fresh) + noise[step, rows]).clamp(-1.0, 1.0)

    return agent_of


def starts_seed(config: ArmConfig) -> int:
    """The starts of the evaluation: no step has learned from them, and no checkpoint was chosen by them."""
    return chance.integer(config.seed, "evaluation")


def paired(before: Tried, after: Tried) -> dict[str, int]:
    """On how many of the same starts both succeed, only one of them, or neither."""
    first, second = before.success, after.success
    cases = {
        "both": first & second,
        "only_ppo": ~first & second,
        "only_start": first & ~second,
        "neither": ~(first | second),
    }
    return {name: int(rows.sum()) for name, rows in cases.items()}


def _videos(
    env: VectorEnv, stages: Sequence[Stage], tried: Mapping[str, Tried], folder: RunFolder, config: ArmConfig
) -> Tree:
    """DIR/videos/*.mp4 of a few telling starts; without OpenGL there are none, and why is said and kept."""
    if "ppo" not in tried or not config.eval.num_videos:
        return {"videos": []}
    left, right = stages[0], stages[-1]
    starts = [start for start, _ in telling(tried[left.name], tried[right.name], config.eval.num_videos)]
    judged = critics_eye(folder, config, sizes_of(env))
    try:
        filmed = [
            video.film(
                env,
                acting(stage, config, env),
                turns(config.eval.num_states, env.num_envs),
                starts,
                horizon=config.horizon,
                seed=starts_seed(config),
            )
            for stage in (left, right)
        ]
    except FailedError as error:
        say(f"eval: no videos: {error}")
        return {"videos": [], "videos_missing": str(error)}
    curves = [judged(episodes) for episodes, _ in filmed]
    # of what is shown, which is what was measured only where the environment begins alike from the same seed
    success = [episodes.succeeded().tolist() for episodes, _ in filmed]

    def take(side: int, stage: Stage, place: int) -> video.Clip:
        return video.Clip(_TITLES[stage.name], filmed[side][1][place], curves[side][place], success[side][place])

    def write(partial: Path) -> None:
        for place, start in enumerate(starts):
            video.write(partial / f"start-{start}.mp4", take(0, left, place), take(1, right, place))

    replace_folder(folder.path / VIDEOS, write)
    cases = [_CASES[one] for one in zip(*success, strict=True)]
    return {
        "videos": [
            {"file": f"{VIDEOS}/start-{start}.mp4", "shows": case} for start, case in zip(starts, cases, strict=True)
        ]
    }


_TITLES = {"bc": "BC", "start": "before PPO", "ppo": "PPO"}
_CASES = {  # by the success of the start and of PPO; the more telling come first
    (False, True): "only PPO succeeds",
    (True, True): "both succeed",
    (False, False): "neither succeeds",
    (True, False): "only PPO fails",
}


def telling(before: Tried, after: Tried, num: int) -> list[tuple[int, str]]:
    """Starts to be seen, and what each shows: first one of every case that there is, then where PPO alone succeeds."""
    found = list(zip(before.success.tolist(), after.success.tolist(), strict=True))
    rows = {case: [row for row, one in enumerate(found) if one == which] for which, case in _CASES.items()}
    order = [(found[0], case) for case, found in rows.items() if found]
    order += [(row, case) for case, found in rows.items() for row in found[1:]]
    return order[:num]


def critics_eye(folder: RunFolder, config: ArmConfig, sizes: Sizes) -> Callable[[Episodes], list[video.Curves]]:
    """Reward, value and advantage of episodes, a row each; the reward as PPO was last paid, without the KL."""
    critic = load_critic(folder.path / "ppo" / "critic", sizes)
    model = latest_model(folder, config, sizes) if OWN in config.ppo.reward else None
    score = scorer(config.ppo.reward, model)

    @torch.no_grad()
    def curves(episodes: Episodes) -> list[video.Curves]:
        pay, values = score(episodes), critic(episodes.observations)
        estimate = gae(
            pay.to_learn_from(config.ppo.gamma),
            values,
            critic(episodes.next_observations),
            torch.full_like(values, config.ppo.gamma, dtype=torch.float64),
            episodes.terminated,
            episodes.truncated,
            torch.ones_like(episodes.terminated),
            lam=config.ppo.lam,
        )
        return [video.Curves(*row) for row in zip(pay.steps, values, estimate.advantages, strict=True)]

    return curves


def _starts(tried: Mapping[str, Tried]) -> list[Tree]:
    """One row a start: every stage's success, return and steps to success."""
    num = len(next(iter(tried.values())).success)
    return [
        {
            name: {"success": bool(one.success[i]), "return": float(one.returns[i]), "steps": int(one.times[i])}
            for name, one in tried.items()
        }
        for i in range(num)
    ]
