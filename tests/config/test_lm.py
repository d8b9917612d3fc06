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


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["ppo.watch=[base_model]"], "'base_model' cannot be watched; give module:function, or the folder"),
        (["ppo.watch=[gold]", "ppo.reward={./gold: 1}"], "ppo.watch: 'gold' takes part in training"),
        (["eval.unseen_judges=[gold]", "reward.model=gold"], "eval.unseen_judges: 'gold' takes part in training"),
        (["ppo.watch=['mine:asks', 'theirs:asks']"], "two judges have the name 'asks' in metrics"),
        (["ppo.watch=['mine:paid']", "ppo.reward={'mine:paid': 1}"], "ppo.watch: 'mine:paid' takes part in training"),
        (["ppo.watch=['mine:asks']", "judge=mine:asks"], "ppo.watch: 'mine:asks' takes part in training"),
        (["ppo.stop_on={'mine:asks': 0.1}"], "'mine:asks' is not measured; add it to ppo.watch"),
        (["ppo.watch=['mine:asks']", "ppo.stop_on={'mine:asks': 0}"], "a fall must be above 0"),
        (
            ["ppo.watch=['mine:asks']", "ppo.stop_on={'mine:asks': 0.1}", "eval.unseen_judges=['mine:asks']"],
            "eval.unseen_judges: 'mine:asks' takes part in training, by judge, reward.model, ppo.reward or ppo.stop_on",
        ),
    ],
)
def test_a_watched_judge_teaches_nothing_and_one_that_stops_training_is_not_unseen(
    overrides: list[str], what: str
) -> None:
    with pytest.raises(InputError, match=what):
        load_lm_config("tiny", overrides)


def test_a_judge_may_be_watched_and_unseen() -> None:
    config = load_lm_config("tiny", ["ppo.watch=['mine:asks', gold]", "eval.unseen_judges=['mine:asks', gold]"])
    assert config.ppo.stop_on == {}


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"judge": ""}, "reward.num_rounds=1 needs a judge of new pairs"),
        ({"ppo": {"reward": {"mine:calm": 1.0}}}, "ppo.reward does not use reward_model"),
        ({"lora": {"rank": 4, "shared_backbone": True}}, "set lora.shared_backbone=false"),
    ],
)
def test_rounds_without_what_they_need_are_refused(changed: dict[str, object], what: str) -> None:
    tree = {"judge": "person", "reward": {"num_rounds": 1}}
    assert LmConfig.model_validate(tree).reward.num_rounds == 1
    with pytest.raises(ValueError, match=what):
        LmConfig.model_validate(tree | changed)
