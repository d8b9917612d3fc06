"""The shapes of models whose weights are not on this machine."""

import pytest

from tercet.errors import InputError
from tercet.lm.models.configs import fresh
from tercet.lm.plan.shapes import PUBLISHED, shape_of

# parameters as the models' pages on the hub give them
COUNTS = {
    "facebook/opt-125m": 125_239_296,
    "facebook/opt-350m": 331_196_416,
    "facebook/opt-1.3b": 1_315_758_080,
    "facebook/opt-2.7b": 2_651_596_800,
    "facebook/opt-6.7b": 6_658_473_984,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_published_shape_has_the_published_number_of_parameters(make_config, name: str):
    config = make_config(model={"path": name})
    assert sum(p.numel() for p in fresh(shape_of(config), scores=False).parameters()) == COUNTS[name]


def test_instruct_models_have_the_shape_of_their_base(make_config):
    shapes = [shape_of(make_config(model={"path": f"Qwen/Qwen2.5-0.5B{end}"})) for end in ("", "-Instruct")]
    assert shapes[0].to_dict() == shapes[1].to_dict()


def test_an_unknown_hub_id_is_refused_with_a_remedy(make_config):
    config = make_config(model={"path": "somebody/some-model"})
    with pytest.raises(
        InputError, match=r"model\.path: 'somebody/some-model'.*facebook/opt-125m.*model\.architecture="
    ):
        shape_of(config)


def test_a_folder_on_this_machine_is_read(make_config, sft_folder):
    folder = str(sft_folder("gpt2"))
    assert shape_of(make_config(model={"path": folder})).model_type == "gpt2"
    assert shape_of(make_config(reward={"model": folder}), folder).model_type == "gpt2"
