"""Which architecture has which fast path on a CPU: one row per architecture for which the numbers are tested equal.

An architecture without a row is computed by transformers' own forward: slower, with the same numbers.
"""

from dataclasses import dataclass

from transformers import LlamaForCausalLM, OPTForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from tercet.lm.own_code import is_from_transformers


@dataclass(frozen=True)
class FastPaths:
    """The fast paths of one architecture besides `lm/cpu/unpadded.py`, which every row has."""

    attention_ends: tuple[str, str] | None = None
    """For `lm/cpu/last_layer.py`: a layer's norm before attention, and the projection at the end of attention."""
    decoder: type[PreTrainedModel] | None = None
    """For `lm/cpu/decoder.py`: the class whose weights it reads."""


_LLAMA_ENDS = ("input_layernorm", "self_attn.o_proj")
FAST_PATHS = {  # by model_type
    "gpt2": FastPaths(),
    "gpt_neox": FastPaths(("input_layernorm", "attention.dense")),
    "llama": FastPaths(_LLAMA_ENDS, LlamaForCausalLM),
    "opt": FastPaths(("self_attn_layer_norm", "self_attn.out_proj"), OPTForCausalLM),
    "qwen2": FastPaths(_LLAMA_ENDS, Qwen2ForCausalLM),
    "qwen3": FastPaths(_LLAMA_ENDS),
}


def fast_paths(model: PreTrainedModel) -> FastPaths | None:
    """Return the fast paths of the model; None if its architecture has none or it is not transformers' own code."""
    return FAST_PATHS.get(model.config.model_type) if is_from_transformers(model) else None
