"""The policy's weights as files that an engine reads: the base model, adapters, or all weights."""

import copy
from pathlib import Path

from peft import LoraConfig as PeftConfig
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from tercet.lm.models.adapters import DTYPES, copied, merged
from tercet.lm.models.roles import Policy

ADAPTERS = "adapter_model.safetensors"  # peft's name


def save_whole(policy: Policy, folder: Path) -> None:
    """Save all weights as they are now, with the adapters merged into them, in the policy's precision.

    With new adapters, which change nothing yet, these are the frozen weights. In bf16 and fp16 those have been rounded
    stochastically when they were loaded, so the folder that they were loaded from holds other ones.
    """
    model = merged(policy.adapted) if policy.adapted else policy.model
    if policy.precision != "fp32":
        model = copied(
            model, of=lambda p: nn.Parameter(p.detach().to("cpu", DTYPES[policy.precision]), requires_grad=False)
        )
    model.save_pretrained(folder)


def save_adapters(policy: Policy, folder: Path) -> None:
    """Save the current adapters in peft's format."""
    assert policy.adapted is not None
    folder.mkdir(parents=True)
    state = get_peft_model_state_dict(policy.adapted, save_embedding_layers=False)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, folder / ADAPTERS)
    settings = copy.copy(policy.adapted.peft_config["default"])
    assert isinstance(settings, PeftConfig)
    settings.task_type, settings.inference_mode, settings.base_model_name_or_path = "CAUSAL_LM", True, None
    settings.target_modules = sorted(settings.target_modules or [])  # peft has a set, which would be in any order
    settings.save_pretrained(str(folder))


def has_only_adapters(policy: Policy) -> bool:
    """Return True if the adapters are all that is trained; an engine needs no other weights then."""
    adapted = policy.adapted
    return adapted is not None and not getattr(adapted.peft_config["default"], "modules_to_save", None)
