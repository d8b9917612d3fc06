"""Write openvla_of_its_own_code.json: what OpenVLA's own code predicts with small random weights. Not a test.

It needs OpenVLA's repository and the versions that its code names, in an environment without Tercet:
`pip install timm==0.9.10 transformers==4.40.1`, then `python record_openvla.py OPENVLA/prismatic/extern/hf`.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

TOY = [[-0.03, -0.04, -0.02, -0.1, -0.2, -0.3, 0.0], [0.03, 0.05, 0.04, 0.1, 0.2, 0.25, 1.0]]
STATISTICS = {
    "toy": {"action": {"q01": TOY[0], "q99": TOY[1], "mask": [True] * 6 + [False]}},
    "other": {"action": {"q01": [-1.0] * 5, "q99": [1.0] * 5}},
}
TEXT = {
    "vocab_size": 32064,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SMALL: dict[str, dict[str, Any]] = {
    "vit_large_patch14_reg4_dinov2.lvd142m": {
        "embed_dim": 32,
        "reg_tokens": 4,
        "no_embed_class": True,
        "init_values": 1,
    },
    "vit_so400m_patch14_siglip_224": {"embed_dim": 48, "mlp_ratio": 3.7362, "class_token": False, "global_pool": "map"},
}
ONES = ("norm1.weight", "norm2.weight", "norm.weight", "layernorm.weight", "scale_factor")
IDS = [1, 512, 1724, 3158, 881, 278, 19964, 2125, 304, 12021, 372, 4451]
EMPTY, FIRST, LAST = 29871, 31744, 32000
KEPT = ("arch_specifier", "image_resize_strategy", "image_sizes", "model_type", "n_action_bins", "pad_to_multiple_of")
KEPT += ("timm_model_ids", "timm_override_act_layers", "use_fused_vision_backbone")


def smaller(name: str, *, pretrained: bool, **given: Any) -> VisionTransformer:
    """Create the encoder of timm that has this name, with fewer and narrower blocks."""
    return VisionTransformer(patch_size=14, depth=3, num_heads=16, **given, **SMALL[name])


def draw(state: dict[str, torch.Tensor]) -> None:
    """Set the weights, in the order of their names."""
    generator = torch.Generator().manual_seed(0)
    for name, value in sorted(state.items()):
        size = 0.3 if "lm_head" in name or "embed_tokens" in name else 0.15
        value.copy_(torch.randn(value.shape, generator=generator) * size + (1.0 if name.endswith(ONES) else 0.0))
    state["language_model.lm_head.weight"][FIRST:LAST] *= 4


def pixels() -> torch.Tensor:
    """Return the picture as each of the two encoders gets it."""
    picture = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    rows = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
    scales = (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,) * 3, (0.5,) * 3))
    parts = [(rows - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None] for mean, std in scales]
    return torch.cat(parts)[None]


@torch.no_grad()
def record(model: Any) -> dict[str, Any]:
    """Return tokens and actions by data set, and logits and patches of the first."""
    found: dict[str, Any] = {}
    for key in STATISTICS:
        given = {"pixel_values": pixels(), "do_sample": False}
        found[key] = model.predict_action(torch.tensor([IDS]), unnorm_key=key, **given).tolist()
        num = len(found[key])
        found[f"{key}_tokens"] = model.generate(torch.tensor([[*IDS, EMPTY]]), max_new_tokens=num, **given)[
            0, -num:
        ].tolist()
    read = torch.tensor([[*IDS, EMPTY, *found["toy_tokens"][:-1]]])
    whole = model(input_ids=read, pixel_values=pixels(), output_projector_features=True)
    logits = whole.logits[0, -7:, FIRST:LAST:32]
    found["logits"] = [[round(one, 5) for one in row] for row in logits.tolist()]
    found["patches"] = [[round(one, 6) for one in row[:4]] for row in whole.projector_features[0].tolist()]
    return found


def main(code: Path) -> None:
    """Run the code of this folder."""
    sys.path.insert(0, str(code.parent))
    timm.create_model = smaller
    config = importlib.import_module(f"{code.name}.configuration_prismatic").OpenVLAConfig(
        norm_stats=STATISTICS,
        vision_backbone_id="dinosiglip-vit-so-224px",
        llm_backbone_id="llama2-7b-pure",
        arch_specifier="no-align+fused-gelu-mlp",
        image_resize_strategy="resize-naive",
        text_config={**TEXT, "pad_token_id": 32000},
    )
    config.image_sizes, config._attn_implementation = [28, 28], "eager"
    model = importlib.import_module(f"{code.name}.modeling_prismatic").OpenVLAForActionPrediction(config).eval().float()
    state = model.state_dict()
    with torch.no_grad():
        draw(state)
    kept = {name: value for name, value in config.to_dict().items() if name in KEPT}
    whole = {
        "made_by": "OpenVLA's modeling_prismatic.py, timm 0.9.10, transformers 4.40.1, random weights",
        "norm_stats": STATISTICS,
        "config": kept,
        "text_config": {"model_type": "llama", **TEXT},
        "shapes": {name: list(value.shape) for name, value in sorted(state.items())},
        "prompt": [*IDS, EMPTY],
        **record(model),
    }
    Path(__file__).with_name("openvla_of_its_own_code.json").write_text(json.dumps(whole))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
