"""Step 1: behaviour cloning, which trains the policy to imitate demonstrations."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from tercet.arm.demonstrations.data import (
    NONE,
    Demonstrations,
    is_scripted,
    load_recording,
    play_expert,
    recording_of,
)
from tercet.arm.demonstrations.digests import digests
from tercet.arm.play.agent import sample_episodes
from tercet.arm.play.environments import EnvFactory, bounds_of, sizes_of
from tercet.arm.policies.checkpoint import adopt_scales
from tercet.arm.policies.kinds import new_policy
from tercet.arm.policies.policy import Policy
from tercet.arm.sim.cameras import cameras_of
from tercet.arm.stages import from_checkpoint, say_unused
from tercet.config.arm import ArmConfig
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.train import chance
from tercet.train.device import device_of
from tercet.train.fit import LossTerms, fit, shuffled_plan
from tercet.train.parallel import own_share


def run(folder: RunFolder, config: ArmConfig) -> None:
    """Train a clone of the demonstrations, measure its success, and save it in DIR/bc/model."""
    if config.bc.demonstrations == NONE:
        raise InputError(
            "bc.demonstrations=none: there is nothing to clone; give bc.demonstrations=expert or a recording, or start "
            "with PPO (tercet arm run)"
        )
    envs = EnvFactory.of(config)
    with envs.open(config.bc.num_demonstrations) as env:
        sizes, demonstrations = sizes_of(env), load_demonstrations(config, env)
    if demonstrations.num_missing:
        say(
            f"bc: {demonstrations.num_missing} frames are missing inside of demonstrations; each gap is learned as one "
            "step; `tercet arm data` shows more"
        )
    device = device_of(config.device)
    if config.bc.policy:
        policy = from_checkpoint(config.bc, sizes, config.policy)
    else:
        policy = new_policy(sizes, config.policy, seed=config.seed)
    rows = rows_of(demonstrations, policy.chunk)
    if config.bc.policy:
        adopt_scales(config.bc.policy, policy, rows.observations, rows.actions)
    else:
        policy.measure(rows.observations, rows.actions[:, 0], *rows.pictures)
    if demonstrations.absent is not None:
        policy.scaled.leave(demonstrations.absent)  # the critic starts with this scale, and sees them in simulation
    say_unused(policy, "bc", "in every demonstration")
    policy = policy.to(device)
    steps = shuffled_plan(len(rows), config.bc, seed=config.seed, name="bc")
    data = digests(config, "bc")
    with folder.step("bc", total=len(steps), shown=["bc/loss", "bc/lr"], data=data) as step:
        fit(
            step,
            modules={"policy": policy},
            plan=steps,
            micro_batches=lambda chosen: [
                part.to(device) for part in rows.micro_batches(own_share(chosen), config.bc.micro_batch_size)
            ],
            count=len,
            loss=lambda part: LossTerms(
                policy.imitation_loss(part.observations, part.actions, part.mask, *part.pictures), {}
            ),
            config=config.bc,
            seed=config.seed,
            metric_prefix="bc",
        )
        step.save_folder("model", policy.save)
        num, seed = config.bc.num_eval, chance.integer(config.seed, "bc tries")  # starts that no other step uses
        with envs.open(num) as env:
            played = sample_episodes(env, policy, None, num=num, horizon=config.horizon, seed=seed).episodes
        num_steps = demonstrations.mask.numel() if is_scripted(config.bc.demonstrations) else 0
        figures: dict[str, float] = {"num": len(demonstrations), "num_rows": len(rows), "num_steps": num_steps}
        if demonstrations.success is not None:
            figures["success"] = float(demonstrations.success.float().mean())
        measured = played.returns() if config.measure == "return" else played.succeeded().float()
        step.finish({"demonstrations": figures, f"clone_{config.measure}": float(measured.mean())})


@dataclass(frozen=True)
class Rows:
    """Steps of demonstrations, each with its action and the next ones."""

    observations: Float[Tensor, "n o"]
    actions: Float[Tensor, "n c a"]
    mask: Bool[Tensor, "n c"]  # False after the end of a demonstration
    pictures: tuple[UInt8[Tensor, "n _ _ 3"], ...] = ()  # per camera

    def __len__(self) -> int:
        return len(self.observations)

    def to(self, device: torch.device) -> "Rows":
        """Copy them to a device."""
        pictures = tuple(images.to(device) for images in self.pictures)
        return Rows(self.observations.to(device), self.actions.to(device), self.mask.to(device), pictures)

    def micro_batches(self, chosen: Sequence[int], size: int) -> list["Rows"]:
        """Split these rows into parts of at most `size`."""
        parts = torch.tensor(chosen, dtype=torch.long).split(size) if chosen else ()  # a rank may have no rows
        return [
            Rows(
                self.observations[part],
                self.actions[part],
                self.mask[part],
                tuple(images[part] for images in self.pictures),
            )
            for part in parts
        ]


def rows_of(demonstrations: Demonstrations, chunk: int) -> Rows:
    """Return every step with its action and the next `chunk - 1` actions of its demonstration."""
    valid = demonstrations.mask
    horizon = valid.shape[1]
    columns = torch.arange(horizon)[:, None] + torch.arange(chunk)
    inside = columns.clamp(max=horizon - 1)
    actions, mask = demonstrations.actions[:, inside], valid[:, inside] & (columns < horizon)
    pictures = tuple(images[valid] for images in demonstrations.pictures)
    return Rows(demonstrations.observations[valid], actions[valid], mask[valid], pictures)


def load_demonstrations(config: ArmConfig, env: VectorEnv) -> Demonstrations:
    """Return the demonstrations of the config: of a scripted expert, played now, or of a recording."""
    cameras = cameras_of(config.policy)
    if is_scripted(config.bc.demonstrations):
        return play_expert(env, config.bc, horizon=config.horizon, seed=config.seed, cameras=cameras)
    return load_recording(
        recording_of(config.bc),
        sizes_of(env),
        config.bc,
        env=config.env,
        bounds=bounds_of(env),
        cameras=cameras,
        sees_itself=config.policy.sees == "itself",
    )


def success_rate(env: VectorEnv, policy: Policy, *, num: int, horizon: int, seed: int) -> float:
    """Play the most likely actions of the policy in `num` episodes; return the share that succeed."""
    played = sample_episodes(env, policy, None, num=num, horizon=horizon, seed=seed)
    return float(played.episodes.succeeded().float().mean())
