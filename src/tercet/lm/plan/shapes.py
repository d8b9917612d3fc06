"""The shape of a model without its weights: from its config on this machine, or from the published shapes below."""

from dataclasses import dataclass

from transformers import AutoConfig
from transformers import PretrainedConfig as HfConfig

from tercet.config.lm import NetworkConfig, RewardConfig
from tercet.errors import InputError
from tercet.lm.models.configs import config_at, named_by_key

Shape = dict[str, str | int | bool]


def _opt(hidden: int, layers: int, heads: int, embedded: int = 0) -> Shape:
    """Return a shape of OPT (Zhang et al. 2022, table 1); 350M has a narrower word embedding and post-norm layers."""
    return {
        "model_type": "opt",
        "vocab_size": 50272,
        "hidden_size": hidden,
        "word_embed_proj_dim": embedded or hidden,
        "do_layer_norm_before": not embedded,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "ffn_dim": 4 * hidden,
        "max_position_embeddings": 2048,
    }


def _gated(
    kind: str, hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int, *, window: int
) -> Shape:
    """Return a shape of Llama or a related model with tied embedding and head."""
    return {
        "model_type": kind,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": window,
        "tie_word_embeddings": True,
    }


# as in the config.json of each model on huggingface.co
PUBLISHED: dict[str, Shape] = {
    "facebook/opt-125m": _opt(768, 12, 12),
    "facebook/opt-350m": _opt(1024, 24, 16, embedded=512),
    "facebook/opt-1.3b": _opt(2048, 24, 32),
    "facebook/opt-2.7b": _opt(2560, 32, 32),
    "facebook/opt-6.7b": _opt(4096, 32, 32),
    "HuggingFaceTB/SmolLM2-135M": _gated("llama", 576, 30, 9, 3, 1536, 49152, window=8192),
    "HuggingFaceTB/SmolLM2-360M": _gated("llama", 960, 32, 15, 5, 2560, 49152, window=8192),
    "Qwen/Qwen2.5-0.5B": _gated("qwen2", 896, 24, 14, 2, 4864, 151936, window=32768),
    "Qwen/Qwen2.5-1.5B": _gated("qwen2", 1536, 28, 12, 2, 8960, 151936, window=131072),
}


@dataclass(frozen=True)
class Networks:
    """The shapes of a run's networks, and the config that they are built from."""

    config: NetworkConfig
    policy: HfConfig
    score: HfConfig  # of critic and reward model
    num_score_layers: int  # that critic and reward model keep; 0: all

    @classmethod
    def of(cls, config: NetworkConfig, reward: RewardConfig) -> "Networks":
        """Find the shapes. InputError as in `shape_of`."""
        return cls(config, shape_of(config), shape_of(config, reward.model), reward.num_layers)


def shape_of(config: NetworkConfig, path: str = "") -> HfConfig:
    """Return the transformers config of the model at `path` (or model.path) without access to the hub.

    InputError for a hub id that is neither on this machine nor among the published shapes.
    """
    name = path or config.model.path
    published = PUBLISHED.get("HuggingFaceTB/SmolLM2-135M" if name == "smollm2" else name.removesuffix("-Instruct"))
    if published is not None:
        settings = dict(published)
        return AutoConfig.for_model(str(settings.pop("model_type")), **settings)
    with named_by_key(config, path):
        try:
            return config_at(config.model, path, offline=True)
        except InputError as error:
            raise InputError(
                f"{error}; a plan does not access the hub: it knows {', '.join(PUBLISHED)}; give any other model as "
                "model.path=random and model.architecture={model_type: opt, hidden_size: 768, ...}"
            ) from error
