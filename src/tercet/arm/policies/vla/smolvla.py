"""SmolVLA (Shukor et al. 2025) of LeRobot, over the six joints of an SO-101.

A language model that sees reads the sentence, the pictures and the joints. Its keys and values are what the action
expert attends to, which carries noise at time 1 to a chunk of joints at time 0, in Euler steps. The network is that of
LeRobot; here are its decisions and their probabilities.

A flow alone has no density that PPO could use. So noise of standard deviation exp(log_std) is added to the executed
joints in each step of a sampled decision, as in `policies/flow.py`. LeRobot's network carries more numbers than that:
those that pad an action to 32, and the joints of a chunk that are not executed. No noise is added to them, so they
follow from the others. `distribution` computes them anew, which makes the log-probability exact whatever they do.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from tercet.arm.networks.copies import copy_sharing
from tercet.arm.networks.files import read_json
from tercet.arm.networks.layers import Scaled
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.act_files import IMAGES
from tercet.arm.policies.distributions import Normal
from tercet.arm.policies.policy import Policy
from tercet.arm.policies.vla import smolvla_files
from tercet.arm.policies.vla.smolvla_files import STATE, Affine, Checkpoint
from tercet.arm.sim.cameras import Camera
from tercet.config.arm import PolicyConfig
from tercet.errors import InputError

FILE = "tercet.json"  # what LeRobot's files cannot hold
_LEARNING = ("action_in_proj", "action_out_proj", "action_time_mlp_in", "action_time_mlp_out")


@dataclass(frozen=True)
class Seen:
    """What the expert attends to: keys and values of pictures, sentence and joints."""

    mask: Bool[Tensor, "n p"]
    cache: Any  # Any: transformers' DynamicCache, which only `lm/` imports


class SmolVlaPolicy(Policy):
    """LeRobot's SmolVLA. A decision is the noise of a whole chunk, then the executed joints after each Euler step.

    Observations and actions are joints in the robot's units. The pictures of a decision are kept as the frozen encoder
    sees them, so PPO encodes each once. Encoder and language model never learn; cloning trains the expert and how
    joints are read, as LeRobot does, and PPO the expert alone.
    """

    tokens: Tensor
    token_mask: Tensor

    def __init__(
        self, checkpoint: Checkpoint, cameras: tuple[Camera, ...], *, instruction: str, log_std: float
    ) -> None:
        super().__init__()
        self.checkpoint, self.network = checkpoint, checkpoint.policy
        self.cameras, self.instruction = cameras, instruction
        config = checkpoint.policy.config
        size = config.action_feature.shape[0]
        self.sizes, self.chunk, self.num_steps = Sizes(size, size), config.n_action_steps, config.num_steps
        self.whole = (config.chunk_size, config.max_action_dim)
        self.width = self.chunk * size  # numbers of the executed joints
        self.noise_size = self.whole[0] * self.whole[1] + self.num_steps * self.width
        self.scaled = Scaled(size, limit=float("inf"))
        self.scaled_actions = Scaled(size, limit=float("inf"))
        self._adopt(checkpoint)
        tokens, mask = checkpoint.tokens(instruction)
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("token_mask", mask, persistent=False)
        self.log_std = nn.Parameter(torch.full((size,), log_std))
        self._keys = _keys_of(cameras, checkpoint)
        # LeRobot's network encodes pictures where it reads them; here `look` has done so before
        self._encode = self.model.vlm_with_expert.embed_image
        self.model.vlm_with_expert.embed_image = _given
        self.requires_grad_(False)

    @property
    def model(self) -> Any:  # Any: lerobot's VLAFlowMatching
        """The network without the handling of batches."""
        return self.network.model

    @property
    def has_scales(self) -> bool:
        """Return True if the checkpoint knows the scales of states and actions."""
        return self.checkpoint.has_scales

    def averages(self) -> dict[str, Float[Tensor, " n"]]:
        """Return the average state and action of its training."""
        return {"state": self.scaled.mean, "action": self.scaled_actions.mean}

    @torch.no_grad()
    def look(self, *pictures: UInt8[Tensor, "*shape _ _ 3"]) -> tuple[Float[Tensor, "*shape p h"], ...]:
        """Return the embeddings of the pictures of each camera."""
        embedded = []
        for key, images in zip(self._keys, pictures, strict=True):
            rows = images.flatten(0, -4).permute(0, 3, 1, 2).float() / 255
            (resized, *_), _ = self.network.prepare_images({key: rows})
            embedded.append(self._encode(resized).unflatten(0, images.shape[:-3]))
        return tuple(embedded)

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape z"] | None, *pictures: Tensor
    ) -> Float[Tensor, "*shape d"]:
        """Sample the chain of a decision from standard normal noise; without noise, start at 0 and take the means."""
        seen, num = self._seen(observations, pictures), observations.shape[:-1].numel()
        draws = None if noise is None else noise.flatten(0, -2)
        start = observations.new_zeros(num, self.noise_size - self.num_steps * self.width)
        start = start if draws is None else draws[:, : start.shape[1]]
        latent, chain = start.unflatten(1, self.whole), [start]
        added = None if draws is None else draws[:, start.shape[1] :].split(self.width, 1)
        for step in range(self.num_steps):
            latent = self._stepped(seen, latent, step)
            executed = self._executed(latent)
            if added is not None:
                executed = executed + self._stds() * added[step]
                latent = self._replaced(latent, executed)
            chain.append(executed)
        return torch.cat(chain, 1).unflatten(0, observations.shape[:-1])

    def actions(self, decisions: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape c a"]:
        """Return the joints at the end of the chain, in the robot's units."""
        joints = decisions[..., -self.width :].unflatten(-1, (self.chunk, self.sizes.action))
        return joints * self.scaled_actions.std + self.scaled_actions.mean

    def distribution(
        self, observations: Float[Tensor, "*shape o"], decisions: Float[Tensor, "*shape d"], *pictures: Tensor
    ) -> Normal:
        """Return the distribution of these chains, given the noise that each started from."""
        seen, rows = self._seen(observations, pictures), decisions.flatten(0, -2)
        num_start = rows.shape[1] - self.num_steps * self.width
        latent, chosen, means = rows[:, :num_start].unflatten(1, self.whole), rows[:, num_start:], []
        for step, executed in enumerate(chosen.split(self.width, 1)):
            latent = self._stepped(seen, latent, step)
            means.append(self._executed(latent))
            latent = self._replaced(latent, executed)
        shape, log_std = decisions.shape[:-1], self.log_std.repeat(self.chunk * self.num_steps)
        mean = torch.cat(means, 1).unflatten(0, shape)
        return Normal(decisions[..., num_start:], mean, log_std, self.num_steps)

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b c a"],
        mask: Bool[Tensor, "b c"],
        *pictures: UInt8[Tensor, "b _ _ 3"],
    ) -> Float[Tensor, ""]:
        """Return LeRobot's loss: the squared error of the velocity, mean over existing joints, sum over rows.

        Noise and times are drawn by torch's global generator, which `fit` seeds.
        """
        rest = self.whole[0] - actions.shape[1]  # of the network's chunk, which is not executed
        targets = (actions - self.scaled_actions.mean) / self.scaled_actions.std
        targets = functional.pad(targets, (0, self.whole[1] - self.sizes.action, 0, rest))
        images, masks = self._images(self.look(*pictures))
        losses = self.model.forward(images, masks, *self._sentence(len(actions)), self._state(observations), targets)
        error = losses[:, : actions.shape[1], : self.sizes.action].mean(-1)
        return ((error * mask).sum(1) / mask.sum(1)).sum()

    def measure(
        self, observations: Float[Tensor, "*shape o"], actions: Float[Tensor, "*shape a"], *pictures: Tensor
    ) -> None:
        """Set the scales from demonstrations, as `lerobot-train` does; for a checkpoint without any."""
        for scaled, rows in ((self.scaled, observations), (self.scaled_actions, actions)):
            scaled.measure_with_min_std(rows)
        state, action = (Affine(one.mean.cpu(), one.std.cpu()) for one in (self.scaled, self.scaled_actions))
        self.checkpoint = self.checkpoint.with_scales(state, action)
        self._adopt(self.checkpoint)

    def explore(self, log_std: float) -> None:
        """Set the log standard deviation of the noise of each step, in standardised joints; freeze what PPO leaves."""
        self.explore_each(log_std + self.scaled_actions.std.log())

    def explore_each(self, log_stds: Float[Tensor, " a"]) -> None:
        """Set the log standard deviation of the noise of each step, by joint, in the robot's units.

        How joints are read is frozen: what the expert attends to then needs no gradients.
        """
        self.log_std.data.copy_(log_stds.to(self.device) - self.scaled_actions.std.log())
        self.model.state_proj.requires_grad_(False)

    def requires_grad_(self, requires_grad: bool = True) -> "SmolVlaPolicy":
        """Let the expert, the projections and the deviation learn, or freeze them; all else stays frozen."""
        super().requires_grad_(False)
        for part in self._learning():
            part.requires_grad_(requires_grad)
        return self

    def save(self, folder: Path) -> None:
        """Write LeRobot's files and tercet.json."""
        self.checkpoint.write(folder)
        cameras = [vars(camera) for camera in self.cameras]
        own = {"instruction": self.instruction, "cameras": cameras, "log_std": self.log_std.tolist()}
        (folder / FILE).write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")

    def __deepcopy__(self, memo: dict[int, object]) -> "SmolVlaPolicy":
        """Copy what learns. Encoder and language model are those of the original."""
        return copy_sharing(self, self.model.vlm_with_expert.vlm.parameters(), memo)

    def _learning(self) -> Iterator[nn.Module | nn.Parameter]:
        yield from (getattr(self.model, name) for name in _LEARNING)
        yield self.model.vlm_with_expert.lm_expert
        yield self.model.state_proj
        yield self.log_std

    def _adopt(self, checkpoint: Checkpoint) -> None:
        scales = ((self.scaled, checkpoint.state_scale()), (self.scaled_actions, checkpoint.action_scale()))
        for scaled, affine in scales:
            scaled.mean.copy_(affine.mean)
            scaled.std.copy_(affine.std)

    def _seen(self, observations: Float[Tensor, "*shape o"], pictures: tuple[Tensor, ...]) -> Seen:
        """Return what the expert attends to."""
        from lerobot.policies.common.vla_utils import (  # pyright: ignore[reportMissingImports]  # an extra
            make_att_2d_masks,
        )

        rows = observations.flatten(0, -2)
        images, masks = self._images(tuple(one.flatten(0, -3) for one in pictures))
        embedded, mask, later = self.model.embed_prefix(
            images, masks, *self._sentence(len(rows)), state=self._state(rows)
        )
        _, cache = self.model.vlm_with_expert.forward(
            attention_mask=make_att_2d_masks(mask, later),
            position_ids=mask.cumsum(1) - 1,
            past_key_values=None,
            inputs_embeds=[embedded, None],
            use_cache=True,
        )
        return Seen(mask, cache)

    def _stepped(self, seen: Seen, latent: Float[Tensor, "n w m"], step: int) -> Float[Tensor, "n w m"]:
        """Return the whole chunk after an Euler step."""
        time = latent.new_full((len(latent),), 1.0 - step / self.num_steps)
        velocity = self.model.denoise_step(
            prefix_pad_masks=seen.mask, past_key_values=seen.cache, x_t=latent, timestep=time
        )
        return latent - velocity / self.num_steps

    def _executed(self, latent: Float[Tensor, "n w m"]) -> Float[Tensor, "n d"]:
        return latent[:, : self.chunk, : self.sizes.action].flatten(1)

    def _replaced(self, latent: Float[Tensor, "n w m"], executed: Float[Tensor, "n d"]) -> Float[Tensor, "n w m"]:
        """Return the chunk with other executed joints."""
        replaced = latent.clone()
        replaced[:, : self.chunk, : self.sizes.action] = executed.unflatten(1, (self.chunk, self.sizes.action))
        return replaced

    def _stds(self) -> Float[Tensor, " d"]:
        return self.log_std.exp().repeat(self.chunk)

    def _state(self, observations: Float[Tensor, "n o"]) -> Float[Tensor, "n m"]:
        return self.network.prepare_state({STATE: self.scaled(observations)})

    def _sentence(self, num: int) -> tuple[Tensor, Tensor]:
        return self.tokens.expand(num, -1), self.token_mask.expand(num, -1)

    def _images(self, embedded: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the embedded pictures and their masks in the order in which the network reads them."""
        order = sorted(range(len(embedded)), key=lambda one: self.checkpoint.features.index(self._keys[one]))
        images = [embedded[one] for one in order]
        return images, [image.new_ones(len(image), dtype=torch.bool) for image in images]


def new_smolvla(sizes: Sizes, config: PolicyConfig) -> Policy:
    """Raise InputError: a SmolVLA is only ever loaded."""
    raise InputError("policy.kind=smolvla starts from a checkpoint: give bc.policy=FOLDER or a hub id")


def start_smolvla(
    folder: Path, cameras: tuple[Camera, ...], *, instruction: str, names: Mapping[str, str]
) -> SmolVlaPolicy:
    """Load a checkpoint that LeRobot trained and freeze it; `names` has its own names of cameras, if they differ.

    Raise InputError if it does not know the cameras, or if there is no sentence to tell it.
    """
    saved = _saved(folder)
    instruction = instruction or saved.get("instruction", "")
    if not instruction:
        raise InputError(f"bc.policy={folder}: reads a sentence; give it as policy.instruction")
    checkpoint = smolvla_files.read(folder)
    if unknown := sorted(set(names) - {camera.name for camera in cameras}):
        raise InputError(f"bc.policy_cameras: {unknown[0]} is none of policy.cameras")
    given = {IMAGES + camera.name: IMAGES + names[camera.name] for camera in cameras if camera.name in names}
    if given:
        checkpoint = checkpoint.with_names(checkpoint.renamed | given)
    return SmolVlaPolicy(checkpoint, cameras, instruction=instruction, log_std=0.0).eval()


def load_smolvla(folder: Path) -> SmolVlaPolicy:
    """Load a policy that `save` wrote, and freeze it. Raise InputError if it is damaged."""
    saved, file = _saved(folder), folder / FILE
    try:
        cameras = tuple(Camera(one["name"], one["height"], one["width"]) for one in saved["cameras"])
        log_std, instruction = torch.tensor(saved["log_std"]), saved["instruction"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: must hold instruction, cameras and log_std; copy the folder again") from error
    policy = SmolVlaPolicy(smolvla_files.read(folder), cameras, instruction=instruction, log_std=0.0)
    policy.log_std.data.copy_(log_std)
    return policy.eval()


def _saved(folder: Path) -> dict[str, Any]:  # Any: JSON
    return read_json(folder / FILE) if (folder / FILE).exists() else {}


def _keys_of(cameras: tuple[Camera, ...], checkpoint: Checkpoint) -> list[str]:
    """Return the checkpoint's feature of each camera. Raise InputError if it has none for one of them."""
    features, keys = checkpoint.features, []
    for camera in cameras:
        key = checkpoint.renamed.get(IMAGES + camera.name, IMAGES + camera.name)
        if key not in features:
            known = ", ".join(feature.removeprefix(IMAGES) for feature in features)
            raise InputError(
                f"policy.cameras: the checkpoint has no camera {camera.name}; it has {known}; say which it is with "
                f"bc.policy_cameras={{{camera.name}: {features[0].removeprefix(IMAGES)}}}"
            )
        keys.append(key)
    if len(set(keys)) < len(keys):
        raise InputError("bc.policy_cameras: two cameras cannot be the same camera of the checkpoint")
    return keys


def _given(image: Tensor) -> Tensor:
    """Return what `look` has encoded."""
    return image
