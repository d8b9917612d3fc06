"""The table of fast paths names parts that the models of transformers have."""

from collections.abc import Callable

import pytest

from tercet.config.lm import LmConfig
from tercet.lm.cpu.architectures import FAST_PATHS, fast_paths
from tercet.lm.cpu.last_layer import layers_of
from tercet.lm.models.configs import config_at, fresh
from tercet.lm.models.roles import load_policy

MakeConfig = Callable[..., LmConfig]


@pytest.mark.parametrize("model_type", FAST_PATHS)
def test_every_row_names_the_parts_of_its_architecture(model_type: str, make_config: MakeConfig) -> None:
    model = fresh(config_at(make_config(model_type).model), scores=False)
    paths = fast_paths(model)
    assert paths is FAST_PATHS[model_type]
    assert paths.decoder in (None, type(model))
    layer = layers_of(model.base_model, model.config.num_hidden_layers)[-1]
    for name in paths.attention_ends or ():
        assert layer.get_submodule(name) is not None


def test_an_architecture_without_a_row_has_no_fast_path(make_config: MakeConfig) -> None:
    assert fast_paths(load_policy(make_config("bloom")).model) is None
