"""OpenVLA (Kim et al. 2024): a language model that sees one picture, reads a sentence and writes an action as tokens.

Its positions are the start of a text, the patches of the picture as two encoders see them, and the sentence; then one
token for each number of an action. Encoders and language model are frozen, with low-rank adapters on the linear layers
of the language model. For PPO the log-probability of an action is the sum over its tokens, as for a response.

OpenVLA could write any word. Here only the 256 action tokens are predicted, which it was trained to write.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tercet.arm.networks.adapters import adapt, freeze
from tercet.arm.networks.copies import copy_sharing
from tercet.arm.networks.files import check_sizes, load_weights, read_json, save_model
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.action_tokens import ActionTokens
from tercet.arm.policies.policy import Policy
from tercet.arm.policies.vla.openvla_files import HAND, OpenVlaFiles
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.workspace import STEPS
from tercet.config.arm import PolicyConfig
from tercet.errors import InputError

_MEANS = ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5))  # of colours, by encoder
_STDS = ((0.229, 0.224, 0.225), (0.5, 0.5, 0.5))
_TEXTS = ("base", "digest", "instruction", "unnorm_key")


class OpenVlaPolicy(ActionTokens):
    """A language model over [start, patches, sentence, token, token, ...]. It sees no numbers of an observation.

    An action of the robot is that of the environment, or moves of a hand as in OpenVLA's data: metres, radians, and a
    gripper from 0, closed, to 1. With joints as its actions it is the inner policy of a `JointPolicy`.
    """

    sees_itself, blind, has_scales = True, True, True
    begin: Tensor
    sentence: Tensor
    head: Tensor

    def __init__(
        self, files: OpenVlaFiles, sizes: Sizes, camera: Camera, *, instruction: str, unnorm_key: str, rank: int
    ) -> None:
        super().__init__(sizes, log_std=None)
        self.statistics = files.statistics(unnorm_key)
        self.num_tokens = self.noise_size = len(self.statistics.low)
        if self.num_tokens not in (sizes.action, HAND):
            raise InputError(
                f"{files.folder}: an action has {self.num_tokens} numbers; it must have {HAND}, as moves of a hand, "
                f"6, as joints of an SO-101, or {sizes.action}, as an action of this environment"
            )
        ids = files.prompt(instruction)
        self.cameras, self.digest = (camera,), files.digest()
        self.said = {"base": str(files.folder.resolve()), "instruction": instruction, "unnorm_key": unnorm_key}
        self.rank = rank
        self.eyes = nn.ModuleList(files.eye(name) for name in ("featurizer", "fused_featurizer"))
        self.projector, self.model = files.projector(), files.language_model()
        adapt(self.model.layers, rank=rank, alpha=2.0 * rank)
        for frozen in (self.eyes, self.projector, self.model.embed_tokens, self.model.norm):
            freeze(frozen)
        embedded = files.embedded(ids)
        self.register_buffer("begin", embedded[:1], persistent=False)
        self.register_buffer("sentence", embedded[1:], persistent=False)
        self.register_buffer("head", files.head(), persistent=False)

    def averages(self) -> dict[str, Float[Tensor, " n"]]:
        """Return the action in the middle of those of its training."""
        return {"action": (self.statistics.low + self.statistics.high) / 2}

    def explore_each(self, log_stds: Float[Tensor, " n"]) -> None:
        """Do nothing, as `explore`."""

    def read(self, observations: Float[Tensor, "n o"], *pictures: Tensor) -> Float[Tensor, "n s h"]:
        """Return the start, the patches of the picture, and the sentence."""
        with torch.no_grad():
            patches = self.patches(pictures[0])
        begin, sentence = (one.expand(len(patches), -1, -1) for one in (self.begin, self.sentence))
        return torch.cat([begin, patches, sentence], 1)

    def patches(self, pictures: UInt8[Tensor, "n _ _ 3"]) -> Float[Tensor, "n p h"]:
        """Return the patches of pictures as the language model reads them."""
        rows = pictures.permute(0, 3, 1, 2).float()
        side = self._side
        if rows.shape[-2:] != (side, side):
            rows = nn.functional.interpolate(rows, (side, side), mode="bicubic", antialias=True).round().clamp(0, 255)
        seen = []
        for eye, mean, std in zip(self.eyes, _MEANS, _STDS, strict=True):
            centre, size = (rows.new_tensor(one)[:, None, None] for one in (mean, std))
            seen.append(eye((rows / 255 - centre) / size))
        return self.projector(torch.cat(seen, -1))

    def encoded(self, actions: Float[Tensor, "*shape a"]) -> Float[Tensor, "*shape n"]:
        """Convert actions of the environment to numbers in [-1, 1]."""
        return self._scales().scaled(actions if self.num_tokens == self.sizes.action else _hand_of(actions))

    def decoded(self, numbers: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape a"]:
        """Convert numbers in [-1, 1] to actions of the environment."""
        robots = self._scales().robots(numbers)
        return robots if self.num_tokens == self.sizes.action else _moves_of(robots)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors: what was learned, and which checkpoint it is for."""
        cameras = [vars(camera) for camera in self.cameras]
        config = {"kind": "openvla", **self.sizes.numbers(), **self.said, "digest": self.digest, "rank": self.rank}
        save_model(self, folder, {**config, "cameras": cameras})

    def __deepcopy__(self, memo: dict[int, object]) -> "OpenVlaPolicy":
        """Copy what learns. The frozen weights are those of the original."""
        learned = set(self.state_dict())
        return copy_sharing(self, [one for name, one in self.named_buffers() if name not in learned], memo)

    @property
    def _side(self) -> int:
        return self.eyes[0].shape.image_size  # type: ignore[union-attr]  # a Vit

    def _scales(self) -> Any:  # Any: Statistics on the device of the weights
        statistics = copy.copy(self.statistics)
        return type(statistics)(*(one.to(self.device) for one in vars(self.statistics).values()))

    def _logits(self, hidden: Float[Tensor, "*shape h"]) -> Float[Tensor, "*shape 256"]:
        return hidden @ self.head.T


def _moves_of(robots: Float[Tensor, "*shape 7"]) -> Float[Tensor, "*shape 5"]:
    """Convert moves of a hand in metres and radians to ours. The hand points down, so two of its turns are left out."""
    steps = torch.from_numpy(STEPS).to(robots)
    moves = torch.cat([robots[..., :3], robots[..., 5:6]], -1) / steps[:4]
    return torch.cat([moves, 2 * robots[..., 6:] - 1], -1)


def _hand_of(actions: Float[Tensor, "*shape 5"]) -> Float[Tensor, "*shape 7"]:
    """Convert our moves to those of a hand in metres and radians."""
    steps = torch.from_numpy(STEPS).to(actions)
    moves = actions[..., :4] * steps[:4]
    turns = torch.zeros_like(moves[..., :2])
    return torch.cat([moves[..., :3], turns, moves[..., 3:], (actions[..., 4:] + 1) / 2], -1)


def new_openvla(sizes: Sizes, config: PolicyConfig) -> Policy:
    """Raise InputError: an OpenVLA is only ever loaded."""
    raise InputError("policy.kind=openvla starts from a checkpoint: give bc.policy=FOLDER or a hub id")


def start_openvla(files: OpenVlaFiles, sizes: Sizes, config: PolicyConfig, camera: Camera) -> OpenVlaPolicy:
    """Load a checkpoint, with adapters that have no effect yet. Raise InputError if it cannot be run."""
    if not config.instruction:
        raise InputError(f"bc.policy={files.folder}: reads a sentence; give it as policy.instruction")
    policy = OpenVlaPolicy(
        files,
        sizes,
        camera,
        instruction=config.instruction,
        unnorm_key=config.unnorm_key,
        rank=config.lora_rank,
    )
    return policy.eval()


def load_openvla(folder: Path, sizes: Sizes) -> OpenVlaPolicy:
    """Load a policy that `save` wrote, and freeze it. Raise InputError if its checkpoint is missing or another one."""
    file = folder / "config.json"
    tree = read_json(file)
    if tree.get("kind") != "openvla":
        raise InputError(f"{folder}: its actions are those of a robot; start a run from it with bc.policy={folder}")
    check_sizes(folder, {name: tree.get(name) for name in sizes.numbers()}, sizes.numbers())
    try:
        (one,), rank = tree["cameras"], tree["rank"]
        camera = Camera(one["name"], one["height"], one["width"])
        base, digest, instruction, key = (tree[name] for name in _TEXTS)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: must hold cameras, rank, {', '.join(_TEXTS)}; copy the folder again") from error
    if not Path(base).is_dir():
        raise InputError(
            f"{folder}: was trained on the checkpoint {base}, which is not there; correct `base` in {file}"
        )
    files = OpenVlaFiles(Path(base))
    policy = OpenVlaPolicy(files, sizes, camera, instruction=instruction, unnorm_key=key, rank=rank)
    if policy.digest != digest:
        raise InputError(f"{folder}: was trained on another checkpoint than {base} is now: its weights differ")
    return load_weights(policy, folder)
