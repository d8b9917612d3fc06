"""The checks of the language config across several keys."""

import re
from pathlib import Path

import pytest

from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.errors import InputError


def problems(*overrides: str, preset: str | Path = "tiny") -> list[str]:
    with pytest.raises(InputError) as caught:
        load_lm_config(preset, overrides)
    first, *rest = str(caught.value).splitlines()
    return [line.strip() for line in rest] or [first]


def test_inconsistent_values_are_named_together() -> None:
    for overrides, wanted in (
        (["ppo.num_minibatches=17"], r"ppo \(.*\): num_minibatches=17 of batch_size=16 would be empty"),
        (["lora.shared_backbone=true"], r"lora.shared_backbone = True \(command line\): .*set lora.rank"),
        (
            ["lora.rank=4", "lora.shared_backbone=true", "reward.model=other"],
            r"reward \(.*\): model='other' cannot share the SFT policy's weights",
        ),
        (["ppo.kl_target=4", "ppo.kl_horizon=3"], r"ppo \(.*\): kl_horizon=3 must be above 0.2 \* batch_size=3.2"),
    ):
        with pytest.raises(InputError, match=wanted):
            load_lm_config("tiny", overrides)


def test_a_chat_template_is_text_or_a_file(tmp_path: Path) -> None:
    text = "{% for m in messages %}{{ m.content }}!{% endfor %}"
    file = tmp_path / "template.jinja"
    for given_as, encoding in ((text, "utf-8"), (str(file), "utf-8"), (str(file), "utf-8-sig")):  # with a BOM too
        file.write_text(text, encoding=encoding)
        config = load_lm_config("tiny", [f"model.chat_template={given_as!r}"])
        assert config.model.chat_template == text
    file.unlink()
    assert LmConfig.model_validate(config.model_dump()).model.chat_template == text  # a run needs the file no more


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("nowhere.jinja", None, "not Jinja text .*, and no readable file: .*No such file"),
        ("empty.jinja", "", "the file is not a Jinja template"),
        ("tokenizer_config.json", '{"chat_template": "{{ messages }}"}', "contains only the template"),
        ("latin.jinja", b"\xe9 {{ messages }}", "and no readable file: not UTF-8 text"),
    ],
)
def test_an_invalid_chat_template_is_refused(name: str, content: str | bytes | None, what: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (problem,) = problems(f"model.chat_template={tmp_path / name}")
    assert problem.startswith("model.chat_template = ") and re.search(what, problem)


def test_another_model_uses_its_own_tokenizer() -> None:
    assert load_lm_config("tiny", ["model.path=X"]).model.tokenizer == ""
