"""A policy that reads: its network is the pretrained one, sentences decide, and what they lead to is hidden."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.arm.policies.language import tiny_model
from torch import Tensor

from tercet.arm.networks.sentences import contrasts, language_files, lower, read_names
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
CONFIG = PolicyConfig(
    kind="language", language_model=tiny_model(), reading_layers=1, num_layers=2, lora_rank=4, log_std=-3.0
)


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


def test_names_are_read_after_their_sentences_as_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).model
    files, sentences = language_files(tiny_model()), ("lift the red cube", "raise the blue cube and lift it")
    read = read_names(files, lower(files.layers(3), 2), sentences, ("red cube", "lift", ""))
    with torch.no_grad():
        for row, sentence in enumerate(sentences):
            for column, (name, num) in enumerate((("red cube", 2), ("lift", 1), ("", 1))):
                words = torch.tensor([tokens_of(f"{sentence} {name}")])
                hidden = theirs(words, output_hidden_states=True).hidden_states[2][0]
                torch.testing.assert_close(read[row, column], hidden[-num:].mean(0), rtol=1e-4, atol=1e-4)


def test_it_computes_what_transformers_computes_in_the_next_layers() -> None:
    """Without adapters, with the things, the arm and the tokens as one row of embeddings."""
    transformers = pytest.importorskip("transformers")
    policy = new(moved=False)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).model
    theirs.layers = theirs.layers[1:]
    seen, decisions = observations(0, 2, 1, 0), torch.randint(NUM_BINS, (4, 2))
    with torch.no_grad():
        theirs.norm.weight.copy_(policy.model.norm.weight)  # the last norm and the action tokens start anew
        actions = policy.model.embed(decisions[:, :1]) + policy.joints[1]
        hidden = theirs(inputs_embeds=torch.cat([policy.read(seen), actions], 1), use_cache=False).last_hidden_state
        expected = hidden[:, -2:] @ policy.model.embed_tokens.weight.T
        torch.testing.assert_close(policy.distribution(seen, decisions).logits, expected, rtol=1e-4, atol=1e-4)


def tokens_of(sentence: str) -> list[int]:
    tree = json.loads((Path(tiny_model()) / "tokenizer.json").read_text())
    return [tree["model"]["vocab"][word] for word in sentence.split()]


def test_a_contrast_leaves_how_a_thing_differs_from_the_others() -> None:
    read = torch.tensor([[[5.0], [1.0], [7.0]], [[2.0], [4.0], [8.0]]])  # two sentences; two things and the arm
    assert contrasts(read, [True, True, False]).flatten(1).tolist() == [[2.0, -2.0, 7.0], [-1.0, 1.0, 8.0]]
    assert contrasts(read, [True, False, False]).flatten(1).tolist() == [[0.0, 1.0, 7.0], [0.0, 4.0, 8.0]]
    assert torch.equal(contrasts(read, [False] * 3), read)


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


def test_a_position_is_its_numbers_and_what_was_read_of_its_name() -> None:
    policy = new(moved=False)
    assert list(policy.entries.items()) == [("red cube", [1]), ("blue cube", [2]), ("", [0])]
    policy.measure(observations(0, 1, 1, 0), torch.zeros(4, 2))  # two of the three sentences
    files = language_files(tiny_model())
    red, blue, arm = read_names(files, lower(files.layers(1), 1), SIZES.sentences, list(policy.entries)).unbind(1)
    half = (red - blue) / 2
    of_red, of_arm = half - half[:2].mean(0), arm - arm[:2].mean(0)
    of_red, of_arm = (of / of[:2].square().mean().sqrt() for of in (of_red, of_arm))
    with torch.no_grad():
        seen = observations(2, 0)
        scaled = policy.scaled(seen)
        for row, number in enumerate((2, 0)):
            for column, text in enumerate((of_red[number], -of_red[number], of_arm[number])):
                of = [1, 2, 0][column]
                expected = policy.projectors[column](scaled[row, of : of + 1]) + 0.125 * text
                expected += policy.joints[0] if column == 2 else 0.0
                torch.testing.assert_close(policy.read(seen)[row, column], expected, rtol=1e-4, atol=1e-5)


def test_it_learns_which_thing_a_sentence_asks_for() -> None:
    """The action is the number of the cube that is asked for, also in rows that were not learned."""
    policy = new(moved=False)

    def rows(num: int, seed: int) -> tuple[Tensor, Tensor]:
        seen = torch.rand(num, 6, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
        numbers = torch.arange(num) % 2
        seen[:, -1] = numbers / 10
        return seen, torch.where(numbers == 0, seen[:, 1], seen[:, 2])

    seen, asked = rows(256, 0)
    policy.measure(seen, asked[:, None].expand(-1, 2))
    optimizer, mask = adamw(policy, lr=1e-2), torch.ones(64, 1, dtype=torch.bool)
    for step in range(60):
        some = torch.arange(64) + 64 * (step % 4)
        policy.imitation_loss(seen[some], asked[some, None, None].expand(-1, 1, 2), mask).div(64).backward()
        optimizer.step()
        optimizer.zero_grad()
    seen, asked = rows(64, 1)
    told = seen.clone()
    told[:, -1] = 0.1 - seen[:, -1]  # the sentence of the other cube
    other = torch.where(asked == seen[:, 1], seen[:, 2], seen[:, 1])
    with torch.no_grad():
        said, swapped = (policy.actions(policy.decide(some, None))[:, 0] for some in (seen, told))
    for actions, near, far in ((said, asked, other), (swapped, other, asked)):
        assert (actions - near[:, None]).abs().mean() < 0.5 * (actions - far[:, None]).abs().mean()


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


def test_training_changes_adapters_and_leaves_the_pretrained_weights(tmp_path: Path) -> None:
    policy = new(moved=False)
    frozen = {name: value.clone() for name, value in policy.named_buffers() if "weight" in name}
    assert any("q_proj.weight" in name for name in frozen)
    names = set(learned_tensors(policy))
    assert {"model.embed_tokens.weight", "model.norm.weight", "projectors.1.weight", "joints"} < names
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


def test_without_noise_an_action_is_the_mean_of_its_histogram() -> None:
    policy, likely = new(), torch.full((2, NUM_BINS), -30.0)
    likely[0, [10, 100, 101]] = torch.tensor([2.0, 3.0, 1.0]).log()  # bins 10, 100 and 101 with 1/3, 1/2 and 1/6
    likely[1, 0] = 0.0  # shares a bin with 1
    assert policy.choice(likely).tolist() == [70, 1]  # (2 x 10 + 3 x 100 + 101) / 6 = 70.2
    seen = observations(0, 1, 2)
    with torch.no_grad():
        decisions = policy.decide(seen, None)
        first = policy.distribution(seen, decisions).logits[:, 0].softmax(-1)
    means = (first * torch.arange(NUM_BINS).clamp(min=1)).sum(-1)
    assert (decisions[:, 0] - means).abs().max() <= 0.51


def test_ppo_trains_all_but_the_embeddings_of_actions_and_the_last_norm() -> None:
    policy = new()
    before = set(learned_tensors(policy))
    policy.explore(-2.0)
    frozen = {name for name, parameter in policy.named_parameters() if not parameter.requires_grad}
    assert frozen == {"model.embed_tokens.weight", "model.norm.weight"}
    seen, decisions = observations(0, 1), torch.randint(NUM_BINS, (2, 2))
    policy.distribution(seen, decisions).logprobs().sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters() if parameter.requires_grad)
    assert frozen < before


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
        ({"rank": 0}, "must hold reading_layers, num_layers, rank as whole numbers above 0"),
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
        new(CONFIG.model_copy(update={"num_layers": 3}))
