"""A shared backbone in 4 bits: adapters learn on it, all roles share it, and saving restores what was trained on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.errors import InputError
from tercet.lm import pipeline
from tercet.lm.batch import TokenBatch
from tercet.lm.checks import check
from tercet.lm.models import four_bits
from tercet.lm.models.adapters import merged
from tercet.lm.models.backbone import Backbone, load_reward_model, on_exact_weights, save_adapters
from tercet.lm.models.four_bits import BYTES, is_quantised, quantise, restored
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, load_policy, load_score_model
from tercet.lm.sampling.model_check import check_policy
from tercet.lm.text.tokenizers import byte_tokenizer
from tercet.runs.folder import RunFolder
from tercet.train.checkpoint import Checkpoint
from tercet.train.optim import adamw

MakeConfig = Callable[..., LmConfig]
REASON = "needs bitsandbytes: pip install 'tercet[bits]', or in a folder of its own that PYTHONPATH names"
needs_package = pytest.mark.skipif(four_bits.find_spec("bitsandbytes") is None, reason=REASON)
CPU = torch.device("cpu")


@pytest.fixture
def config(make_config: MakeConfig) -> Callable[..., LmConfig]:
    """A config with a shared backbone in 4 bits; matrices of whole blocks."""

    def made(architecture: str = "llama", **sections: Any) -> LmConfig:  # Any: what LmConfig checks
        lora = {"rank": 4, "shared_backbone": True, "backbone": "nf4"} | sections.pop("lora", {})
        return make_config(architecture, lora=lora, **sections)

    return made


def logprobs(policy: Policy, batch: TokenBatch) -> Tensor:
    return response_logprobs(policy, batch, temperature=1.0).logprobs


def trained(policy: Policy, batch: TokenBatch, num_steps: int = 6) -> list[float]:
    """Take steps on the likelihood of the responses in training mode; return the losses."""
    optimizer, losses = adamw(policy, lr=0.02), list[float]()
    policy.train()
    for _ in range(num_steps):
        loss = -logprobs(policy, batch).sum() / batch.response_mask.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    policy.eval()
    return losses


@needs_package
@pytest.mark.parametrize("architecture", ["llama", "opt"])
def test_adapters_learn_on_4_bits_as_on_the_weights_that_these_stand_for(
    architecture: str, config: Callable[..., LmConfig], sft_folder: Callable[[str], Path], batch: TokenBatch
) -> None:
    sft = str(sft_folder(architecture))
    policy = Backbone.load(config(architecture), sft).policy()
    quantised = [m for m in policy.modules() if is_quantised(m)]
    assert len(quantised) == 2 * {"llama": 7, "opt": 6}[architecture]
    assert all(m.weight.numel() == m.in_features * m.out_features // 2 for m in quantised)
    plain = Backbone.load(config(architecture, lora={"backbone": "precision"}), sft)
    for name, module in policy.model.named_modules():  # a plain copy with the same numbers
        if is_quantised(module):
            plain.model.get_submodule(name.replace(".base_layer", "")).weight.data = restored(module.weight)
    theirs = plain.policy()
    with torch.no_grad():  # sampling comes before learning
        assert torch.allclose(logprobs(policy, batch), logprobs(theirs, batch), atol=1e-4)
    losses = trained(policy, batch)
    assert losses == pytest.approx(trained(theirs, batch), rel=1e-3)
    assert losses[-1] < losses[0] - 0.1
    # and not far from the policy in fp32
    exact = Backbone.load(config(architecture, lora={"backbone": "precision"}), sft).policy()
    assert losses == pytest.approx(trained(exact, batch), rel=0.15)


@needs_package
def test_every_adapter_has_a_gradient_also_after_a_pass_without_one(
    config: Callable[..., LmConfig], sft_folder: Callable[[str], Path], batch: TokenBatch
) -> None:
    """On a CPU with AVX-512, bitsandbytes would pack the weights in the first pass for inference."""
    policy = Backbone.load(config("llama"), str(sft_folder("llama"))).policy()
    check_policy(policy)  # samples
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    policy.eval()
    with torch.no_grad():
        logprobs(policy, batch)
    logprobs(policy.train(), batch).sum().backward()
    learning = {name: p.grad for name, p in policy.named_parameters() if p.requires_grad}
    assert len(learning) == 28 and all("lora_" in name for name in learning)
    assert all(grad is not None and float(grad.abs().sum()) > 0 for grad in learning.values())


@needs_package
def test_all_roles_share_the_packed_weights_and_a_checkpoint_has_none_of_them(
    config: Callable[..., LmConfig], sft_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    backbone = Backbone.load(config("llama"), str(sft_folder("llama")))
    actor, critic = backbone.policy(), backbone.score_model(num_layers=1, learns=True)
    packed = {p.data_ptr() for p in backbone.model.parameters() if four_bits.is_packed(p)}
    for role, num in ((actor, 14), (critic, 7)):
        own = [p for p in role.parameters() if four_bits.is_packed(p)]
        assert len(own) == num and {p.data_ptr() for p in own} <= packed
        states = {id(p.quant_state.absmax) for p in own}
        assert states <= {id(p.quant_state.absmax) for p in backbone.model.parameters() if four_bits.is_packed(p)}
    saved = Checkpoint.of({"actor": actor, "critic": critic}, {})
    assert saved.parameters and all(value.dtype == torch.float32 for value in saved.parameters.values())
    assert not [name for name in saved.parameters if "lora_" not in name and "score" not in name and "bias" not in name]


@needs_package
def test_the_reward_model_of_step_2_stands_on_the_backbone_of_step_3(
    config: Callable[..., LmConfig], sft_folder: Callable[[str], Path], batch: TokenBatch, tmp_path: Path
) -> None:
    settings, sft = config("llama"), str(sft_folder("llama"))
    model = load_score_model(settings, path=sft, learns=True, is_backbone=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        scores = model.eval().scores(batch)
    (tmp_path / "model").mkdir()
    (tmp_path / "adapter").mkdir()
    save_adapters(model, tmp_path / "adapter")
    model.save(tmp_path / "model", byte_tokenizer())
    with torch.no_grad():
        shared = load_reward_model(settings, str(tmp_path / "model"), Backbone.load(settings, sft), num_layers=0)
        assert torch.allclose(shared.scores(batch), scores, atol=1e-5)
        # the merged model, which the evaluation reads, has the restored weights
        alone = load_reward_model(
            config("llama", lora={"backbone": "precision"}), str(tmp_path / "model"), None, num_layers=0
        )
        assert torch.allclose(alone.scores(batch), scores, atol=1e-3)


@needs_package
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_saved_policy_is_the_one_that_was_trained_in_plain_layers(
    precision: str,
    config: Callable[..., LmConfig],
    sft_folder: Callable[[str], Path],
    batch: TokenBatch,
    tmp_path: Path,
) -> None:
    sft = str(sft_folder("opt"))
    backbone = Backbone.load(config("opt", precision=precision), sft)
    policy = backbone.policy()
    trained(policy, batch, 2)
    before = {name: p.detach().clone() for name, p in backbone.model.named_parameters()}
    policy.save(tmp_path, byte_tokenizer(), [2])
    assert all(torch.equal(p, before[name]) for name, p in backbone.model.named_parameters())
    saved = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}
    assert not [name for name in saved if "absmax" in name or "quant" in name]
    loaded = load_policy(config("opt", precision="fp32"), path=str(tmp_path))  # not quantised again
    assert not any(is_quantised(m) for m in loaded.modules())
    with torch.no_grad():
        ours, theirs = logprobs(policy, batch), logprobs(loaded, batch)
        original = logprobs(load_policy(config("opt"), path=sft), batch)
    limit = 1e-4 if precision == "fp32" else 0.1
    assert (ours - theirs).abs().max() < limit < (ours - original).abs().max()
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path).model.decoder.layers[0].fc1) is torch.nn.Linear


@needs_package
def test_a_weight_takes_the_bytes_that_the_plan_counts() -> None:
    shape = {"hidden_size": 512, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape))
    before = model.model.layers[0].mlp.up_proj.weight.detach()
    quantise(model, CPU, torch.float32)
    weight = model.model.layers[0].mlp.up_proj.weight
    state = weight.quant_state
    assert sum(part.nbytes for part in (weight.data, state.absmax, state.state2.absmax)) == BYTES * 512 * 256
    error = (restored(weight) - before).abs().mean() / before.abs().mean()
    assert 0.05 < error < 0.12


@needs_package
def test_a_model_without_linear_layers_is_refused(config: Callable[..., LmConfig], sft_folder: Any) -> None:
    with pytest.raises(InputError, match=r"the layers of gpt2 are not nn.Linear"):
        Backbone.load(config("gpt2"), str(sft_folder("gpt2")))


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Python without bitsandbytes."""
    monkeypatch.setattr(four_bits, "find_spec", lambda name: None)
    yield


@pytest.mark.usefixtures("without_package")
@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"lora": {"rank": 4, "shared_backbone": True, "backbone": "nf4"}}, "lora.backbone=nf4"),
        ({"optimizer": "adamw8bit"}, "optimizer=adamw8bit"),
    ],
)
def test_a_missing_package_is_named_before_any_work(
    settings: dict[str, Any], key: str, make_config: MakeConfig
) -> None:
    with pytest.raises(InputError, match=f"{key} needs the package bitsandbytes; install it with: pip install"):
        check(make_config("llama", **settings), ["sft"])


def test_4_bits_without_adapters_are_refused(make_config: MakeConfig) -> None:
    for lora in ({"rank": 0, "backbone": "nf4"}, {"rank": 4, "backbone": "nf4"}):
        with pytest.raises(ValueError, match=r"weights in 4 bits cannot be trained.*set lora.shared_backbone=true"):
            make_config("llama", lora=lora)
    with pytest.raises(ValueError, match="device=mps: bitsandbytes needs a CPU or an NVIDIA GPU"):
        LmConfig.model_validate({"device": "mps", "optimizer": "adamw8bit"})
    with pytest.raises(ValueError, match="optimizer=adamw8bit quantises the moments of whole parameters"):
        LmConfig.model_validate({"shard": True, "optimizer": "adamw8bit"})


@needs_package
def test_a_merge_leaves_the_shared_layers_in_4_bits(config: Callable[..., LmConfig], sft_folder: Any) -> None:
    policy = Backbone.load(config("llama"), str(sft_folder("llama"))).policy()
    assert isinstance(policy.adapted, PeftModel)
    plain = merged(policy.adapted)
    assert not any(is_quantised(m) for m in plain.modules()) and any(is_quantised(m) for m in policy.modules())
    wanted = restored(policy.model.model.layers[0].mlp.up_proj.base_layer.weight)
    assert torch.equal(plain.model.layers[0].mlp.up_proj.weight, wanted)  # new adapters add nothing


@needs_package
def test_what_sft_learned_in_4_bits_is_there_when_ppo_quantises_its_result(
    config: Callable[..., LmConfig], sft_folder: Callable[[str], Path], batch: TokenBatch, tmp_path: Path
) -> None:
    """Merged into restored weights it would be rounded away, since these are values of NF4 already."""
    base = sft_folder("llama")
    settings = config("llama", model={"path": str(base), "architecture": {}})
    policy = load_policy(settings, learns=True, is_backbone=True)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:  # far below the spacing of NF4
                parameter.copy_(0.004 * torch.randn(parameter.shape, generator=chance))

    def changes(model: torch.nn.Module) -> Tensor:
        weights = {name.replace("base_layer.", ""): p for name, p in model.named_parameters() if "lora_" not in name}
        return torch.cat([restored(p).flatten() for _, p in sorted(weights.items()) if four_bits.is_packed(p)])

    learned = torch.cat(
        [
            m.get_delta_weight("default").flatten()
            for _, m in sorted(policy.model.named_modules())
            if hasattr(m, "get_delta_weight")
        ]
    ).detach()
    before, kept = changes(policy.model), {}
    for name, saved in (("exact", on_exact_weights(policy, settings)), ("restored", policy)):
        assert isinstance(saved.adapted, PeftModel)
        merged(saved.adapted).save_pretrained(tmp_path / name)
        again = load_policy(settings, path=str(tmp_path / name), is_backbone=True)
        kept[name] = float((changes(again.model) - before) @ learned / (learned @ learned))
    assert kept["exact"] == pytest.approx(1.0, abs=0.3) and abs(kept["restored"]) < 0.05
    with torch.no_grad():
        assert (logprobs(on_exact_weights(policy, settings), batch) - logprobs(policy, batch)).abs().mean() < 1.0


@needs_package
@pytest.mark.slow
def test_a_whole_run_on_4_bits_with_moments_in_8_bits(small: list[str], tmp_path: Path) -> None:
    more = ["lora.rank=4", "lora.shared_backbone=true", "lora.backbone=nf4", "optimizer=adamw8bit", "precision=bf16"]
    config = load_lm_config("tiny", [*small, *more])
    with RunFolder.open(tmp_path / "run", config, preset="tiny") as folder:
        pipeline.run(folder, config)
    found = folder.results()
    assert found["self_check"]["kl"] < 1e-2 and found["self_check"]["ratio"] < 1e-2
    assert "ppo_vs_sft" in found["win_rate"]
    exact, sft = (load_policy(config, path=path) for path in ("", str(tmp_path / "run" / "sft" / "model")))
    norms = [name for name, p in exact.model.named_parameters() if p.ndim == 1 and "norm" in name]
    theirs = dict(sft.model.named_parameters())
    assert norms and all(torch.equal(p, theirs[name]) for name, p in exact.model.named_parameters() if name in norms)
    rows = [row for row in folder.metrics() if row["step"] == "ppo" and "ppo/actor_grad_norm" in row]
    assert rows and all(row["ppo/actor_grad_norm"] > 0 for row in rows)
