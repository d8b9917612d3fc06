"""Evaluate the stages on new starts: success or return, time, smoothness, a comparison by start, and videos."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.arm.demonstrations.digests import digests
from tercet.arm.instructed import by_instruction, sentences_of
from tercet.arm.networks.critic import load_critic
from tercet.arm.networks.reward_ensemble import RewardEnsemble
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play import video
from tercet.arm.play.agent import Agent, set_witness, sight_of
from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.play.episodes import ActionFunction, Episodes, play_rows, repeats, turns
from tercet.arm.play.retelling import Retell
from tercet.arm.policies.kinds import load_policy
from tercet.arm.policies.policy import Policy
from tercet.arm.preferences import audit
from tercet.arm.preferences.rounds import latest_model
from tercet.arm.scoring import REWARD_MODEL, scorer
from tercet.arm.sim.tasks.builtin import task_of
from tercet.arm.stages import reward_sizes, start_names, start_policy
from tercet.config.arm import ArmConfig, PpoConfig
from tercet.core.advantages import gae
from tercet.core.intervals import bootstrap, wilson
from tercet.errors import FailedError
from tercet.runs.atomic import replace_folder, write_text
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.runs.ranks import share
from tercet.train import chance
from tercet.train.device import device_of

VIDEOS = "videos"
Tree = dict[str, Any]  # Any: JSON


def run(folder: RunFolder, config: ArmConfig) -> None:
    """Evaluate every stage on the same new starts; write DIR/eval/starts.json, DIR/videos and the results."""
    stages, outcomes, envs = stages_of(folder, config), dict[str, Outcomes](), EnvFactory.of(config)
    data = digests(config, "eval")
    with (
        folder.step("eval", total=len(stages), shown=[], data=data) as step,
        envs.open(config.eval.num_states) as env,
    ):
        trials = Trials(env, config.eval.num_states, config.horizon, config.seed)
        hacked: dict[str, Tensor] = {}
        task, kept = task_of(config.env), dict[str, Episodes]()
        has_witness = config.reward.sees == "pictures" and folder.has_ended("ppo") and learns_reward(config)
        find_hacked = _hacks(folder, config, stages[0].policy) if has_witness else None
        if has_witness:
            set_witness(env, stages[0].policy)
        for index, stage in enumerate(stages):
            episodes = trials.play(stage)
            outcomes[stage.name] = outcomes_of(episodes)
            if task is not None and task.instructions and not stage.noise:
                kept[stage.name] = episodes
            if find_hacked:
                hacked[stage.name] = find_hacked(episodes)
            measured = outcomes[stage.name].measured(config.measure)
            step.log(index, {f"eval/{config.measure}/{stage.name}": float(measured.mean())})
        rows, instructed = _starts(outcomes, config.measure), dict[str, Tree]()
        if task is not None and kept:
            for row, sentence in zip(rows, sentences_of(task, kept[stages[0].name]), strict=True):
                row["sentence"] = sentence
            stage_of = {stage.name: stage for stage in stages}
            instructed["instructions"] = by_instruction(
                task,
                [(name, stage_of[name].policy) for name in kept],
                kept,
                lambda name, retell: trials.play(stage_of[name], retell),
            )
        share(lambda: write_text(step.path / "starts.json", json.dumps(rows, indent=1) + "\n"))
        videos: Tree = {"videos": []}
        if "ppo" in outcomes and config.eval.num_videos:
            sizes, model = sizes_of(env), _reward_model(folder, config, stages[0].policy)
            curves_of = (
                critic_curves(folder.path / "ppo" / "critic", sizes, config.ppo, model, _reward_scale(folder))
                if config.ppo.has_critic
                else reward_curves(config.ppo, model)
            )
            pair = (stages[0], stages[-1])
            before, after = (outcomes[stage.name] for stage in pair)
            starts = starts_to_show(before, after, config.eval.num_videos, config.measure)
            shown = [start for start, _ in starts]
            videos = share(lambda: _videos(folder.path, trials, pair, shown, curves_of, config.measure))
        by_return = config.measure == "return"
        step.finish(
            {
                **(_return_results(outcomes, config.seed) if by_return else _success_results(outcomes)),
                "return": {
                    name: bootstrap(one.returns.tolist(), config.seed).as_json("states")
                    for name, one in outcomes.items()
                },
                "action_change": {name: one.action_change for name, one in outcomes.items()},
                "jerk": {name: one.jerk for name, one in outcomes.items() if one.jerk is not None},
                **({"hacked": _rates(hacked)} if hacked else {}),
                **instructed,
                "same_starts": share(lambda: repeats(env, seed=trials.starts_seed)),
                **videos,
            },
            beside=[VIDEOS] if videos["videos"] else [],
        )


def _rates(by_stage: Mapping[str, Tensor]) -> Tree:
    """Return the share of True of each stage, with its interval."""
    return {name: wilson(one.int().tolist()).as_json("states") for name, one in by_stage.items()}


def _reward_model(folder: RunFolder, config: ArmConfig, policy: Policy) -> RewardEnsemble | None:
    """Load the reward model of the last update, if the reward is learned."""
    if not learns_reward(config):
        return None
    sizes = reward_sizes(policy, config.reward)
    return latest_model(folder.path, config.reward, sizes, num_updates=config.ppo.num_updates)


def _hacks(folder: RunFolder, config: ArmConfig, policy: Policy) -> Callable[[Episodes], Tensor] | None:
    """Return a function that finds the episodes whose end a reward from pictures calls a success, but is none.

    None, with a line that says so, if the reward has no threshold above which it calls a picture a success.
    """
    model = _reward_model(folder, config, policy)
    assert model is not None
    threshold = audit.threshold_of(model, audit.load_truth(audit.file_of(folder.path / "reward", audit.LEARNED)))
    if threshold == float("inf"):
        say(
            "eval: how many episodes are hacked is not known: none that the reward model learned from succeeds, so it "
            "has no threshold of success; raise reward.num_episodes"
        )
        return None
    return partial(audit.hacked, model, threshold)


def learns_reward(config: ArmConfig) -> bool:
    """Return True if the reward model is part of PPO's reward."""
    return REWARD_MODEL in config.ppo.reward


@dataclass(frozen=True)
class Stage:
    """A policy to evaluate, and the standard deviation of the noise on its actions."""

    name: str
    policy: Policy
    noise: float


@dataclass(frozen=True)
class Outcomes:
    """Measurements of a stage, one per start."""

    success: Bool[Tensor, " n"]  # at the end of the episode
    returns: Float[Tensor, " n"]  # sum of the dense reward
    times: Tensor  # steps until it stayed in success; the horizon if it never did
    action_change: float  # root mean square of the change of an action's entries from step to step
    jerk: float | None

    def measured(self, measure: str) -> Float[Tensor, " n"]:
        """Return what counts in the run (`ArmConfig.measure`)."""
        return self.returns if measure == "return" else self.success.float()

    def mean_time(self) -> float:
        """Mean steps to success over the starts that ended in success."""
        return float(self.times[self.success].float().mean())

    def of_start(self, index: int) -> Tree:
        """Return the measurements of one start."""
        return {
            "success": bool(self.success[index]),
            "return": float(self.returns[index]),
            "steps": int(self.times[index]),
        }


@dataclass(frozen=True)
class Trials:
    """Episodes from the starts of the evaluation, on which nothing was trained and no checkpoint selected."""

    env: VectorEnv
    num_starts: int
    horizon: int
    seed: int

    @property
    def starts_seed(self) -> int:
        """Seed of the starts."""
        return chance.integer(self.seed, "evaluation")

    def play(self, stage: Stage, retell: Retell = lambda observations: observations) -> Episodes:
        """Play the most likely actions of the stage, with its noise, from every start, given what `retell` tells it."""
        agent_of = self._agents(stage, retell)
        return play_rows(self.env, agent_of, self.num_starts, horizon=self.horizon, seed=self.starts_seed)

    def film(self, stage: Stage, starts: Sequence[int]) -> tuple[Episodes, list[list[video.Picture]]]:
        """Play the stage again from these starts, with a camera; FailedError without OpenGL."""
        slices = turns(self.num_starts, self.env.num_envs)
        agent_of = self._agents(stage)
        return video.film(self.env, agent_of, slices, starts, horizon=self.horizon, seed=self.starts_seed)

    def _agents(
        self, stage: Stage, retell: Retell = lambda observations: observations
    ) -> Callable[[slice], ActionFunction]:
        """Return a function from rows to the stage's actions there. Every call draws the same noise."""
        shape = (self.horizon, self.num_starts, stage.policy.sizes.action)
        noise = stage.noise * torch.randn(shape, generator=chance.generator(self.seed, "evaluation noise"))
        view = sight_of(self.env, stage.policy)

        def agent_of(rows: slice) -> ActionFunction:
            agent = Agent(stage.policy, view=view)
            return lambda step, states, fresh: (agent(step, retell(states), fresh) + noise[step, rows]).clamp(-1.0, 1.0)

        return agent_of


def stages_of(folder: RunFolder, config: ArmConfig) -> list[Stage]:
    """Return the stages: PPO's start (the clone, or a new policy), the same with noise, and PPO's policy."""
    start, start_with_noise = start_names(config.bc.demonstrations)
    envs = EnvFactory.of(config)
    device = device_of(config.device)
    policy = start_policy(folder, envs, config.policy, bc=config.bc, seed=config.seed)
    policy = policy.requires_grad_(False).to(device)
    stages = [Stage(start, policy, 0.0), Stage(start_with_noise, policy, config.eval.noise)]
    if folder.has_ended("ppo"):
        stages.append(Stage("ppo", load_policy(folder.path / "ppo" / "model", policy.sizes).to(device), 0.0))
    return stages


def outcomes_of(episodes: Episodes) -> Outcomes:
    """Measure the first episode of each row."""
    ends = episodes.first_ends()
    steps = torch.arange(episodes.dense.shape[1])
    inside = steps <= ends[:, None]
    in_success = (episodes.infos["success"] > 0.5) & inside
    # the first step after which it stayed in success to the end
    failing = ~in_success & inside
    last_failure = torch.where(failing.any(1), (failing * (steps + 1)).amax(1), torch.tensor(0))
    change = (episodes.actions[:, 1:] - episodes.actions[:, :-1]).square().mean(-1)
    jerk = episodes.infos.get("jerk")
    return Outcomes(
        success=episodes.succeeded(),
        returns=episodes.returns(),
        times=last_failure + 1,
        action_change=float(change[inside[:, 1:]].mean().sqrt()),
        jerk=None if jerk is None else float(jerk[inside].mean()),
    )


def paired(before: Outcomes, after: Outcomes) -> dict[str, int]:
    """Count the starts on which both succeed, only one of them, or neither."""
    first, second = before.success, after.success
    cases = {
        "both": first & second,
        "only_ppo": ~first & second,
        "only_start": first & ~second,
        "neither": ~(first | second),
    }
    return {name: int(rows.sum()) for name, rows in cases.items()}


def _success_results(outcomes: Mapping[str, Outcomes]) -> Tree:
    """Return success and the time until it, and the comparison start by start."""
    start = next(iter(outcomes.values()))
    return {
        "success": _rates({name: one.success for name, one in outcomes.items()}),
        "steps_to_success": {name: one.mean_time() for name, one in outcomes.items() if one.success.any()},
        "paired": paired(start, outcomes["ppo"]) if "ppo" in outcomes else {},
    }


def _return_results(outcomes: Mapping[str, Outcomes], seed: int) -> Tree:
    """Return how much more PPO earns than its start, over the starts, for a run without success."""
    if "ppo" not in outcomes:
        return {}
    gained = outcomes["ppo"].returns - next(iter(outcomes.values())).returns
    return {"return_gained": bootstrap(gained.tolist(), seed).as_json("states")}


def _reward_scale(folder: RunFolder) -> float:
    """Return the number that divided the rewards of the last update, which the critic has learned from."""
    scales = [row["ppo/reward_scale"] for row in folder.metrics() if "ppo/reward_scale" in row]
    return scales[-1] if scales else 1.0


CurvesOf = Callable[[Episodes], list[video.Curves]]


def _videos(
    run: Path,
    trials: Trials,
    stages: tuple[Stage, Stage],
    starts: Sequence[int],
    curves_of: CurvesOf,
    measure: str,
) -> Tree:
    """Write DIR/videos/*.mp4 of these starts. Without OpenGL there are none, and the reason is printed and returned."""
    try:
        filmed = [trials.film(stage, starts) for stage in stages]
    except FailedError as error:
        say(f"eval: no videos: {error}")
        return {"videos": [], "videos_missing": str(error)}
    curves = [curves_of(episodes) for episodes, _ in filmed]
    # those of the filmed episodes, which can differ from the measured ones if the environment ignores the seed
    returns = [episodes.returns() for episodes, _ in filmed]
    by_return = measure == "return"
    good = (
        [(returns[side] >= returns[1 - side]).tolist() for side in (0, 1)]
        if by_return
        else [episodes.succeeded().tolist() for episodes, _ in filmed]
    )

    def clip(side: int, index: int) -> video.Clip:
        title, verdict = _TITLES[stages[side].name], f"return {returns[side][index]:.4g}" if by_return else ""
        return video.Clip(title, filmed[side][1][index], curves[side][index], good[side][index], verdict)

    def write(partial: Path) -> None:
        for index, start in enumerate(starts):
            video.write(partial / f"start-{start}.mp4", clip(0, index), clip(1, index))

    replace_folder(run / VIDEOS, write)
    cases = [(_CASES_BY_RETURN if by_return else _CASES)[one] for one in zip(*good, strict=True)]
    return {
        "videos": [
            {"file": f"{VIDEOS}/start-{start}.mp4", "shows": case} for start, case in zip(starts, cases, strict=True)
        ]
    }


_TITLES = {"bc": "BC", "start": "before PPO", "ppo": "PPO"}
_CASES = {  # by the success of PPO's start and of PPO, in the order of preference
    (False, True): "only PPO succeeds",
    (True, True): "both succeed",
    (False, False): "neither succeeds",
    (True, False): "only PPO fails",
}
_CASES_BY_RETURN = {  # by whether each earned at least as much as the other
    (False, True): "PPO earns more",
    (True, True): "both earn the same",
    (True, False): "PPO earns less",
}


def starts_to_show(before: Outcomes, after: Outcomes, num: int, measure: str = "success") -> list[tuple[int, str]]:
    """Select starts and the case of each: first one start of every case, then those where only PPO succeeds, ...

    By return: the starts from the least to the largest gain, evenly spaced.
    """
    if measure == "return":
        gains = after.returns - before.returns
        order = gains.argsort(stable=True)[torch.linspace(0, len(gains) - 1, min(num, len(gains))).round().long()]
        earned = [(bool(gains[row] <= 0), bool(gains[row] >= 0)) for row in order]
        return [(int(row), _CASES_BY_RETURN[case]) for row, case in zip(order, earned, strict=True)]
    success = list(zip(before.success.tolist(), after.success.tolist(), strict=True))
    rows_of = {case: [row for row, one in enumerate(success) if one == key] for key, case in _CASES.items()}
    order = [(rows[0], case) for case, rows in rows_of.items() if rows]
    order += [(row, case) for case, rows in rows_of.items() for row in rows[1:]]
    return order[:num]


def reward_curves(ppo: PpoConfig, model: RewardEnsemble | None) -> CurvesOf:
    """Return a function from episodes to the reward of each row without KL penalty, for runs without a critic."""
    score = scorer(ppo.reward, model)
    return lambda episodes: [video.Curves(row) for row in score(episodes).steps]


def critic_curves(
    critic_folder: Path, sizes: Sizes, ppo: PpoConfig, model: RewardEnsemble | None, reward_scale: float = 1.0
) -> CurvesOf:
    """Return a function from episodes to the curves of each row: reward without KL penalty, value and advantage.

    `model` is the reward model of the last update. The critic predicts rewards divided by `reward_scale`; all curves
    are in the unit of the rewards themselves.
    """
    critic, score = load_critic(critic_folder, sizes), scorer(ppo.reward, model)

    @torch.no_grad()
    def curves_of(episodes: Episodes) -> list[video.Curves]:
        rewards, values = score(episodes), critic(episodes.observations) * reward_scale
        estimate = gae(
            rewards.for_learning(ppo.gamma),
            values,
            critic(episodes.next_observations) * reward_scale,
            torch.full_like(values, ppo.gamma, dtype=torch.float64),
            episodes.terminated,
            episodes.truncated,
            torch.ones_like(episodes.terminated),
            lam=ppo.lam,
        )
        return [video.Curves(*row) for row in zip(rewards.steps, values, estimate.advantages, strict=True)]

    return curves_of


def _starts(outcomes: Mapping[str, Outcomes], measure: str) -> list[Tree]:
    """Return one row per start: success, return and steps to success of every stage; or the return alone."""
    num = len(next(iter(outcomes.values())).success)
    rows = [{name: one.of_start(i) for name, one in outcomes.items()} for i in range(num)]
    if measure == "return":
        return [{name: {"return": one["return"]} for name, one in row.items()} for row in rows]
    return rows
