"""Roles on one backbone share their weights, are trained separately, and compute the same as separate copies."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from tercet.config.lm import LmConfig
from tercet.core.statistics import ScoreScale
from tercet.errors import FailedError, InputError
from tercet.lm.batch import TokenBatch
from tercet.lm.data.examples import Example
from tercet.lm.models.backbone import Backbone, save_adapters
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, ScoreModel, load_policy, load_score_model
from tercet.lm.ppo.collect import Collect
from tercet.lm.ppo.roles import Roles as PpoRoles
from tercet.lm.rollout import LmActorCritic, reference_logprobs
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.scoring import REWARD_MODEL, Scorer, Term, by_model, of_model
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.tokenizers import byte_tokenizer
from tercet.train.ema import Average
from tercet.train.optim import adamw

MakeConfig = Callable[..., LmConfig]
Take = Callable[..., Path]
SHARED = ["lora.rank=4", "lora.shared_backbone=true"]


@dataclass(frozen=True)
class Shared:
    """A backbone, the roles on it, and the reward model that step 2 trained on a copy of the weights."""

    config: LmConfig
    sft: Path
    adapters: Path
    trained: ScoreModel
    backbone: Backbone
    actor: Policy
    critic: ScoreModel
    reward_model: ScoreModel

    @property
    def roles(self) -> dict[str, Policy | ScoreModel]:
        return {"actor": self.actor, "critic": self.critic, "reward_model": self.reward_model}


@pytest.fixture
def share(make_config: MakeConfig, sft_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Shared]:
    """`share("gpt2", num_layers=1)`: all roles on one SFT policy."""

    def made(architecture: str, num_layers: int = 0, **sections: Any) -> Shared:  # Any: what LmConfig checks
        lora = {"rank": 2, "shared_backbone": True} | sections.pop("lora", {})
        config = make_config(architecture, lora=lora, reward={"num_layers": num_layers}, **sections)
        sft = sft_folder(architecture)
        trained = load_score_model(config, path=str(sft), num_layers=num_layers, learns=True)
        disturb(trained)
        trained.normalise(ScoreScale(gain=2.0, bias=-0.75))
        adapters = tmp_path / f"adapter-{architecture}"
        adapters.mkdir()
        save_adapters(trained, adapters)
        backbone = Backbone.load(config, str(sft))
        actor = backbone.policy()
        critic = backbone.score_model(num_layers=num_layers, adapters=adapters, learns=True)
        reward_model = backbone.score_model(num_layers=num_layers, adapters=adapters)
        return Shared(config, sft, adapters, trained, backbone, actor, critic, reward_model)

    return made


def disturb(module: nn.Module) -> None:
    """Change all trainable weights."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def backbone_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the parameters other than those of adapters and heads, by their names in the backbone."""
    own = ("lora_", "modules_to_save.", "score.")
    named = dict(model.named_parameters(remove_duplicate=False))
    return {
        name.replace("base_layer.", "").replace("original_module.", ""): parameter
        for name, parameter in named.items()
        if not any(part in name for part in own)
    }


def logprobs(policy: Policy, batch: TokenBatch) -> Tensor:
    with torch.no_grad():
        return response_logprobs(policy, batch, temperature=1.0).logprobs


def outputs(shared: Shared, batch: TokenBatch) -> dict[str, Tensor]:
    with torch.no_grad(), shared.actor.without_adapters():
        reference = response_logprobs(shared.actor, batch, temperature=1.0).logprobs
    with torch.no_grad():
        scores = {"critic": shared.critic(batch), "reward_model": shared.reward_model.scores(batch)}
    return scores | {"actor": logprobs(shared.actor, batch), "reference": reference}


def train_a_little(module: nn.Module, loss: Callable[[], Tensor]) -> None:
    optimizer = adamw(module, lr=0.05)
    for _ in range(3):
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()


# one storage


@pytest.mark.parametrize("num_layers", [0, 1])
def test_every_weight_is_in_memory_once(architecture: str, num_layers: int, share: Callable[..., Shared]) -> None:
    shared = share(architecture, num_layers)
    held = {name: p.data_ptr() for name, p in backbone_parameters(shared.backbone.model).items()}
    for role, module in shared.roles.items():
        found = {name: p.data_ptr() for name, p in backbone_parameters(module.model).items()}
        assert found and found.items() <= held.items(), role
        own = {p.data_ptr() for p in module.parameters()} - set(held.values())
        assert own  # its adapters
        assert all(
            not own & {p.data_ptr() for p in other.parameters()}
            for other in shared.roles.values()
            if other is not module
        )
    layers = {"actor": 2, "critic": num_layers or 2, "reward_model": num_layers or 2}
    for role, module in shared.roles.items():
        assert module.model.config.num_hidden_layers == layers[role]
        in_layers = [name for name in backbone_parameters(module.model) if ".1." in name]
        assert bool(in_layers) == (layers[role] == 2), role


def test_the_weights_stay_shared_after_changes_to_one_role(
    share: Callable[..., Shared], batch: TokenBatch, tmp_path: Path
) -> None:
    shared = share("llama", precision="bf16", lora={"only": False})
    before = {
        name: (p.data_ptr(), p.dtype, p.clone()) for name, p in backbone_parameters(shared.backbone.model).items()
    }
    average = Average(shared.actor, 0.5)
    train_a_little(shared.actor, lambda: response_logprobs(shared.actor, batch, temperature=1.0).logprobs.sum())
    average.update()
    with average.in_place():
        outputs(shared, batch)
    shared.actor.save(tmp_path, byte_tokenizer(), [2])
    shared.critic.save(tmp_path, byte_tokenizer())
    for module in (shared.backbone, *shared.roles.values()):
        module.model.to("cpu").train().eval()
        for name, parameter in backbone_parameters(module.model).items():
            place, dtype, value = before[name]
            assert (parameter.data_ptr(), parameter.dtype) == (place, dtype), name
            assert torch.equal(parameter, value) and not parameter.requires_grad, name
    assert {dtype for _, dtype, _ in before.values()} == {torch.bfloat16, torch.float32}


# each role is what it would be alone


@pytest.mark.parametrize("only", [True, False])
def test_the_reference_is_the_frozen_sft_policy(
    architecture: str, only: bool, share: Callable[..., Shared], batch: TokenBatch
) -> None:
    shared = share(architecture, lora={"only": only})
    frozen = load_policy(shared.config, path=str(shared.sft))
    reference = reference_logprobs(shared.actor, None, temperature=1.0)
    assert torch.equal(logprobs(shared.actor, batch), logprobs(frozen, batch))  # where PPO starts
    for module in shared.roles.values():
        disturb(module)
    assert torch.equal(reference(batch), logprobs(frozen, batch))
    assert not torch.allclose(logprobs(shared.actor, batch), logprobs(frozen, batch), atol=0.01)


@pytest.mark.parametrize("num_layers", [0, 1])
def test_reward_model_and_critic_start_from_the_result_of_step_2(
    architecture: str, num_layers: int, share: Callable[..., Shared], batch: TokenBatch
) -> None:
    shared = share(architecture, num_layers)
    with torch.no_grad():
        wanted = shared.trained(batch)
        assert torch.equal(shared.reward_model(batch), wanted)
        assert torch.equal(shared.critic(batch), wanted)
    assert float(wanted.std()) > 0.01


def test_in_bf16_step_2_trains_on_the_weights_of_the_backbone(share: Callable[..., Shared], batch: TokenBatch) -> None:
    """Both round the SFT policy stochastically with the same random numbers."""
    shared = share("llama", 1, precision="bf16")
    with torch.no_grad():
        assert torch.equal(shared.reward_model(batch), shared.trained(batch))


def test_training_a_role_does_not_change_the_others(
    architecture: str, share: Callable[..., Shared], batch: TokenBatch
) -> None:
    shared = share(architecture)
    losses = {
        "actor": lambda: response_logprobs(shared.actor, batch, temperature=1.0).logprobs.sum(),
        "critic": lambda: shared.critic(batch).square().mean(),
    }
    for role, loss in losses.items():
        loss().backward()
        for other, module in shared.roles.items():
            with_gradient = {name for name, p in module.named_parameters() if p.grad is not None}
            learning = {name for name, p in module.named_parameters() if p.requires_grad}
            assert with_gradient == (learning if other == role else set()), (role, other)
        shared.roles[role].zero_grad()
        before = outputs(shared, batch)
        train_a_little(shared.roles[role], loss)
        after = outputs(shared, batch)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {role}
    assert not any(p.requires_grad for p in shared.reward_model.parameters())


def test_a_critic_without_reward_model_starts_with_a_new_head(share: Callable[..., Shared], batch: TokenBatch) -> None:
    backbone = share("opt-350m").backbone
    first, again = (backbone.score_model(num_layers=1, learns=True) for _ in range(2))
    assert first.head.weight.shape == (1, 16)  # word_embed_proj_dim, not hidden_size
    assert torch.equal(first.head.weight, again.head.weight)
    assert 0.05 < float(first.head.weight.std()) < 0.6  # 1/sqrt(17) = 0.24
    with torch.no_grad():
        assert torch.isfinite(first(batch)).all() and float(first(batch).std()) > 1e-3


# what is saved


def test_a_saved_role_reloads_to_the_same_numbers(
    architecture: str, share: Callable[..., Shared], batch: TokenBatch, tmp_path: Path
) -> None:
    shared = share(architecture, 1)
    for module in (shared.actor, shared.critic):
        disturb(module)
    before = outputs(shared, batch)
    shared.actor.save(tmp_path / "actor", byte_tokenizer(), [2])
    shared.critic.save(tmp_path / "critic", byte_tokenizer())
    after = outputs(shared, batch)
    assert all(torch.equal(before[name], after[name]) for name in before)
    actor = load_policy(shared.config, path=str(tmp_path / "actor"))
    assert torch.allclose(logprobs(actor, batch), before["actor"], atol=2e-3)
    critic = load_score_model(shared.config, path=str(tmp_path / "critic"), trained=True)
    with torch.no_grad():
        assert torch.allclose(critic(batch), before["critic"], atol=2e-3)


@pytest.mark.parametrize("num_layers", [0, 1])
def test_peft_loads_the_adapters_of_the_reward_model(
    architecture: str, num_layers: int, share: Callable[..., Shared], batch: TokenBatch
) -> None:
    shared = share(architecture, num_layers)
    sizes = {"num_labels": 1, "num_hidden_layers": num_layers or 2}
    base = AutoModelForSequenceClassification.from_pretrained(shared.sft, dtype=torch.float32, **sizes)
    theirs = PeftModel.from_pretrained(base, str(shared.adapters)).eval()
    with torch.no_grad():
        for i, wanted in enumerate(shared.reward_model.scores(batch)):
            ids = batch.ids[i : i + 1, : int(batch.lengths[i])]  # one row: nothing is padding
            assert float(theirs(ids).logits + shared.reward_model.bias) == pytest.approx(float(wanted), abs=1e-3)


def test_damaged_or_missing_adapters_are_refused(share: Callable[..., Shared], tmp_path: Path) -> None:
    shared = share("gpt2")
    (shared.adapters / "adapter_model.safetensors").write_bytes(b"\x00" * 40)
    for folder in (shared.adapters, tmp_path / "nowhere"):
        with pytest.raises(FailedError, match="damaged adapters"):
            shared.backbone.score_model(adapters=folder)


# the steps


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_unchanged_start_passes_the_self_check(
    architecture: str, precision: str, share: Callable[..., Shared], examples: list[Example]
) -> None:
    sizes = {"batch_size": 6, "micro_batch_size": 4, "temperature": 0.8}
    shared = share(architecture, 1, precision=precision, ppo=sizes)
    actor_critic = LmActorCritic(shared.actor, shared.critic, 0.8)
    reference = reference_logprobs(shared.actor, None, temperature=0.8)
    scorer = Scorer({REWARD_MODEL: Term(1.0, of_model(by_model(shared.reward_model, 4)))})
    sampler = Sampler(shared.actor, Encoder.of(shared.config), temperature=0.8, batch_size=4)
    roles = PpoRoles(actor_critic, reference, scorer, sampler, shared.config.ppo, shared.config.seed)
    found = Collect(roles, {"made up": examples}, {"made up": 1.0}).self_check()
    if precision == "fp32":
        assert all(0 <= value < 5e-4 for value in found.values())


@pytest.fixture(scope="module")
def two_runs(take: Take, longer: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Run all steps on one backbone (True) and with separate copies (False)."""
    work = tmp_path_factory.mktemp("runs")
    (work / "backbone_rewards.py").write_text(
        "def share_of_e(_, responses):\n    return [r.count('e') / 8 for r in responses]"
    )
    reward = "ppo.reward={reward_model: 0.1, 'backbone_rewards:share_of_e': 1.0}"
    free = ["ppo.missing_eos_penalty=0", "ppo.kl_coef=0.0", "ppo.max_kl=1000", reward]
    fast = ["ppo.lr=1e-2", "ppo.critic_lr=1e-2", "ppo.batch_size=32", "ppo.micro_batch_size=32", "ppo.num_updates=16"]
    more = [
        "lora.rank=4",
        "lora.only=false",
        "reward.max_steps=30",
        "reward.lr=1e-2",
        "ppo.num_eval_prompts=16",
        *free,
        *fast,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        for shared in (True, False):
            for step in ("sft", "reward", "ppo", "eval"):
                take(step, work / str(shared), *longer, *more, f"lora.shared_backbone={str(shared).lower()}")
    return {shared: work / str(shared) for shared in (True, False)}


@pytest.mark.slow
def test_roles_on_one_backbone_learn_like_separate_copies(two_runs: dict[bool, Path]) -> None:
    gains = {}
    for shared, run in two_runs.items():
        results = json.loads((run / "results.json").read_text())
        assert results["reward_model"]["accuracy"]["toy"]["mean"] > 0.8
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        scores = [row["ppo/validation_score"] for row in rows if "ppo/validation_score" in row]
        gains[shared] = max(scores) - scores[0]
        print(shared, scores)
    assert min(gains.values()) > 0.3
    assert 0.7 < gains[True] / gains[False] < 1.4


@pytest.mark.slow
def test_every_step_saves_complete_models(
    two_runs: dict[bool, Path], make_config: MakeConfig, batch: TokenBatch
) -> None:
    run = two_runs[True]
    assert (run / "reward" / "adapter" / "adapter_config.json").exists()
    assert not (two_runs[False] / "reward" / "adapter").exists()
    whole = load_score_model(make_config(), path=str(run / "reward" / "model"), trained=True)
    config = make_config(lora={"rank": 4, "shared_backbone": True})
    backbone = Backbone.load(config, str(run / "sft" / "model"))
    with torch.no_grad():
        on_backbone = backbone.score_model(adapters=run / "reward" / "adapter").scores(batch)
        assert torch.allclose(whole.scores(batch), on_backbone, atol=1e-3)
    load_policy(make_config(), path=str(run / "ppo" / "model"))


def test_the_reward_step_needs_the_policy_that_it_shares(take: Take, small: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tercet lm sft.*ppo\.policy"):
        take("reward", tmp_path, *small, *SHARED)
