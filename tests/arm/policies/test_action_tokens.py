"""Actions as words: OpenVLA's bins, and a Llama that is transformers' own."""

import math

import numpy as np
import pytest
import torch

from tercet.arm.policies.action_tokens import TokenPolicy, centres_of, ids_of, llama_shape
from tercet.arm.policies.llama import Llama
from tercet.arm.policies.roles import Sizes
from tercet.train.optim import adamw


def test_bins_are_openvlas() -> None:
    """numpy.digitize on 256 edges, counted from the vocabulary's end; 255 centres (Kim et al. 2024, its tokenizer)."""
    actions = np.array([-1.0, -0.999, -0.5, 0.0, 0.123, 0.9999, 1.0, -3.0, 7.0], np.float32)
    edges = np.linspace(-1, 1, 256)
    expected = 32000 - np.digitize(actions.clip(-1, 1), edges)
    ids = ids_of(torch.from_numpy(actions), 32000)
    assert ids.tolist() == expected.tolist()
    assert (ids.min(), ids.max()) == (32000 - 256, 32000 - 1)
    centres = (edges[1:] + edges[:-1]) / 2
    wanted = centres[np.clip(32000 - expected - 1, 0, 254)]
    np.testing.assert_allclose(centres_of(ids, 32000), wanted, atol=1e-6)
    assert (centres_of(ids, 32000) - torch.from_numpy(actions.clip(-1, 1))).abs().max() <= 1 / 255 + 1e-6


def test_the_decoder_is_transformers_llama_of_smollm2s_shape() -> None:
    transformers = pytest.importorskip("transformers")
    shape = llama_shape(576, 2, 300)
    assert (shape.num_attention_heads, shape.num_key_value_heads, shape.intermediate_size) == (9, 3, 1536)  # SmolLM2
    torch.manual_seed(0)
    ours = Llama(shape)
    config = transformers.LlamaConfig(**vars(shape), tie_word_embeddings=True, max_position_embeddings=64)
    theirs = transformers.LlamaModel(config).eval()
    theirs.load_state_dict(ours.state_dict())
    ids = torch.randint(300, (2, 7))
    with torch.no_grad():
        expected = theirs(input_ids=ids).last_hidden_state
        torch.testing.assert_close(ours(ours.embed(ids)), expected, rtol=1e-4, atol=1e-4)


def test_positions_one_after_another_are_those_of_a_whole_pass() -> None:
    torch.manual_seed(0)
    model, embedded = Llama(llama_shape(192, 2, 300)), torch.randn(2, 5, 192)
    past = model.empty_cache()
    with torch.no_grad():
        steps = torch.cat([model(one, past) for one in embedded.split(1, 1)], 1)
        torch.testing.assert_close(steps, model(embedded))


def test_words_of_a_larger_vocabulary_are_its_last_ones() -> None:
    torch.manual_seed(0)
    policy = TokenPolicy(Sizes(3, 2), hidden_size=16, num_layers=1, vocab_size=400)
    seen = torch.randn(50, 3)
    with torch.no_grad():
        decisions = policy.decide(seen, torch.randn(50, 2))
        logprobs = policy.distribution(seen, decisions).logprobs()
    assert decisions.min() >= 400 - 256 and decisions.max() < 400
    # almost uniform over 256 words when it is fresh
    assert abs(float(logprobs.mean()) + 2 * np.log(256)) < 0.5


def test_the_logits_are_those_of_the_vocabularys_last_words() -> None:
    torch.manual_seed(0)
    policy = TokenPolicy(Sizes(3, 2), hidden_size=16, num_layers=1, vocab_size=400)
    seen, decisions = torch.randn(5, 3), torch.randint(400 - 256, 400, (5, 2))
    with torch.no_grad():
        prefix = policy.projector(policy.scaled(seen))[:, None]
        read = torch.cat([prefix, policy.model.embed_tokens(decisions[:, :1])], 1)
        every = policy.model(read) @ policy.model.embed_tokens.weight.T
        found = policy.distribution(seen, decisions)
    torch.testing.assert_close(found.logits, every[..., -256:])
    assert torch.equal(found.chosen, decisions - (400 - 256))


def test_cloning_is_paid_by_the_mean_over_joints_of_each_words_cross_entropy() -> None:
    torch.manual_seed(0)
    policy = TokenPolicy(Sizes(3, 2), hidden_size=16, num_layers=1, vocab_size=256)
    seen, actions = torch.randn(6, 3), 2 * torch.rand(6, 1, 2) - 1
    words = ids_of(actions[:, 0], 256)
    loss = policy.imitation_loss(seen, actions, torch.ones(6, 1, dtype=torch.bool))
    logits = policy.distribution(seen, words).logits
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), words.flatten(), reduction="sum") / 2
    torch.testing.assert_close(loss, wanted)


def test_a_cloned_policy_explores_around_what_was_shown_as_widely_as_it_was_told() -> None:
    torch.manual_seed(0)
    policy = TokenPolicy(Sizes(3, 2), hidden_size=64, num_layers=1, vocab_size=256, log_std=math.log(0.2))
    seen, actions = torch.randn(1, 3).expand(128, 3), torch.tensor([0.4, -0.3]).expand(128, 1, 2)
    optimizer = adamw(policy, lr=3e-3)
    for _ in range(150):
        policy.imitation_loss(seen, actions, torch.ones(128, 1, dtype=torch.bool)).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        done = policy.actions(policy.decide(seen[:1].expand(4000, 3), torch.randn(4000, 2)))[:, 0]
    torch.testing.assert_close(done.mean(0), actions[0, 0], rtol=0, atol=0.05)
    torch.testing.assert_close(done.std(0), torch.full((2,), 0.2), rtol=0.2, atol=0)
