"""A small OpenVLA with random weights, under the names and shapes that OpenVLA's own code gives them.

`record_openvla.py` ran that code and wrote openvla_of_its_own_code.json: the shapes of its weights, which are drawn
here as they were there, and what it predicts with them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

RECORD: dict[str, Any] = json.loads(Path(__file__).with_name("openvla_of_its_own_code.json").read_text())
INSTRUCTION = "Lift it"
_ONES = ("norm1.weight", "norm2.weight", "norm.weight", "layernorm.weight", "scale_factor")


def picture() -> NDArray[np.uint8]:
    """Return the picture that OpenVLA's own code was shown."""
    return np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)


def weights() -> dict[str, Tensor]:
    """Draw the weights as they were drawn for OpenVLA's own code."""
    generator, drawn = torch.Generator().manual_seed(0), dict[str, Tensor]()
    for name, shape in sorted(RECORD["shapes"].items()):
        size = 0.3 if "lm_head" in name or "embed_tokens" in name else 0.15
        drawn[name] = torch.randn(shape, generator=generator) * size + (1.0 if name.endswith(_ONES) else 0.0)
    drawn["language_model.lm_head.weight"][31744:32000] *= 4
    return drawn


def tokenizer() -> Tokenizer:
    """Return a tokenizer that gives the prompt the ids that OpenVLA's own code was given."""
    words = ["In:", "What", "action", "should", "the", "robot", "take", "to", "lift", "it?", "Out:"]
    begin, *ids, empty = RECORD["prompt"]
    vocabulary = {"<unk>": 0, "<s>": begin, "▁": empty, **dict(zip(words, ids, strict=True))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return made


def checkpoint(folder: Path, *, dtype: torch.dtype = torch.float32, **entries: Any) -> Path:
    """Write a checkpoint in two shards."""
    folder.mkdir(exist_ok=True)
    config = RECORD["config"] | {"norm_stats": RECORD["norm_stats"], "text_config": RECORD["text_config"]}
    (folder / "config.json").write_text(json.dumps(config | entries))
    tokenizer().save(str(folder / "tokenizer.json"))
    index, drawn = {}, weights()
    for number, of_vision in ((1, True), (2, False)):
        names = [name for name in drawn if name.startswith("vision_backbone.") == of_vision]
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: drawn[name].to(dtype) for name in names}, folder / file)
        index |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder
