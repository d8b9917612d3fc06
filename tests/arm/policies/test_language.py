"""A policy that reads: its network is the pretrained one, sentences decide, and what they lead to is hidden."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.arm.policies.language import tiny_model
from torch import Tensor

from tercet.arm.networks.sentences import language_files
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.environments import sizes_of_task
from tercet.arm.policies.action_tokens import NUM_BINS
from tercet.arm.policies.kinds import load_policy, new_policy
from tercet.arm.policies.language import LanguagePolicy
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.config.arm import PolicyConfig
from tercet.errors import InputError
from tercet.train.learned import learned_tensors
from tercet.train.optim import adamw

SIZES = Sizes(
    6,
    2,
    names=("tip", "red", "blue", "goal", "goal.z", "instruction"),
    told=(False, False, False, True, True, True),
    of=("", "red cube", "blue cube", "", "", ""),
    sentences=("lift the red cube", "lift the blue cube", "raise the red cube and lift it now"),
)
CONFIG = PolicyConfig(kind="language", language_model=tiny_model(), num_layers=2, lora_rank=4, log_std=-3.0)


def new(config: PolicyConfig = CONFIG, *, seed: int = 0, moved: bool = True) -> LanguagePolicy:
    policy = new_policy(SIZES, config, seed=seed)
    assert isinstance(policy, LanguagePolicy)
    if moved:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


def observations(*numbers: int) -> Tensor:
    rows = torch.randn(len(numbers), 6, generator=torch.Generator().manual_seed(0))
    rows[:, -1] = torch.tensor(numbers) / 10
    return rows


def test_it_computes_what_transformers_computes_of_the_whole_row() -> None:
    """Without adapters, and with the sentence, the things and the tokens as one row of embeddings."""
    transformers = pytest.importorskip("transformers")
    policy = new(moved=False)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tiny_model(), num_hidden_layers=2, dtype=torch.float32).model
    seen, decisions = observations(0, 2, 1, 0), torch.randint(NUM_BINS, (4, 2))
    things = policy.read(seen)[0]
    with torch.no_grad():
        theirs.norm.weight.copy_(policy.model.norm.weight)  # the last norm and the action tokens start anew
        logits = policy.distribution(seen, decisions).logits
        for row, number in enumerate((0, 2, 1, 0)):
            words = torch.tensor([policy_tokens(SIZES.sentences[number])])
            actions = policy.model.embed(decisions[row : row + 1, :1])
            whole = torch.cat([theirs.embed_tokens(words), things[row : row + 1], actions], 1)
            hidden = theirs(inputs_embeds=whole).last_hidden_state[0, -2:]
            expected = hidden @ policy.model.embed_tokens.weight.T
            torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)


def policy_tokens(sentence: str) -> list[int]:
    tree = json.loads((Path(tiny_model()) / "tokenizer.json").read_text())
    return [tree["model"]["vocab"][word] for word in sentence.split()]


def test_neighbouring_actions_start_alike_and_every_action_about_as_likely() -> None:
    policy = new(moved=False)
    weight = policy.model.embed_tokens.weight.detach()
    near, far = ((weight[by:] - weight[:-by]).norm(dim=1).mean() for by in (1, 100))
    assert near < 0.2 * far
    pretrained = language_files(tiny_model()).last_embeddings(NUM_BINS)
    assert float(weight.std()) == pytest.approx(float(pretrained.std()), rel=0.01)
    with torch.no_grad():
        logits = policy.distribution(observations(0, 1, 2), torch.randint(NUM_BINS, (3, 2))).logits
    assert 0.2 < float(logits.std()) < 1.0


def test_a_thing_is_its_numbers_and_the_embedding_of_its_name() -> None:
    policy = new(moved=False)
    assert policy.entries == {"": [0], "red cube": [1], "blue cube": [2]}
    embeddings = policy.names
    with torch.no_grad():
        seen = observations(0)
        arm, red, blue = policy.read(seen)[0][0]
        torch.testing.assert_close(red, policy.projectors[1](seen[0, 1:2]) + embeddings[1])
        torch.testing.assert_close(blue, policy.projectors[2](seen[0, 2:3]) + embeddings[2])
        torch.testing.assert_close(arm, policy.projectors[0](seen[0, :1]))
    assert (embeddings[1] - embeddings[2]).abs().max() > 0.01 and not embeddings[0].any()


def test_the_sentence_decides_and_what_follows_from_it_is_hidden() -> None:
    policy = new()
    seen, decisions = observations(0, 0, 0), torch.randint(NUM_BINS, (3, 2))
    with torch.no_grad():
        before = policy.distribution(seen, decisions).logits
        told = seen.clone()
        told[:, 3:5] += 5.0
        assert torch.equal(policy.distribution(told, decisions).logits, before)
        for number in (1, 2):
            other = seen.clone()
            other[1, -1] = number / 10
            after = policy.distribution(other, decisions).logits
            assert (after[1] - before[1]).abs().max() > 1e-3
            torch.testing.assert_close(after[[0, 2]], before[[0, 2]], rtol=1e-4, atol=1e-4)
        for entry in range(3):
            other = seen.clone()
            other[:, entry] += 1.0
            assert (policy.distribution(other, decisions).logits - before).abs().amax((1, 2)).min() > 1e-4


def test_sentences_kept_without_gradients_follow_the_parameters() -> None:
    policy, seen, decisions = new(), observations(0, 1, 2), torch.randint(NUM_BINS, (3, 2))
    with torch.no_grad():
        kept = policy.distribution(seen, decisions).logits
        twin = copy.deepcopy(policy)
        torch.testing.assert_close(twin.distribution(seen, decisions).logits, kept)
        for changed in (policy, twin):
            changed.model.layers[0].self_attn.v_proj.up.add_(0.5)
    learning = policy.distribution(seen, decisions).logits  # with gradients, computed anew
    with torch.no_grad():
        again = policy.distribution(seen, decisions).logits
        torch.testing.assert_close(again, learning, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(twin.distribution(seen, decisions).logits, again)
    assert (again - kept).abs().max() > 1e-3
    optimizer = adamw(policy, lr=0.1)  # its fused step does not count up the version of a parameter
    learning.sum().backward()
    optimizer.step()
    learning = policy.distribution(seen, decisions).logits
    with torch.no_grad():
        kept, again = again, policy.distribution(seen, decisions).logits
        torch.testing.assert_close(again, learning, rtol=1e-4, atol=1e-4)
    assert (again - kept).abs().max() > 1e-3
    policy.load_state_dict(new(seed=3).state_dict())
    with torch.no_grad():
        assert (policy.distribution(seen, decisions).logits - again).abs().max() > 1e-3


def test_training_changes_adapters_and_leaves_the_pretrained_weights(tmp_path: Path) -> None:
    policy = new(moved=False)
    frozen = {name: value.clone() for name, value in policy.named_buffers() if "weight" in name}
    assert any("q_proj.weight" in name for name in frozen)
    names = set(learned_tensors(policy))
    assert {"model.embed_tokens.weight", "model.norm.weight", "projectors.1.weight"} < names
    assert all(name.split(".")[-1] in ("up", "down") for name in names if "model.layers" in name)
    before = {name: value.detach().clone() for name, value in learned_tensors(policy).items()}
    optimizer = adamw(policy, lr=1e-2)
    for _ in range(2):  # the second step moves `down`, whose first gradient is 0
        policy.imitation_loss(observations(0, 1, 2), torch.rand(3, 1, 2), torch.ones(3, 1, dtype=torch.bool)).backward()
        optimizer.step()
        optimizer.zero_grad()
    still = [name for name, value in learned_tensors(policy).items() if torch.equal(value, before[name])]
    assert not still
    buffers = dict(policy.named_buffers())
    assert all(torch.equal(buffers[name], value) for name, value in frozen.items())
    policy.save(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 4.2 * sum(p.numel() for p in policy.parameters()) + 9000


def test_a_policy_is_only_loaded_over_the_model_that_it_was_trained_on(tmp_path: Path) -> None:
    policy = new()
    policy.save(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    loaded, seen = load_policy(tmp_path, SIZES), observations(0, 1, 2)
    assert torch.equal(loaded.decide(seen, None), policy.decide(seen, None))
    # sentences belong to the task: the same policy can be told others
    told = replace(SIZES, sentences=(*SIZES.sentences[:2], "lift it"))
    with torch.no_grad():
        assert torch.equal(load_policy(tmp_path, told).decide(seen[:2], None), policy.decide(seen[:2], None))
    for change, message in (
        ({"language_model": tiny_model(1)}, "its frozen weights differ"),
        ({"rank": 0}, "must hold num_layers and rank as whole numbers above 0"),
        ({"language_model": "nowhere"}, "policy.language_model: no folder 'nowhere'"),
        ({"language_model": "no.gguf"}, "policy.language_model: no file 'no.gguf'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(tree | change))
        with pytest.raises(InputError, match=message):
            load_policy(tmp_path, SIZES)


def test_what_it_cannot_read_is_refused() -> None:
    with pytest.raises(InputError, match="reads a sentence, and this environment gives none; set env=lift-two"):
        new_policy(sizes_of_task(TASKS["lift"]), CONFIG, seed=0)
    with pytest.raises(InputError, match="has 3 layers, fewer than 4"):
        new(CONFIG.model_copy(update={"num_layers": 4}))
