"""A small SmolVLA with random weights, written by LeRobot as it writes every checkpoint. LeRobot must be installed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercet.arm.policies.joint import JointUnits
from tercet.config.load import load_robot_config

UNITS = JointUnits.of(load_robot_config("so101", []).calibration)
SENTENCE = "pick up the red cube"
_WORDS = ["<unk>", "<pad>", "<end>", "<fake>", "<image>", "<global>", "\n", *SENTENCE.split()]


def language_model(folder: Path) -> Path:
    """Write the config and the tokenizer of a small SmolVLM, which a checkpoint names."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(_WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    special = {"fake_image_token": "<fake>", "image_token": "<image>", "global_image_token": "<global>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<end>",
        extra_special_tokens=special,
    )
    SmolVLMConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(_WORDS),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "pad_token_id": 1,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        scale_factor=2,
        image_token_id=4,
        pad_token_id=1,
    ).save_pretrained(folder)
    SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor(), image_seq_len=4).save_pretrained(
        folder
    )
    return folder


def joints(num: int, seed: int = 0) -> torch.Tensor:
    """Return joints in degrees, of a hand somewhere in the workspace."""
    low, high = [0.16, -0.1, 0.03, -1, 0], [0.22, 0.1, 0.12, 1, 0.03]
    hands = np.random.default_rng(seed).uniform(low, high, (num, 5))
    return torch.from_numpy(UNITS.values(hands)).float()


def lerobots(
    folder: Path, *, cameras: Sequence[str] = ("front",), measured: bool = True, **changes: Any
) -> Path:  # Any: of LeRobot's config
    """Write a checkpoint, with the statistics of a data set if it is `measured`."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    images = {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, 48, 64)) for name in cameras}
    shape = {
        "chunk_size": 4,
        "n_action_steps": 3,
        "max_state_dim": 8,
        "max_action_dim": 8,
        "num_steps": 3,
        "num_vlm_layers": 2,
        "resize_imgs_with_padding": (32, 32),
    }
    config = SmolVLAConfig(
        vlm_model_name=str(language_model(folder / "language")),
        device="cpu",
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (6,)), **images},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
        **(shape | changes),
    )
    torch.manual_seed(0)
    policy, rows = SmolVLAPolicy(config), joints(50)
    stats = {"mean": rows.mean(0).numpy(), "std": rows.std(0).numpy(), "min": rows.amin(0).numpy()}
    stats["max"] = rows.amax(0).numpy()
    both = {"observation.state": stats, "action": stats} if measured else {}
    policy.save_pretrained(folder / "pretrained_model")
    for pipeline in make_pre_post_processors(config, dataset_stats=both):
        pipeline.save_pretrained(folder / "pretrained_model")
    return folder / "pretrained_model"
