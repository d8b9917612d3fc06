"""Read and write a SmolVLA through LeRobot, which is optional and imported only here, when a checkpoint is opened.

LeRobot builds the network, loads its weights, tokenizes the sentence, and holds the statistics of its processors. From
them is read what a policy needs: the cameras, and the mean and deviation by which states and actions are scaled.
"""

import contextlib
import io
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tercet.arm.networks.files import read_json
from tercet.arm.policies.act_files import ACTION, IMAGES, STATES
from tercet.errors import InputError, first_line
from tercet.train.chance import undisturbed

STATE = STATES["robot"]
_FAR = 1000.0  # a value at which an affine function is read, far enough from 0 that rounding does not matter
_STEPS = {
    "pre": {
        "rename_observations_processor",
        "to_batch_processor",
        "smolvla_new_line_processor",
        "tokenizer_processor",
        "device_processor",
        "normalizer_processor",
    },
    "post": {"unnormalizer_processor", "device_processor"},
}
_FIXED = {"n_obs_steps": 1, "adapt_to_pi_aloha": False, "use_delta_joint_actions_aloha": False}


@dataclass(frozen=True)
class Affine:
    """Mean and deviation by which numbers are scaled."""

    mean: Float[Tensor, " n"]
    std: Float[Tensor, " n"]


@dataclass(frozen=True)
class Checkpoint:
    """A SmolVLA as LeRobot holds it: the network, and the processors before and after it."""

    policy: Any  # Any: lerobot's SmolVLAPolicy; LeRobot is optional
    pre: Any  # Any: lerobot's PolicyProcessorPipeline
    post: Any  # Any: likewise

    def __deepcopy__(self, memo: dict[int, object]) -> "Checkpoint":
        """Copy the network, if it is not copied yet. Processors are never changed in place."""
        return replace(self, policy=deepcopy(self.policy, memo))

    @property
    def features(self) -> list[str]:
        """Names of the image features, in the order in which the network reads them."""
        return list(self.policy.config.image_features)

    @property
    def renamed(self) -> dict[str, str]:
        """Names that the checkpoint gives to features, by the name that a robot or a data set gives them."""
        return dict(_step(self.pre, "rename_observations_processor").rename_map)

    @property
    def has_scales(self) -> bool:
        """Return True if states and actions have statistics, or need none."""
        pairs = ((_step(self.pre, "normalizer_processor"), STATE), (_step(self.post, "unnormalizer_processor"), ACTION))
        return all(key in (step.stats or {}) or _mode(step, key) == "IDENTITY" for step, key in pairs)

    def state_scale(self) -> Affine:
        """Return the scale of states."""
        size = self.policy.config.robot_state_feature.shape[0]
        low, high = (self.pre({STATE: torch.full((1, size), value), "task": [""]})[STATE][0] for value in (0.0, _FAR))
        std = _FAR / (high - low)
        return Affine(-low * std, std)

    def action_scale(self) -> Affine:
        """Return the scale of actions."""
        size = self.policy.config.action_feature.shape[0]
        low, high = (self.post(torch.full((1, size), value))[0] for value in (0.0, _FAR))
        return Affine(low, (high - low) / _FAR)

    def tokens(self, sentence: str) -> tuple[Int[Tensor, "1 s"], Bool[Tensor, "1 s"]]:
        """Return the tokens of a sentence and their mask."""
        size = self.policy.config.robot_state_feature.shape[0]
        batch = self.pre({STATE: torch.zeros(1, size), "task": [sentence]})
        prefix = "observation.language"
        return batch[f"{prefix}.tokens"], batch[f"{prefix}.attention_mask"].bool()

    def with_scales(self, state: Affine, action: Affine) -> "Checkpoint":
        """Return it with other statistics, as `lerobot-train` replaces them by those of its data set."""
        from lerobot.processor import hotswap_stats  # pyright: ignore[reportMissingImports]  # an extra

        stats = {key: {"mean": one.mean, "std": one.std} for key, one in ((STATE, state), (ACTION, action))}
        return replace(self, pre=hotswap_stats(self.pre, stats), post=hotswap_stats(self.post, stats))

    def with_names(self, renamed: Mapping[str, str]) -> "Checkpoint":
        """Return it with other names of features."""
        pre = deepcopy(self.pre)
        _step(pre, "rename_observations_processor").rename_map = dict(renamed)
        return replace(self, pre=pre)

    def write(self, folder: Path) -> None:
        """Write LeRobot's files."""
        with contextlib.redirect_stdout(io.StringIO()):
            self.policy.save_pretrained(folder)
            self.pre.save_pretrained(folder)
            self.post.save_pretrained(folder)


def read(folder: Path) -> Checkpoint:
    """Load the files of LeRobot. Raise InputError if it is not installed, or if they are damaged or not supported."""
    _check_config(folder)
    try:
        from lerobot.configs import PreTrainedConfig  # pyright: ignore[reportMissingImports]  # an extra
        from lerobot.policies.factory import make_pre_post_processors  # pyright: ignore[reportMissingImports]
        from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"policy.kind=smolvla needs LeRobot ({first_line(error)}): pip install 'tercet[smolvla]' under Python 3.12"
        ) from error
    try:
        # LeRobot prints while it loads, and draws weights that are replaced
        with contextlib.redirect_stdout(io.StringIO()), undisturbed():
            config = PreTrainedConfig.from_pretrained(folder)
            # all weights are in the checkpoint; no part of it is to be downloaded first
            config.load_vlm_weights, config.compile_model, config.rtc_config = False, False, None
            config.device, config.use_cache = "cpu", True
            device = {"device_processor": {"device": "cpu"}}
            pre, post = make_pre_post_processors(
                config, str(folder), preprocessor_overrides=device, postprocessor_overrides=device
            )
            policy = SmolVLAPolicy.from_pretrained(folder, config=config).float()
    except Exception as error:  # LeRobot, transformers and the hub raise errors of many kinds
        raise InputError(f"{folder}: LeRobot cannot load it ({type(error).__name__}: {first_line(error)})") from error
    _check_weights(folder / "model.safetensors", policy)
    for name, pipeline in (("pre", pre), ("post", post)):
        steps = [_name(step) for step in pipeline.steps]
        if unknown := sorted(set(steps) - _STEPS[name]):
            raise InputError(f"{folder}: its {name}processor has the step {unknown[0]}, which is not supported")
    if any(_mode(_step(pre, "normalizer_processor"), key) != "IDENTITY" for key in policy.config.image_features):
        raise InputError(f"{folder}: normalization_mapping of VISUAL must be IDENTITY, as LeRobot trains SmolVLA")
    return Checkpoint(policy, pre, post)


def _check_config(folder: Path) -> None:
    """Raise InputError for a SmolVLA of another robot, before anything slow is imported."""
    file = folder / "config.json"
    tree = read_json(file)
    inputs, outputs = tree.get("input_features"), tree.get("output_features")
    if not isinstance(inputs, dict) or not isinstance(outputs, dict):
        raise InputError(f"{file}: lacks input_features or output_features; copy the folder again")
    for name, features in ((STATE, inputs), (ACTION, outputs)):
        shape = features[name].get("shape") if isinstance(features.get(name), dict) else None
        if shape != [6]:
            raise InputError(f"{folder}: {name} has shape {shape}; only the six joints of an SO-100 or SO-101 are read")
    if other := [key for key in inputs if key != STATE and not key.startswith(IMAGES)]:
        raise InputError(f"{folder}: the policy reads {other[0]}; only images and {STATE} are supported")
    for name, value in _FIXED.items():
        if tree.get(name, value) != value:
            raise InputError(f"{folder}: {name}={tree[name]} is not supported, only {value}")


def _check_weights(file: Path, policy: Any) -> None:  # Any: lerobot's SmolVLAPolicy
    """Raise InputError if weights are missing. LeRobot only logs it, and they would stay random."""
    try:
        with safe_open(file, "pt") as content:
            saved = set(content.keys())
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: damaged or missing ({first_line(error)})") from error
    needed = {name for name in policy.state_dict() if "lm_head" not in name}  # no word is ever predicted
    if missing := sorted(needed - saved):
        raise InputError(f"{file}: lacks {len(missing)} weights, such as {missing[0]}; copy the folder again")


def _step(pipeline: Any, name: str) -> Any:  # Any: lerobot's PolicyProcessorPipeline and ProcessorStep
    found = [step for step in pipeline.steps if _name(step) == name]
    if len(found) != 1:
        raise InputError(f"the processors of the checkpoint must have one step {name}, and have {len(found)}")
    return found[0]


def _name(step: Any) -> str:  # Any: lerobot's ProcessorStep
    return getattr(type(step), "_registry_name", type(step).__name__)


def _mode(step: Any, key: str) -> str:  # Any: lerobot's _NormalizationMixin
    feature = step.features.get(key)
    mode = step.norm_map.get(feature.type) if feature is not None else None
    return "IDENTITY" if mode is None else mode.value
