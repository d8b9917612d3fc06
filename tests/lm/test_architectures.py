"""Every architecture goes through the three steps with small random weights of its shape."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from tercet.config.lm import LmConfig, ModelConfig
from tercet.config.load import load_lm_config
from tercet.lm import reward, sft
from tercet.lm.batch import pad
from tercet.lm.models.roles import load_score_model
from tercet.lm.models.weights import load_causal
from tercet.lm.ppo import step as ppo
from tercet.runs.folder import RunFolder

SHAPES = {
    "opt": "hidden_size: 16, num_hidden_layers: 2, ffn_dim: 32, num_attention_heads: 2, max_position_embeddings: 64, "
    "word_embed_proj_dim: 8",
    "gpt2": "n_embd: 16, n_layer: 2, n_head: 2, n_positions: 64",
    "llama": "hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2, "
    "num_key_value_heads: 1",
    "qwen3": "hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2, "
    "num_key_value_heads: 1, head_dim: 8",
    "bloom": "hidden_size: 16, n_layer: 2, n_head: 2",
    "gpt_neox": "hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2",
}
SHAPES["qwen2"] = SHAPES["llama"]
SHAPES["mamba"] = "hidden_size: 16, num_hidden_layers: 2, state_size: 4, time_step_rank: 4"

LORA = ("lora.rank=4", "lora.alpha=8")
CASES = {
    "opt-1.3b's shape, LoRA": ("opt", "", LORA),
    "opt-350m's shape, full": ("opt", "do_layer_norm_before: false", ()),
    "opt-350m's shape, LoRA, checkpointing": (
        "opt",
        "do_layer_norm_before: false",
        (*LORA, "model.gradient_checkpointing=true", "lora.dropout=0.1"),
    ),
    "GPT-2, LoRA": ("gpt2", "", LORA),
    "Llama, full, checkpointing": ("llama", "", ("model.gradient_checkpointing=true",)),
    "Llama, LoRA with full heads": ("llama", "", (*LORA, "lora.only=false")),
    "Qwen2, LoRA, tied, full heads": ("qwen2", "tie_word_embeddings: true", (*LORA, "lora.only=false")),
    "Qwen3, full, fewer layers in the reward model": ("qwen3", "", ("reward.num_layers=1",)),
    "Bloom, LoRA": ("bloom", "", LORA),
    "GPT-NeoX, full": ("gpt_neox", "", ()),
    "Mamba, LoRA": ("mamba", "", LORA),
    "Llama, LoRA, bf16": ("llama", "", (*LORA, "precision=bf16")),
    "OPT, full, bf16": ("opt", "do_layer_norm_before: false", ("precision=bf16",)),
}


# one case of each architecture and of each kind of training is in the default suite
SLOW = {
    "opt-1.3b's shape, LoRA",
    "opt-350m's shape, full",
    "Llama, LoRA with full heads",
    "Qwen2, LoRA, tied, full heads",
    "Llama, LoRA, bf16",
    "OPT, full, bf16",
    "GPT-NeoX, full",
    "Bloom, LoRA",
}


def config_of(kind: str, shape: str, small: list[str], *more: str) -> LmConfig:
    """The small settings with another architecture."""
    parts = ", ".join(part for part in (f"model_type: {kind}, vocab_size: 260", SHAPES[kind], shape) if part)
    return load_lm_config("tiny", [*small, f"model.architecture={{{parts}}}", "sft.max_steps=2", *more])


def three_steps(path: Path, config: LmConfig) -> dict[str, object]:
    """All that the steps leave in results.json."""
    with RunFolder.open(path, config, preset="tiny") as folder:
        for step in (sft, reward, ppo):
            step.run(folder, config)
        return folder.results()


def loaded(kind: type, path: Path) -> PreTrainedModel:
    """A saved model as transformers loads it, which must find every weight and want no other."""
    model, info = kind.from_pretrained(path, output_loading_info=True)
    assert {name: found for name, found in info.items() if found} == {}
    return model.eval()


def difference(before: PreTrainedModel, after: PreTrainedModel) -> float:
    """The largest change of any weight."""
    pairs = zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES])
def test_an_architecture_learns_in_all_three_steps(case: str, small: list[str], tmp_path: Path) -> None:
    config = config_of(*CASES[case][:2], small, *CASES[case][2])
    results = three_steps(tmp_path, config)

    base = load_causal(config.model, seed=config.seed)
    imitator = loaded(AutoModelForCausalLM, tmp_path / "sft" / "model")
    actor = loaded(AutoModelForCausalLM, tmp_path / "ppo" / "model")
    assert type(base) is type(imitator) is type(actor)
    assert imitator.dtype == torch.float32 or config.precision == "bf16"
    ids = torch.tensor([[70, 80, 90, 100]])
    assert not torch.equal(base.eval()(ids).logits, imitator(ids).logits.float())
    assert results["perplexity"]["sft"] < results["perplexity"]["base"]  # type: ignore[index]  # JSON
    limit = 0.3 if config.precision == "bf16" else 1e-4
    assert all(value < limit for value in results["self_check"].values())  # type: ignore[attr-defined]  # JSON


@pytest.mark.parametrize("case", ["opt-350m's shape, full", "GPT-2, LoRA", "Bloom, LoRA", "Llama, full, checkpointing"])
def test_the_saved_reward_model_is_a_sequence_classifier_of_transformers(
    case: str, small: list[str], tmp_path: Path
) -> None:
    config = config_of(*CASES[case][:2], small, *CASES[case][2])
    with RunFolder.open(tmp_path, config, preset="tiny") as folder:
        reward.run(folder, config)
    theirs = loaded(AutoModelForSequenceClassification, tmp_path / "reward" / "model")
    ours = load_score_model(config, path=str(tmp_path / "reward" / "model"))
    prompts, responses = [[70, 80, 90], [71]], [[100, 2], [101, 102, 103, 2]]
    batch = pad(prompts, responses, pad_id=0)
    with torch.no_grad():
        expected = theirs(batch.ids, attention_mask=batch.attention_mask).logits[:, 0] + theirs.config.score_bias
        found = ours.scores(batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert found.std() > 1e-4  # not two equal numbers


def test_dropout_of_the_architecture_is_off_in_every_step(small: list[str], tmp_path: Path) -> None:
    config = config_of("opt", "dropout: 0.5, attention_dropout: 0.5", small)
    model = load_causal(config.model, seed=0).train()
    ids = torch.tensor([[70, 80, 90, 100]])
    torch.testing.assert_close(model(ids).logits, model(ids).logits, rtol=0, atol=0)


def permuted(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of a query or key matrix in llama.cpp's order: the two halves that rotate together lie side by side."""
    rows, columns = weight.shape
    return weight.view(num_heads, 2, rows // num_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, model: LlamaForCausalLM) -> None:
    """The weights of a Llama as llama.cpp stores them."""
    config, weights = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in weights.items():
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        stored = permuted(weight, heads) if "q_proj" in name or "k_proj" in name else weight
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), stored.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def small_llama(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=260, num_key_value_heads=1, max_position_embeddings=64, **shape)
    ).eval()


def test_a_gguf_file_is_read_learned_from_and_saved(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, ids = tmp_path / "llama.gguf", torch.tensor([[70, 80, 90, 100]])
    for seed in (0, 1):  # the second file takes the place of the first: nothing of that may come out of the cache
        original = small_llama(seed)
        write_gguf(file, original)
        found = load_causal(ModelConfig(path=str(file)), seed=0).eval()
        with torch.no_grad():
            torch.testing.assert_close(found(ids).logits, original(ids).logits, rtol=1e-4, atol=1e-5)
    config = load_lm_config("tiny", [*small, f"model.path={file}", "model.tokenizer=bytes", "sft.max_steps=2", *LORA])
    three_steps(tmp_path / "run", config)
    assert difference(original, loaded(AutoModelForCausalLM, tmp_path / "run" / "ppo" / "model")) > 0
