"""Step 1, imitate: behaviour cloning, the policy drawn to what the demonstrations do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from tercet.arm.demonstrations.data import Demonstrations, demonstrate, is_scripted, load_recording
from tercet.arm.demonstrations.digests import digests
from tercet.arm.play.agent import sample_episodes
from tercet.arm.play.environments import bounds_of, opened, sizes_of
from tercet.arm.policies.kinds import new_policy
from tercet.arm.policies.roles import Policy
from tercet.arm.sim.cameras import cameras_of
from tercet.arm.stages import say_unseen
from tercet.config.arm import ArmConfig
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.train import chance
from tercet.train.fit import LossTerms, fit, shuffled_plan


def run(folder: RunFolder, config: ArmConfig) -> None:
    """Clone the demonstrations, try the clone on a few starts, and keep it in DIR/bc/model."""
    with opened(config, config.bc.num_demonstrations) as env:
        sizes, found = sizes_of(env), demonstrations(config, env)
    if found.num_missing:
        say(
            f"bc: {found.num_missing} frames are missing inside of demonstrations, and what is learned takes each jump "
            "for one step; `tercet arm data` tells more"
        )
    policy = new_policy(sizes, config.policy, seed=config.seed)
    rows = rows_of(found, policy.chunk)
    policy.measure(rows.observations, rows.actions[:, 0], *rows.pictures)
    say_unseen(policy, "bc", "in every demonstration")
    steps = shuffled_plan(len(rows), config.bc, seed=config.seed, name="bc")
    data = digests(config, "bc")
    with folder.step("bc", total=len(steps), shown=["bc/loss", "bc/lr"], data=data) as step:
        fit(
            step,
            modules={"policy": policy},
            plan=steps,
            micro_batches=lambda chosen: rows.micro_batches(chosen, config.bc.micro_batch_size),
            count=len,
            loss=lambda part: LossTerms(
                policy.imitation_loss(part.observations, part.actions, part.mask, *part.pictures), {}
            ),
            config=config.bc,
            seed=config.seed,
            metric_prefix="bc",
        )
        step.save_folder("model", policy.save)
        tried = tries(policy, config, config.bc.num_eval)
        num_steps = found.mask.numel() if is_scripted(config.bc.demonstrations) else 0
        seen: dict[str, float] = {"num": len(found), "num_rows": len(rows), "num_steps": num_steps}
        if found.success is not None:
            seen["success"] = float(found.success.float().mean())
        step.finish({"demonstrations": seen, "clone_success": tried})


@dataclass(frozen=True)
class Rows:
    """Single steps of demonstrations, each with the actions from there on; in no order."""

    observations: Float[Tensor, "n o"]
    actions: Float[Tensor, "n c a"]
    mask: Bool[Tensor, "n c"]  # False behind a demonstration's end
    pictures: tuple[UInt8[Tensor, "n _ _ 3"], ...] = ()  # of each camera

    def __len__(self) -> int:
        return len(self.observations)

    def micro_batches(self, chosen: Sequence[int], size: int) -> list["Rows"]:
        """The chosen rows, at most `size` at a time."""
        parts = torch.tensor(chosen).split(size)
        return [
            Rows(
                self.observations[part],
                self.actions[part],
                self.mask[part],
                tuple(seen[part] for seen in self.pictures),
            )
            for part in parts
        ]


def rows_of(found: Demonstrations, chunk: int) -> Rows:
    """Every step, with that and the next `chunk - 1` actions of its demonstration."""
    horizon = found.mask.shape[1]
    columns = torch.arange(horizon)[:, None] + torch.arange(chunk)
    inside = columns.clamp(max=horizon - 1)
    actions, mask = found.actions[:, inside], found.mask[:, inside] & (columns < horizon)
    pictures = tuple(seen[found.mask] for seen in found.pictures)
    return Rows(found.observations[found.mask], actions[found.mask], mask[found.mask], pictures)


def demonstrations(config: ArmConfig, env: VectorEnv) -> Demonstrations:
    """The scripted expert's, or those of a recording."""
    if is_scripted(config.bc.demonstrations):
        return demonstrate(env, config)
    return load_recording(
        Path(config.bc.demonstrations),
        sizes_of(env),
        config.bc,
        env=config.env,
        bounds=bounds_of(env),
        cameras=cameras_of(config.policy),
    )


def tries(policy: Policy, config: ArmConfig, num: int) -> float:
    """The policy's rate of success on a few starts that no other step uses."""
    seed = chance.integer(config.seed, "bc tries")
    with opened(config, num) as env:
        played = sample_episodes(env, policy, None, num=num, horizon=config.horizon, seed=seed)
    return float(played.episodes.succeeded().float().mean())
