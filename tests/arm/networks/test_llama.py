"""The Llama of action tokens, compared with that of transformers."""

import pytest
import torch

from tercet.arm.networks.llama import Llama
from tercet.arm.policies.action_tokens import llama_shape


def test_hidden_states_equal_those_of_transformers() -> None:
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


def test_cached_positions_equal_a_full_pass() -> None:
    torch.manual_seed(0)
    model, embedded = Llama(llama_shape(192, 2, 300)), torch.randn(2, 5, 192)
    cache = model.empty_cache()
    with torch.no_grad():
        steps = torch.cat([model(one, cache) for one in embedded.split(1, 1)], 1)
        torch.testing.assert_close(steps, model(embedded))
