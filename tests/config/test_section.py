"""Values that pydantic would take, and that computing or writing a file would stumble over."""

import pytest
from pydantic import ValidationError

from tercet.config.lm import LmConfig


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"seed": True}, "true and false are not numbers"),
        ({"data": {"split": [True, 1, 1]}}, "true and false are not numbers"),
        ({"ppo": {"reward": {"a": True}}}, "true and false are not numbers"),
        ({"data": {"train": [{"path": "a", "weight": 1e-320}]}}, "numbers other than 0 go from 1e-30"),
        ({"ppo": {"reward": {"a": 1e300}}}, "numbers other than 0 go from 1e-30 to 1e"),
        ({"model": {"architecture": {"x": 10**30}}}, "whole numbers go up to 9223372036854775807"),
        ({"model": {"path": "a\0b"}}, "NUL"),
        ({"eval": {"prompts": ["\udcff"]}}, "lone surrogate"),
        ({"ppo": {"reward": {"\udcff": 1}}}, "lone surrogate"),
        ({"threads": 999_999_999}, "less than or equal to 1024"),
        ({"seed": 2**63}, "whole numbers go up to"),
        ({"sft": {"batch_size": 10**12}}, "less than or equal to 10000000"),
        ({"ppo": {"batch_size": 10**6}}, r"batch_size=1000000 \* max_response_tokens=128 must be at most"),
    ],
)
def test_values_that_cannot_be_computed_with_are_refused(tree: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LmConfig.model_validate(tree)


def test_booleans_and_text_are_accepted_where_they_are_declared() -> None:
    config = LmConfig.model_validate(
        {"model": {"architecture": {"x": True, "y": "é😀"}, "gradient_checkpointing": True}}
    )
    assert config.model.architecture == {"x": True, "y": "é😀"} and config.model.gradient_checkpointing
    assert LmConfig.model_validate({"ppo": {"lr": 0.5, "kl_coef": 0}}).ppo.kl_coef == 0
