"""The networks of the roles: trained weights, precision, and saved models."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tercet.config.lm import LmConfig
from tercet.core.statistics import ScoreScale
from tercet.errors import InputError
from tercet.lm import batch as batches
from tercet.lm.batch import TokenBatch
from tercet.lm.models import roles as module
from tercet.lm.models.adapters import DTYPES, Precision
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, ScoreModel, load_policy, load_score_model
from tercet.lm.text.tokenizers import byte_tokenizer

MakeConfig = Callable[..., LmConfig]

IDS = [[5, 9, 7, 30, 11, 8], [77, 78, 79, 80, 81, 2]]


def disturb(module: nn.Module) -> None:
    """Change all trainable weights, so that adapters have an effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def logits(policy: Policy) -> Tensor:
    with torch.no_grad():
        return policy.model(torch.tensor(IDS)).logits


def learning(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


# heads and scores


def test_heads_have_the_width_of_their_input(score_model: ScoreModel, architecture: str, batch: TokenBatch) -> None:
    width = 16 if architecture == "opt-350m" else 32  # word_embed_proj_dim, not hidden_size
    assert score_model.model.score.weight.shape == (1, width)
    assert score_model(batch).shape == batch.ids.shape


def test_a_score_is_the_output_at_the_last_token_of_the_text_alone(score_model: ScoreModel, batch: TokenBatch) -> None:
    with torch.no_grad():
        ours = score_model.scores(batch)
        for i, (ids, length) in enumerate(zip(batch.ids.tolist(), batch.lengths.tolist(), strict=True)):
            theirs = score_model.model(torch.tensor([ids[:length]])).logits  # one row: nothing is padding
            assert float(ours[i]) == pytest.approx(float(theirs) + 0.25, abs=1e-4)


def test_the_output_at_a_token_does_not_depend_on_later_tokens(score_model: ScoreModel, batch: TokenBatch) -> None:
    with torch.no_grad():
        whole = score_model(batch)
        for i, length in enumerate(batch.lengths.tolist()):
            cut = TokenBatch(
                batch.ids[i : i + 1, :length], torch.tensor([1]), torch.ones(1, length - 1, dtype=torch.bool)
            )
            assert torch.allclose(score_model(cut)[0], whole[i, :length], atol=1e-4)


def test_normalised_scores_are_gain_times_score_plus_bias(make_config: MakeConfig, batch: TokenBatch) -> None:
    model = load_score_model(make_config())
    model.bias.data.fill_(0.5)
    with torch.no_grad():
        before = model.scores(batch)
        model.normalise(ScoreScale(gain=3.0, bias=-2.0))
        assert torch.allclose(model.scores(batch), 3.0 * before - 2.0, atol=1e-4)


# what learns


def test_dropout_is_off_in_training_mode(architecture: str, make_config: MakeConfig, batch: TokenBatch) -> None:
    config: LmConfig = make_config(architecture)
    actor, critic = load_policy(config, learns=True).train(), load_score_model(config, learns=True).train()
    first = response_logprobs(actor, batch, temperature=1.0).logprobs, critic(batch)
    again = response_logprobs(actor, batch, temperature=1.0).logprobs, critic(batch)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    actor.eval(), critic.eval()
    assert torch.equal(first[0], response_logprobs(actor, batch, temperature=1.0).logprobs)
    assert torch.equal(first[1], critic(batch))


def test_dropout_of_adapters_is_off_by_default(make_config: MakeConfig, batch: TokenBatch) -> None:
    config = make_config(lora={"rank": 4})
    for dropout, is_equal in ((0.0, True), (0.5, False)):
        policy = load_policy(config, learns=True, lora_dropout=dropout).train()
        disturb(policy)
        a, b = (response_logprobs(policy, batch, temperature=1.0).logprobs for _ in range(2))
        assert torch.equal(a, b) == is_equal


def test_without_adapters_all_weights_are_trained(architecture: str, make_config: MakeConfig) -> None:
    config = make_config(architecture)
    for model in (load_policy(config, learns=True), load_score_model(config, learns=True)):
        assert all(parameter.requires_grad for parameter in model.parameters())
    for model in (load_policy(config), load_score_model(config)):
        assert not learning(model) and not model.model.training


def test_only_adapters_are_trained_and_they_start_without_effect(
    architecture: str, policy: Policy, make_config: MakeConfig
) -> None:
    config = make_config(architecture, lora={"rank": 2})
    adapted = load_policy(config, learns=True)
    assert learning(adapted) and all("lora_" in name for name in learning(adapted))
    assert torch.equal(logits(adapted), logits(policy))
    critic = load_score_model(config, learns=True)
    assert {name for name in learning(critic) if "lora_" not in name} == {"bias", "model.score.weight"}
    inside = [name for name, _ in adapted.named_modules() if name.endswith("lora_A")]
    assert len(inside) % 2 == 0 and len(inside) >= 8  # the same matrices in both layers, attention's and the rest
    assert not any("lm_head" in name or "embed_out" in name for name in inside)


def test_the_reference_is_the_model_without_its_adapters(
    architecture: str, policy: Policy, make_config: MakeConfig, batch: TokenBatch
) -> None:
    for only in (True, False):
        actor = load_policy(make_config(architecture, lora={"rank": 2, "only": only}), learns=True)
        names = learning(actor)
        disturb(actor)
        with torch.no_grad(), actor.without_adapters():
            off = response_logprobs(actor, batch, temperature=1.0).logprobs
        with torch.no_grad():
            on = response_logprobs(actor, batch, temperature=1.0).logprobs
            sft = response_logprobs(policy, batch, temperature=1.0).logprobs
        assert torch.equal(off, sft) and not torch.allclose(on, sft, atol=0.01)
        assert learning(actor) == names


def test_the_same_seed_gives_the_same_adapters_and_heads(make_config: MakeConfig) -> None:
    config = make_config(lora={"rank": 2}, seed=3)
    for load in (load_policy, load_score_model):
        first, second = load(config, learns=True).state_dict(), load(config, learns=True).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)
    other = load_score_model(make_config(lora={"rank": 2}, seed=4)).model.score.weight
    assert not torch.equal(load_score_model(config).model.score.weight, other)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_frozen_weights_are_stored_in_16_bits_and_trained_ones_in_fp32(
    precision: Precision, make_config: MakeConfig, batch: TokenBatch
) -> None:
    for lora in ({"rank": 0}, {"rank": 2}, {"rank": 2, "only": False}):
        config = make_config("llama", precision=precision, lora=lora)
        for learns in (False, True):
            actor, critic = load_policy(config, learns=learns), load_score_model(config, learns=learns)
            for name, parameter in [*actor.named_parameters(), *critic.named_parameters()]:
                is_product = "_proj." in name
                wanted = DTYPES[precision] if is_product and not parameter.requires_grad else torch.float32
                assert parameter.dtype == wanted, (lora, learns, name)
            assert response_logprobs(actor, batch, temperature=1.0).logprobs.dtype == torch.float32
            assert critic.scores(batch).dtype == torch.float32


def test_gradient_checkpointing_does_not_change_gradients(make_config: MakeConfig, batch: TokenBatch) -> None:
    grads = []
    for lora in ({"rank": 0}, {"rank": 2}):
        for on in (False, True):
            policy = load_policy(
                make_config("gpt2", model={"gradient_checkpointing": on}, lora=lora), learns=True
            ).train()
            disturb(policy)
            response_logprobs(policy, batch, temperature=1.0).logprobs.sum().backward()
            grads.append([p.grad for p in policy.parameters() if p.requires_grad])
    for without, with_ in (grads[:2], grads[2:]):
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(without, with_, strict=True))


CHANGED_LOGITS = {
    "logits_scaling=8.0": {"model_type": "granite", "logits_scaling": 8.0},
    "final_logit_softcapping=30.0": {"model_type": "gemma2", "query_pre_attn_scalar": 16},
    "logit_scale=0.0625": {"model_type": "cohere", "tie_word_embeddings": False},
}


@pytest.mark.parametrize("settings", CHANGED_LOGITS)
@pytest.mark.parametrize("weights", [0.3, 1e-3])  # with the second all logits are near 0, whatever is done to them
def test_models_that_change_the_logits_after_the_head_are_refused(
    make_config: MakeConfig, settings: str, weights: float
) -> None:
    shape = CHANGED_LOGITS[settings] | {"initializer_range": weights, "pad_token_id": 0}
    config = make_config("llama", model={"architecture": make_config("llama").model.architecture | shape})
    with pytest.raises(InputError, match=f"after its head.*{settings}"):
        load_policy(config)


def test_a_factor_of_one_after_the_head_is_accepted(make_config: MakeConfig) -> None:
    shape = {"model_type": "granite", "logits_scaling": 1.0}
    load_policy(make_config("llama", model={"architecture": make_config("llama").model.architecture | shape}))


@pytest.mark.parametrize("load", [load_policy, load_score_model])
def test_models_that_are_not_causal_are_refused(make_config: MakeConfig, load: Callable[[LmConfig], nn.Module]) -> None:
    shape = {
        "model_type": "bert",
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    with pytest.raises(InputError, match=r"model\.path: bert is not causal.*ppo\.reward="):
        load(make_config(model={"architecture": shape}))


def test_a_missing_gpu_is_an_error(make_config: MakeConfig) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="device=cpu"):
        load_policy(make_config(device="cuda"))


# what is saved

LORAS = [{"rank": 0}, {"rank": 2}, {"rank": 2, "only": False}]


@pytest.mark.parametrize("lora", LORAS, ids=["full", "lora", "lora and head"])
def test_transformers_loads_a_saved_policy(
    architecture: str, make_config: MakeConfig, lora: dict[str, Any], tmp_path: Path
) -> None:
    policy = load_policy(make_config(architecture, lora=lora), learns=True).eval()
    disturb(policy)
    before = logits(policy)
    policy.save(tmp_path, byte_tokenizer(), [2])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.allclose(theirs(torch.tensor(IDS)).logits, before, atol=2e-3, rtol=1e-3)
    again = load_policy(make_config(architecture), path=str(tmp_path))
    assert torch.allclose(logits(again), before, atol=2e-3, rtol=1e-3)
    assert not any(path.suffix in (".bin", ".pt", ".pkl") for path in tmp_path.iterdir())


@pytest.mark.parametrize("num_layers", [0, 1])
@pytest.mark.parametrize("lora", LORAS[:2], ids=["full", "lora"])
def test_transformers_loads_a_saved_score_model(
    architecture: str, make_config: MakeConfig, lora: dict[str, Any], num_layers: int, batch: TokenBatch, tmp_path: Path
) -> None:
    model = load_score_model(make_config(architecture, lora=lora), num_layers=num_layers, learns=True).eval()
    disturb(model)
    model.normalise(ScoreScale(gain=2.0, bias=-0.75))
    with torch.no_grad():
        before = model.scores(batch)
    tokenizer = byte_tokenizer()
    model.save(tmp_path, tokenizer)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert theirs.config.num_hidden_layers == (num_layers or 2)
    ids = torch.where(batch.attention_mask.bool(), batch.ids, tokenizer.pad_token_id)  # as its tokenizer pads
    with torch.no_grad():
        scores = theirs(ids, attention_mask=batch.attention_mask).logits[:, 0] + theirs.config.score_bias
    assert torch.allclose(scores, before, atol=2e-3)
    again = load_score_model(make_config(architecture), path=str(tmp_path))
    with torch.no_grad():
        assert torch.allclose(again.scores(batch), before, atol=2e-3)
    critic = load_score_model(make_config(architecture, lora={"rank": 2}), path=str(tmp_path), learns=True)
    with torch.no_grad():
        assert torch.allclose(critic.scores(batch), before, atol=2e-3)  # the critic starts from the reward model


def test_saving_does_not_change_the_tied_embedding(make_config: MakeConfig, tmp_path: Path) -> None:
    policy = load_policy(make_config("gpt2", lora={"rank": 2, "only": False}), learns=True)
    embedding = copy.deepcopy(policy.model.get_input_embeddings().weight)
    disturb(policy)
    policy.save(tmp_path, byte_tokenizer(), [2])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(loaded.get_input_embeddings().weight, embedding)
    assert not torch.equal(loaded.get_output_embeddings().weight, embedding)


def test_bf16_keeps_positions_and_the_score_head_in_fp32(make_config: MakeConfig) -> None:
    config = make_config("llama", precision="bf16")
    model = load_score_model(config)
    assert model.head.weight.dtype == torch.float32
    assert {buffer.dtype for _, buffer in model.named_buffers() if buffer.is_floating_point()} == {torch.float32}
    assert {p.dtype for name, p in model.named_parameters() if "_proj" in name} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("shape", "precision"), [("llama", "bf16"), ("gpt2", "bf16"), ("opt", "bf16"), ("llama", "fp16")]
)
def test_a_frozen_copy_in_16_bits_computes_the_same_as_the_trained_model(
    make_config: MakeConfig, batch: TokenBatch, shape: str, precision: str
) -> None:
    config = make_config(shape, precision=precision)
    actor, reference = load_policy(config, learns=True), load_policy(config)
    ours, theirs = (response_logprobs(policy, batch, temperature=1.0).logprobs for policy in (actor, reference))
    assert torch.equal(ours, theirs)


def test_a_language_model_is_refused_as_a_trained_reward_model(make_config: MakeConfig, tmp_path: Path) -> None:
    policy = load_policy(make_config("gpt2"))
    policy.save(tmp_path, byte_tokenizer(), [2])
    load_score_model(make_config("gpt2"), path=str(tmp_path))
    with pytest.raises(InputError, match="no score head"):
        load_score_model(make_config("gpt2"), path=str(tmp_path), trained=True)


def test_rows_computed_in_groups_give_the_same_numbers_and_gradients(
    architecture: str, make_config: MakeConfig, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "can_be_unpadded", lambda _: False)
    found = []
    for few in (10**9, 0):  # one group, and one for every length
        monkeypatch.setattr(batches, "_FEW_TOKENS", few)
        policy, model = (load(make_config(architecture), learns=True) for load in (load_policy, load_score_model))
        logprobs, scores = response_logprobs(policy, batch, temperature=1.0).logprobs, model.scores(batch)
        (logprobs.sum() + scores.sum()).backward()
        found.append(
            [logprobs, scores, *(p.grad for m in (policy, model) for p in m.parameters() if p.grad is not None)]
        )
    assert len(batches.like_lengths(batch.lengths)) > 2
    for one, several in zip(*found, strict=True):
        assert torch.allclose(one, several, atol=1e-5)
