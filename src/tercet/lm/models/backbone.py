"""One frozen language model shared by all roles (`lora.shared_backbone`): each role has its own modules and adapters.

The reward model's adapters are trained on the shared weights and saved in peft's format; the critic starts from them.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tercet.config.lm import NetworkConfig
from tercet.errors import FailedError
from tercet.lm.models.adapters import adapt, copied
from tercet.lm.models.heads import draw_head, with_score_head
from tercet.lm.models.roles import Policy, ScoreModel, load_policy, load_score_model
from tercet.runs.done import check_made
from tercet.train.chance import seed_everything

FILE = "adapter_model.safetensors"  # peft's name
HEAD, BIAS = "base_model.model.score.weight", "score_bias"  # the first is peft's name; peft has no bias


@dataclass(frozen=True)
class Backbone:
    """A frozen causal language model on its device, and the config of the roles that are built on it."""

    model: PreTrainedModel
    config: NetworkConfig

    @classmethod
    def load(cls, config: NetworkConfig, path: str = "") -> "Backbone":
        """Load the model at `path` (or model.path)."""
        return cls(load_policy(config, path=path, is_backbone=True).model, config)

    def policy(self) -> Policy:
        """Build a policy with trainable adapters; without its adapters it computes what the backbone does."""
        policy = Policy(copied(self.model), self.config.precision)
        policy.adapted = adapt(policy.model, self.config)
        policy.cuda_graphs = self.config.cuda_graphs
        return policy.to(self.model.device)

    def score_model(self, *, num_layers: int = 0, adapters: Path | None = None, learns: bool = False) -> ScoreModel:
        """Build a score model on the first layers (0: all), with adapters and head from a folder, or new ones."""
        score_model = ScoreModel(self._with_score_head(num_layers), self.config.precision)
        score_model.adapted = adapt(score_model.model, self.config)
        if adapters is not None:
            _load_adapters(score_model, adapters)
        score_model.to(self.model.device)
        if learns:
            score_model.head.weight.requires_grad_(True)
            return score_model
        return score_model.requires_grad_(False).eval()

    def _with_score_head(self, num_layers: int) -> PreTrainedModel:
        model = with_score_head(self.model, num_layers)
        seed_everything(self.config.seed, "score head")
        draw_head(model)
        return model


def load_reward_model(
    config: NetworkConfig, path: str, backbone: Backbone | None, *, num_layers: int, learns: bool = False
) -> ScoreModel:
    """Load the run's reward model, on the first `num_layers` layers (0: all) of the backbone if there is one.

    With `learns` it is trainable: a critic that starts from the reward model.
    """
    if backbone:
        adapters = Path(path).with_name("adapter")  # step 2 saves them beside the merged model
        return backbone.score_model(num_layers=num_layers, adapters=adapters, learns=learns)
    return load_score_model(config, path=path, trained=True, learns=learns)


def on_exact_weights(policy: Policy, config: NetworkConfig) -> Policy:
    """Return a policy that was trained on model.path in 4 bits, with the weights before quantisation, on the CPU.

    If it is quantised later, its adapters remain on average. Merged into restored weights, nearly all that they changed
    would be rounded away.
    """
    lora = config.lora.model_copy(update={"backbone": "precision"})
    exact = load_policy(config.model_copy(update={"device": "cpu", "precision": "fp32", "lora": lora}), learns=True)
    set_peft_model_state_dict(_adapted(exact), get_peft_model_state_dict(_adapted(policy), save_embedding_layers=False))
    return exact


def save_adapters(score_model: ScoreModel, folder: Path) -> None:
    """Save adapters, head and bias in peft's format, without the backbone's weights."""
    adapted = _adapted(score_model)
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    state |= {HEAD: score_model.head.weight, BIAS: score_model.bias}
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, folder / FILE)
    settings = copy.copy(adapted.peft_config["default"])
    assert isinstance(settings, PeftConfig)
    settings.task_type, settings.modules_to_save, settings.inference_mode = "SEQ_CLS", ["score"], True
    settings.base_model_name_or_path = None  # the run folder may move
    settings.target_modules = sorted(
        settings.target_modules or []
    )  # peft has a set, which would be written in any order
    settings.save_pretrained(str(folder))


@torch.no_grad()
def _load_adapters(score_model: ScoreModel, folder: Path) -> None:
    check_made(folder)
    try:
        state = load_file(folder / FILE)
    except (OSError, SafetensorError) as error:
        raise FailedError(f"{folder}: damaged adapters ({error}); remove the step's folder to do it again") from error
    score_model.head.weight.copy_(state.pop(HEAD))
    score_model.bias.copy_(state.pop(BIAS))
    set_peft_model_state_dict(_adapted(score_model), state)


def _adapted(role: Policy | ScoreModel) -> PeftModel:
    assert role.adapted is not None  # built on a backbone, or trained with lora.shared_backbone
    return role.adapted
