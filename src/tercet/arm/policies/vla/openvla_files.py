"""Read an OpenVLA (Kim et al. 2024) from its files on the hub: shards of weights, tokenizer, statistics.

OpenVLA's own code runs with timm below 1.0 and transformers 4.40 only, so the network is built from the parts of this
project, under the names of its weights.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from tercet.arm.networks.files import read_json
from tercet.arm.networks.llama import Llama, LlamaShape
from tercet.arm.networks.vit import Vit, VitShape
from tercet.arm.policies.action_tokens import NUM_BINS
from tercet.errors import InputError, first_line
from tercet.train.chance import undisturbed

HAND = 7  # numbers of an action of OpenVLA's robots: moves of the hand, its turns, and the gripper
_IDS = ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"]
_NUM_HEADS = 16  # of both
_EMPTY = "▁"  # the token that OpenVLA reads before actions
_LLAMA = {  # of transformers, which OpenVLA's config leaves out
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
}
_FIXED = {
    "model_type": "openvla",
    "use_fused_vision_backbone": True,
    "n_action_bins": NUM_BINS,
    "timm_model_ids": _IDS,
    "timm_override_act_layers": [None, None],
    "image_resize_strategy": "resize-naive",
}


@dataclass(frozen=True)
class Statistics:
    """By which an action in [-1, 1] becomes one of the robot, where `mask` is True."""

    low: Float[Tensor, " n"]
    high: Float[Tensor, " n"]
    mask: Bool[Tensor, " n"]

    def robots(self, numbers: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape n"]:
        """Convert numbers in [-1, 1] to the robot's units."""
        return torch.where(self.mask, 0.5 * (numbers + 1) * (self.high - self.low) + self.low, numbers)

    def scaled(self, values: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape n"]:
        """Convert the robot's units to numbers, which may leave [-1, 1]."""
        return torch.where(self.mask, 2 * (values - self.low) / (self.high - self.low).clamp(min=1e-8) - 1, values)


@dataclass(frozen=True)
class OpenVlaFiles:
    """The files of a checkpoint in one folder. InputError names what is missing or not supported."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:  # Any: JSON
        """The checked config.json."""
        if any(self.folder.glob("action_head--*")):
            raise InputError(f"{self.folder}: OpenVLA-OFT's action heads are not supported, only OpenVLA's tokens")
        tree = read_json(self.folder / "config.json")
        for name, value in _FIXED.items():
            if tree.get(name) != value:
                raise InputError(f"{self.folder}: {name}={tree.get(name)} is not supported, only {value}")
        text, sizes = tree.get("text_config"), tree.get("image_sizes")
        if not isinstance(text, dict) or text.get("model_type") != "llama" or text.get("rope_scaling"):
            raise InputError(f"{self.folder}: its language model is no plain Llama, which alone is supported")
        if not isinstance(sizes, list) or len(set(sizes)) != 1 or not isinstance(sizes[0], int):
            raise InputError(f"{self.folder}: image_sizes={sizes} must be one size, twice")
        return tree

    @cached_property
    def shape(self) -> LlamaShape:
        """Sizes of the language model, with the action tokens as its vocabulary."""
        given = _LLAMA | {name: value for name, value in self.config["text_config"].items() if name in _LLAMA}
        keys = self.config["text_config"].get("num_key_value_heads") or given["num_attention_heads"]
        try:
            return LlamaShape(vocab_size=NUM_BINS, num_key_value_heads=keys, **given)
        except TypeError as error:
            raise InputError(f"{self.folder}: text_config is damaged ({first_line(error)})") from error

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary without the ids that pad it; the last ones are the action tokens."""
        return self.config["text_config"].get("vocab_size", 32000) - self.config.get("pad_to_multiple_of", 64)

    def statistics(self, key: str) -> Statistics:
        """Return the statistics of a data set; an empty `key` is for a checkpoint with one."""
        known = self.config.get("norm_stats") or {}
        if key not in known and (key or len(known) != 1):
            raise InputError(
                f"policy.unnorm_key={key}: the checkpoint has the statistics of {', '.join(sorted(known)) or 'none'}; "
                "name the data set of your robot"
            )
        action = known[key or next(iter(known))].get("action", {})
        try:
            low, high = (torch.tensor(action[name], dtype=torch.float32) for name in ("q01", "q99"))
            mask = torch.tensor(action.get("mask", [True] * len(low)), dtype=torch.bool)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.folder}: norm_stats of {key!r} need q01 and q99 of actions") from error
        if not low.shape == high.shape == mask.shape:
            raise InputError(f"{self.folder}: norm_stats of {key!r} have q01, q99 and mask of different lengths")
        return Statistics(low, high, mask)

    def prompt(self, instruction: str) -> list[int]:
        """Return the tokens of an instruction in the words of OpenVLA's training. The first begins a text."""
        file = self.folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise InputError(f"{file}: cannot be read ({first_line(error)})") from error
        begin, empty = tokenizer.token_to_id("<s>"), tokenizer.token_to_id(_EMPTY)
        if begin is None or empty is None:
            raise InputError(f"{file}: lacks <s> or {_EMPTY}, so it is not the tokenizer of a Llama 2")
        text = f"In: What action should the robot take to {instruction.lower()}?\nOut:"
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return [begin, *ids] if ids[-1] == empty else [begin, *ids, empty]

    def tensors(self, start: str) -> dict[str, Tensor]:
        """Return the weights whose names begin with `start`, without it."""
        found: dict[str, Tensor] = {}
        for file, names in self._names_by_file.items():
            if chosen := [name for name in names if name.startswith(start)]:
                with _opened(file) as weights:
                    found |= {name.removeprefix(start): weights.get_tensor(name) for name in chosen}
        return found

    def digest(self) -> str:
        """Return a digest by which a checkpoint differs from others: of its projector and its last norm."""
        digest = hashlib.sha256()
        for start in ("projector.", "language_model.model.norm."):
            for name, value in sorted(self.tensors(start).items()):
                digest.update(name.encode() + value.float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def eye(self, name: str) -> Vit:
        """Return an encoder of pictures, `featurizer` or `fused_featurizer`, in fp32, without its last block."""
        weights = {key: value.float() for key, value in self.tensors(f"vision_backbone.{name}.").items()}
        depth = 1 + max((int(key.split(".")[1]) for key in weights if key.startswith("blocks.")), default=-1)
        if depth < 2 or "patch_embed.proj.weight" not in weights or "blocks.0.mlp.fc1.weight" not in weights:
            raise InputError(f"{self.folder}: lacks the weights of vision_backbone.{name}")
        width, _, patch, _ = weights["patch_embed.proj.weight"].shape
        registers = weights.get("reg_token")
        shape = VitShape(
            image_size=self.config["image_sizes"][0],
            patch_size=patch,
            width=width,
            depth=depth - 1,
            num_heads=_NUM_HEADS,
            mlp_size=len(weights["blocks.0.mlp.fc1.weight"]),
            num_registers=0 if registers is None else registers.shape[1],
            has_class="cls_token" in weights,
            has_scale="blocks.0.ls1.scale_factor" in weights,
        )
        used = {key: value for key, value in weights.items() if not key.startswith((f"blocks.{depth - 1}.", "norm."))}
        used = {key: value for key, value in used.items() if not key.startswith("attn_pool.")}
        return self._loaded(lambda: Vit(shape), used)

    def projector(self) -> nn.Sequential:
        """Return what turns a patch into a position of the language model, in fp32."""
        weights = {name: value.float() for name, value in self.tensors("projector.").items()}
        if sorted(weights) != sorted(f"fc{number}.{kind}" for number in (1, 2, 3) for kind in ("weight", "bias")):
            raise InputError(f"{self.folder}: the weights of its projector are not fc1, fc2 and fc3")
        sizes = [weights["fc1.weight"].shape[1], *(len(weights[f"fc{number}.weight"]) for number in (1, 2, 3))]
        numbered = {f"{2 * int(name[2]) - 2}{name[3:]}": value for name, value in weights.items()}

        def build() -> nn.Sequential:
            first, second, third = (nn.Linear(*pair) for pair in pairwise(sizes))
            return nn.Sequential(first, nn.GELU(), second, nn.GELU(), third)

        return self._loaded(build, numbered)

    def language_model(self) -> Llama:
        """Return the language model with the action tokens as its vocabulary; its layers keep their type."""
        weights = self.tensors("language_model.model.")
        embeddings = weights.pop("embed_tokens.weight", None)
        if embeddings is None or len(embeddings) < self.vocab_size:
            raise InputError(f"{self.folder}: lacks embeddings of {self.vocab_size} tokens")
        weights = {name: value if value.ndim == 2 else value.float() for name, value in weights.items()}
        weights = {name: value for name, value in weights.items() if "rotary_emb" not in name}
        weights["embed_tokens.weight"] = self._actions_of(embeddings)
        return self._loaded(lambda: Llama(self.shape), weights)

    def head(self) -> Float[Tensor, "256 h"]:
        """Return the rows that give the logits of the action tokens, in fp32."""
        return self._actions_of(self.tensors("language_model.lm_head.")["weight"])

    def embedded(self, ids: list[int]) -> Float[Tensor, "n h"]:
        """Return the embeddings of tokens, in fp32."""
        return self.tensors("language_model.model.embed_tokens.")["weight"][ids].float()

    def _actions_of(self, rows: Float[Tensor, "v h"]) -> Float[Tensor, "256 h"]:
        return rows[self.vocab_size - NUM_BINS : self.vocab_size].float()

    def _loaded(self, build: Any, weights: Mapping[str, Tensor]) -> Any:  # Any: builds a network, which is returned
        with undisturbed(), torch.device("meta"):
            network = build()
        try:
            network.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise InputError(f"{self.folder}: its weights do not have the sizes of config.json") from error
        return network

    @cached_property
    def _names_by_file(self) -> dict[Path, list[str]]:
        index, file = self.folder / "model.safetensors.index.json", self.folder / "model.safetensors"
        if not index.exists():
            with _opened(file) as weights:
                return {file: list(weights.keys())}
        found: dict[Path, list[str]] = {}
        by_name = read_json(index).get("weight_map")
        for name, shard in (by_name if isinstance(by_name, dict) else {}).items():
            found.setdefault(self.folder / Path(shard).name, []).append(name)
        return found


@contextmanager
def _opened(file: Path) -> Iterator[Any]:  # Any: safetensors gives no type
    try:
        with safe_open(file, framework="pt") as weights:
            yield weights
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: damaged or missing ({first_line(error)})") from error
